"""Scores of pairs: what a criterion ranks by, and what it has to look at for that."""
