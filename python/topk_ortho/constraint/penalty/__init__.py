"""What a pair costs: threshold policies and the penalty on overlapping decoder rows.

Receives index tensors and knows no selector, so that any choice of pairs can be penalised.
"""

from topk_ortho.constraint.penalty.orthogonality import OrthogonalityPenalty

__all__ = ["OrthogonalityPenalty"]
