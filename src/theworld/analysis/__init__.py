"""Figures and tables about a model: rollouts, attention, alignment, cost."""
