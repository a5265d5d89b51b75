"""Leaves: logging, optional imports, atomic files, seeds and the environment. Nothing here imports the rest."""
