"""Comparisons of many runs: arms, recipes of the source experiment, grids over seeds, tuning."""
