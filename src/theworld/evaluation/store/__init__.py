"""Predictions on disk, and what is refused of them."""
