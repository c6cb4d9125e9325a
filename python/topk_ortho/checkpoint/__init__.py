"""Training state and trained dictionaries on disk: safetensors and JSON, each whole or absent.

`store` keeps checkpoints, verified by size and sha256; `formats` reads and writes a trained SAE in
the layouts of SAELens, sparsify and dictionary_learning; `atomic` makes directories appear in one
step.
Nothing is unpickled, but for the tensors of dictionary_learning's `ae.pt` where the user says so.
"""

from topk_ortho.checkpoint.store import Checkpoint, CheckpointError, load, newest, save

__all__ = ["Checkpoint", "CheckpointError", "load", "newest", "save"]
