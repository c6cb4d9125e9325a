"""Which pairs: criteria, exact selection, memory budget.

`selector.py` is the way in. It hands a batch's `evidence.py` to one of `paths.py`: pairs that fire
together, from the codes (`coactive.py`, scored by `criteria.py`); all pairs, tile by tile
(`tiles.py`); products of one value per feature; the nearest in random chunks (`ortsae.py`); or
random ones (`uniform.py`, `matched.py`). `topk.py` keeps the best k.
"""

from topk_ortho.constraint.selection.selection import PairSelection
from topk_ortho.constraint.selection.selector import PairSelector

__all__ = ["PairSelection", "PairSelector"]
