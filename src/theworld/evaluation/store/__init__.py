"""Predictions on disk, and checks that refuse unusable ones."""
