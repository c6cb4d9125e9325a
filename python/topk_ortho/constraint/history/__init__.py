"""What is remembered of the chosen pairs: index tensors in, records out, off the step's path."""

from topk_ortho.constraint.history.history import PairHistory, TopPairs
from topk_ortho.constraint.history.recorder import HistoryRecorder

__all__ = ["HistoryRecorder", "PairHistory", "TopPairs"]
