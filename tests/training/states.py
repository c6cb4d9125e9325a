"""A training state on a small batch of known data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.activations import Activations
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.config.rules import check
from topk_ortho.config.toml import from_table
from topk_ortho.training.state import TrainState

D_IN, D_SAE, BATCH = 12, 24, 32


@dataclass
class Gaussian:
    """Endless Gaussian blocks."""

    d_in: int = D_IN
    truth: GroundTruth | None = None

    def n_blocks(self, split: Split) -> None:
        return None

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of block {index}"

    def block(self, index: int, split: Split) -> Block:
        generator = torch.Generator().manual_seed(2 * index + (split == "eval"))
        return Block(torch.randn(256, self.d_in, generator=generator), None)


def state(**table: object) -> TrainState:
    """A fresh state; `table` as in a configuration file."""
    defaults = {
        "steps": 100,
        "batch_size": BATCH,
        "buffer_rows": 256,
        "warmup_steps": 0,
        "sae": {"d_sae": D_SAE, "k": 4.0},
    }
    for name, value in table.items():
        merged = {**defaults.get(name, {}), **value} if isinstance(value, dict) else value
        defaults[name] = merged
    config = check(from_table(defaults))
    data = Activations(Gaussian(), scale=1.0, variance=float(D_IN), mean=torch.zeros(D_IN))
    return TrainState.fresh(config, data, torch.device("cpu"))


def weights(state: TrainState) -> dict[str, Tensor]:
    """Copies of the SAE's parameters."""
    return {name: p.detach().clone() for name, p in state.sae.named_parameters()}
