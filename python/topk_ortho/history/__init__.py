"""What is remembered of the chosen pairs: index tensors in, records out, off the step's path."""

from topk_ortho.history.history import PairHistory, TopPairs
from topk_ortho.history.recorder import HistoryRecorder

__all__ = ["HistoryRecorder", "PairHistory", "TopPairs"]
