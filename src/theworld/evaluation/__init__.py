"""Evaluation: predictions of a checkpoint, scores, and a report on whether the world helps."""
