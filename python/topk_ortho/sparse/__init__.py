"""A batch of codes by its active entries, and products with it."""
