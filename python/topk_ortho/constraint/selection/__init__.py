"""The exact selection of pairs, by any criterion and within a memory budget.

`selector.py` is the way in. It hands a batch's inputs to the path of the criterion's form
(`paths.py`): pairs that fire together, from the codes (`coactive.py`); all pairs, tile by tile
(`tiles.py`); products of one value per feature; or pairs that the criterion draws. `topk.py` keeps
the best k.
"""

from topk_ortho.constraint.selection.selection import PairSelection
from topk_ortho.constraint.selection.selector import PairSelector

__all__ = ["PairSelection", "PairSelector"]
