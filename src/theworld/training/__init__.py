"""Batches to checkpoints: the config of a run, its stages, the trainer."""
