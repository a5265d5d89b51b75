"""Questions -> predictions: arms, prompts, world tokens, and two ways to score."""
