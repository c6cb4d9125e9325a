"""The history of the chosen pairs: index tensors in, records out, outside the step's own time."""

from topk_ortho.constraint.history.history import PairHistory, TopPairs
from topk_ortho.constraint.history.recorder import HistoryRecorder

__all__ = ["HistoryRecorder", "PairHistory", "TopPairs"]
