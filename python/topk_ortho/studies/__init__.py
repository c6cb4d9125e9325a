"""Comparisons: settings with ground truth, arms, the documents' recipes, paired seeds, bars."""
