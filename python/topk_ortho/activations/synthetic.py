"""Forest data: activations made of known directions, generated on the fly (method 6)."""

from __future__ import annotations

import dataclasses

import torch

from topk_ortho.activations.hierarchy import build_hierarchy, stream_seed
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.config import SyntheticConfig

PRESETS = {
    "forest-240": SyntheticConfig(
        d_in=96,
        roots=12,
        children=4,
        independent=180,
        root_rate_high=0.3,
        root_rate_low=0.05,
        independent_rate_high=0.12,
        independent_rate_low=0.003,
        child_probability=0.8,
        sibling_exponent=0.5,
        parent_child_cosine=0.0,
        magnitude_mean=1.0,
        magnitude_std=0.25,
        noise=0.03,
    ),
    "forest-256": SyntheticConfig(
        preset="forest-256",
        d_in=128,
        roots=32,
        children=5,
        independent=64,
        root_rate_high=0.15,
        root_rate_low=0.02,
        independent_rate_high=0.04,
        independent_rate_low=0.005,
        child_probability=0.8,
        sibling_exponent=0.5,
        parent_child_cosine=0.0,
        magnitude_mean=1.0,
        magnitude_std=0.25,
        noise=0.02,
    ),
}
BLOCK_ROWS = 4096


def resolve(config: SyntheticConfig) -> SyntheticConfig:
    """Returns the preset's numbers, with those given in their place."""
    given = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    return dataclasses.replace(PRESETS[config.preset], **given)


class SyntheticSource:
    """Endless blocks of forest data; a `Source` with ground truth."""

    def __init__(self, config: SyntheticConfig, *, seed: int):
        c = resolve(config)
        assert c.d_in
        assert c.roots is not None
        assert c.noise is not None
        self.seed = seed
        self.noise = c.noise
        self.d_in = c.d_in
        directions_seed = seed if c.directions_seed is None else c.directions_seed
        self.hierarchy = build_hierarchy(
            d_in=c.d_in,
            roots=c.roots,
            children=c.children or 0,
            root_rates=(c.root_rate_high or 0, c.root_rate_low or 0),
            independent=c.independent or 0,
            independent_rates=(c.independent_rate_high or 0, c.independent_rate_low or 0),
            child_probability=c.child_probability or 0.0,
            sibling_exponent=c.sibling_exponent or 0.0,
            parent_child_cosine=c.parent_child_cosine or 0.0,
            magnitude_mean=c.magnitude_mean or 0.0,
            magnitude_std=c.magnitude_std or 0.0,
            seed=stream_seed(directions_seed, 0),
        )
        self.truth: GroundTruth | None = self.hierarchy.truth

    def n_blocks(self, split: Split) -> None:
        return None

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of synthetic {split} block {index}"

    def block(self, index: int, split: Split) -> Block:
        generator = torch.Generator().manual_seed(
            stream_seed(self.seed, 1 if split == "train" else 2, index)
        )
        fired, x = self.hierarchy.sample(BLOCK_ROWS, generator)
        x += torch.randn(x.shape, generator=generator).mul_(self.noise)
        return Block(x, fired)
