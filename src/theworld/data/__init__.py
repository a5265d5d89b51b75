"""Rows to batches: sources of examples, the images they name, and the collator that makes every label."""
