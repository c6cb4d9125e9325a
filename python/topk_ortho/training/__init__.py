"""State (what must survive a restart), step (the method), loop (when), run (where)."""

from topk_ortho.machine.interrupt import Interrupted
from topk_ortho.training.run import resume, train

train_sae = train
"""The name at the top of the package, where `train` is a module too."""

__all__ = ["Interrupted", "resume", "train", "train_sae"]
