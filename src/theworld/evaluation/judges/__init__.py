"""A language model's opinion of the answers: a column beside the rules, never in their place."""
