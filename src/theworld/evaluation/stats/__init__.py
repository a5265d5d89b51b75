"""Intervals, tests and comparisons of scores."""
