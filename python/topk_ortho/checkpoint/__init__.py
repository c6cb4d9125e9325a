"""Training state and trained dictionaries on disk: safetensors and JSON, each whole or absent.

`store` keeps checkpoints, verified by size and sha256; `saelens` writes and reads a trained SAE in
SAELens' layout; `atomic` makes directories appear in one step. Nothing here unpickles.
"""

from topk_ortho.checkpoint.store import Checkpoint, CheckpointError, load, newest, save

__all__ = ["Checkpoint", "CheckpointError", "load", "newest", "save"]
