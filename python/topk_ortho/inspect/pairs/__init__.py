"""The pairs that a run chose most persistently, and what their two features are."""

from topk_ortho.inspect.pairs.analysis import FeatureReport, PairAnalysis, PersistentPair, analyse
from topk_ortho.inspect.pairs.text import as_text

__all__ = ["FeatureReport", "PairAnalysis", "PersistentPair", "analyse", "as_text"]
