"""State (what must survive a restart), step (the method), loop (when), run (where)."""

from topk_ortho.machine.interrupt import Interrupted
from topk_ortho.training.run import resume, train

__all__ = ["Interrupted", "resume", "train"]
