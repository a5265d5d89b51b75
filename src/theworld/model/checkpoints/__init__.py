"""Checkpoints: the weights that differ from the base models. Writes are atomic; reads check every key."""
