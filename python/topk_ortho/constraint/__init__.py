"""The method: which pairs, what they cost, what is remembered of them. Knows no trainer."""
