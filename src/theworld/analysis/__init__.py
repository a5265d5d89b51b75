"""Features -> figures."""
