"""The constraint inside other people's trainers.

`orthogonality.py` is the penalty for any loop. `saelens.py`, `dictionary_learning.py` and
`sparsify.py` put it into the trainers of these packages, which are never imported here: they come
as the objects that the user already has. docs/drop-ins.md has an example of each. `hub.py` takes
SAEs to and from the Hugging Face hub, `saebench/` runs the published benchmark on one.
"""

from topk_ortho.constraint.orthogonality import Orthogonality
from topk_ortho.constraint.settings import OrthogonalityConfig

__all__ = ["Orthogonality", "OrthogonalityConfig"]
