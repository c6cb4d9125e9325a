"""Known hierarchies planted in any activations, which gives ground truth on real ones."""

from __future__ import annotations

import torch

from topk_ortho.activations.hierarchy import build_hierarchy, stream_seed
from topk_ortho.activations.source import Block, GroundTruth, Source, Split
from topk_ortho.config import PlantConfig


class PlantedSource:
    """A source with the features of a known hierarchy added on top.

    Args:
        source: activations without ground truth.
        config: what to plant.
        variance: total variance of `source`; magnitudes count in its square root.
        seed: of directions and firing, unless the configuration has one.
    """

    def __init__(self, source: Source, config: PlantConfig, *, variance: float, seed: int):
        self.source = source
        self.d_in = source.d_in
        self.seed = seed if config.seed is None else config.seed
        magnitude = config.magnitude * variance**0.5
        self.hierarchy = build_hierarchy(
            d_in=source.d_in,
            roots=config.roots,
            children=config.children,
            root_rates=(config.rate_high, config.rate_low),
            child_probability=config.child_probability,
            sibling_exponent=config.sibling_exponent,
            parent_child_cosine=config.parent_child_cosine,
            magnitude_mean=magnitude,
            magnitude_std=config.magnitude_std * magnitude,
            seed=stream_seed(self.seed, 10),
        )
        self.truth: GroundTruth | None = self.hierarchy.truth

    def n_blocks(self, split: Split) -> int | None:
        return self.source.n_blocks(split)

    def where(self, index: int, split: Split, row: int) -> str:
        return self.source.where(index, split, row)

    def block(self, index: int, split: Split) -> Block:
        block = self.source.block(index, split)
        generator = torch.Generator().manual_seed(
            stream_seed(self.seed, 11 if split == "train" else 12, index)
        )
        fired, planted = self.hierarchy.sample(len(block.x), generator)
        return Block(block.x + planted, fired, block.target)
