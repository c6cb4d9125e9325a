"""Comparisons of arms: settings with ground truth, paired seeds, and the bars they are held to."""
