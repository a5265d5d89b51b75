"""Questions -> predictions: arms, prompts, world tokens, and two scorers."""
