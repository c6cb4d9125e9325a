"""The penalty on overlapping decoder rows, and the policies for its threshold.

Receives index tensors and knows no selector, so that any choice of pairs can be penalised.
"""

from topk_ortho.constraint.penalty.orthogonality import OrthogonalityPenalty

__all__ = ["OrthogonalityPenalty"]
