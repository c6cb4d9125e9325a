"""Tables and plots, redrawn from the files of a run; needs neither torch nor a GPU."""

from topk_ortho.metrics.health import health
from topk_ortho.report.plots import draw
from topk_ortho.report.summary import finish
from topk_ortho.report.table import comparison_table

__all__ = ["comparison_table", "draw", "finish", "health"]
