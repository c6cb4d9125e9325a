"""Where `x` comes from: synthetic data, a language model, or files, behind one shuffling buffer."""

from topk_ortho.activations.buffer import ShuffleBuffer
from topk_ortho.activations.prepare import Activations, prepare
from topk_ortho.activations.source import Block, GroundTruth, Source

__all__ = ["Activations", "Block", "GroundTruth", "ShuffleBuffer", "Source", "prepare"]
