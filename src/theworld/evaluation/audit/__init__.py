"""Overlaps of training and evaluation data."""
