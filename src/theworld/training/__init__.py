"""Training: the config of a run, its stages, and the trainer."""
