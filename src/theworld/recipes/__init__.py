"""Code that uses training, evaluation and analysis together: the nano recipe, its evidence, reports with rollouts."""
