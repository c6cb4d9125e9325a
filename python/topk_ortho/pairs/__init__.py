"""Which pairs: criteria, exact selection, memory budget.

`selector.py` is the way in: codes and weights go down to `coactive.py` (pairs that fire together,
from the codes), `tiles.py` (all pairs, from the weights) or `uniform.py` (the random control);
scores come from `criteria.py`, and `topk.py` keeps the best k.
"""

from topk_ortho.pairs.selection import PairSelection
from topk_ortho.pairs.selector import PairSelector

__all__ = ["PairSelection", "PairSelector"]
