"""Checkpoints: what differs from the base models, written whole or not at all, and read strictly."""
