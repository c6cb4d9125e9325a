"""Tools that look at one SAE or run: measure it, repair it, train it again."""
