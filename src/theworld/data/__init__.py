"""Data: sources of examples, their images, and the collator, which makes all labels."""
