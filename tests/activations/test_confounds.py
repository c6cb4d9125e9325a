"""Features without a hierarchy, added on top of activations."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.activations.confounds import (
    COSINE,
    EXCLUSIVE,
    GROUPS,
    LOUD_PAIRS,
    LOUDER,
    PAIRS,
    RARE_RATE,
    ConfoundedSource,
)
from topk_ortho.activations.source import Block, GroundTruth, Split


class Silent:
    """Blocks of zeros, with one known feature that never fires."""

    d_in = 64
    truth: GroundTruth | None = GroundTruth(torch.eye(64)[:1], torch.tensor([-1]))

    def n_blocks(self, split: Split) -> int | None:
        return None

    def where(self, index: int, split: Split, row: int) -> str:
        return ""

    def block(self, index: int, split: Split) -> Block:
        return Block(torch.zeros(8192, self.d_in), torch.zeros(8192, 1, dtype=torch.bool))


def confounded() -> tuple[ConfoundedSource, Tensor, Tensor]:
    source = ConfoundedSource(Silent(), magnitude=2.0, seed=3)
    block = source.block(0, "train")
    assert block.fired is not None
    return source, block.x, block.fired


def test_what_fires_adds_up_to_the_activations_and_is_known() -> None:
    source, x, fired = confounded()
    n = GROUPS * EXCLUSIVE + 2 * (PAIRS + LOUD_PAIRS)
    assert source.truth is not None
    assert source.truth.directions.shape == (1 + n, 64)
    assert (source.truth.parent == -1).all()
    assert fired.shape == (8192, 1 + n)
    assert not fired[:, 0].any()
    codes = torch.linalg.lstsq(source.directions.T, x.T).solution.T
    on = fired[:, 1:]
    assert codes[~on].abs().max() < 1e-3
    means = torch.stack([codes[on[:, f], f].mean() for f in range(n)]) / 2
    loud = torch.ones(n)
    loud[n - 2 * LOUD_PAIRS + 1 :: 2] = LOUDER
    assert torch.allclose(means, loud, rtol=0.1)
    rare = on[:, n - 2 * LOUD_PAIRS + 1 :: 2].float().mean()
    assert abs(float(rare) - RARE_RATE) < 0.003


def test_groups_overlap_and_exclude_each_other() -> None:
    source, _, fired = confounded()
    group = fired[:, 1 : 1 + EXCLUSIVE]
    assert int(group.sum(1).max()) == 1
    cosine = source.directions @ source.directions.T
    inside = cosine[:EXCLUSIVE, :EXCLUSIVE][~torch.eye(EXCLUSIVE, dtype=torch.bool)]
    assert abs(float(inside.mean()) - COSINE) < 0.15


def test_blocks_are_the_same_at_every_call() -> None:
    source, x, _ = confounded()
    assert torch.equal(x, source.block(0, "train").x)
    assert not torch.equal(x, source.block(0, "eval").x)
