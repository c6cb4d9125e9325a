"""TopK's loss of explained variance, by how many true features are on at once.

A TopK code has k entries on every row, however many true features are on. An oracle that knows the
true directions, the true support and the best magnitudes has no more than that either, so that what
it loses is the price of the budget and not of any training.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations import prepare
from topk_ortho.config import TrainConfig
from topk_ortho.config.toml import read_stored_config
from topk_ortho.formats.load import load_sae
from topk_ortho.report.markdown import table
from topk_ortho.report.typeset import number, percent
from topk_ortho.training.evaluation import eval_blocks

NONE, DEFAULT = "none", "default"
SHOWN = (NONE, DEFAULT)
"""Arms, at the package's own coefficient whatever tuning took; tuning has tried these runs."""
ORACLE = "oracle"
STEPS = (-2, 0, 2, 4)
"""Ends of the groups, from k."""
RIDGE = 1e-4
"""Added to the Gram matrices of true directions, which may be close to singular."""


@dataclass(frozen=True)
class Sums:
    """Squared errors `[groups]` by who reconstructs, the squares they are held against, rows."""

    error: dict[str, Tensor]
    total: Tensor
    rows: Tensor

    def explained(self, name: str) -> list[float]:
        """Explained variance of each group and, last, of all rows."""
        error, total = self.error[name], self.total
        shares = 1 - torch.cat([error / total, (error.sum() / total.sum())[None]])
        return shares.tolist()


def oracle(x: Tensor, fired: Tensor, directions: Tensor, k: int) -> Tensor:
    """`[rows, d_in]`: the best that k of the true features that are on can do.

    Magnitudes are those of least squares; the k largest are kept and fitted again.

    Args:
        x: `[rows, d_in]`.
        fired: `[rows, n_true]` bool.
        directions: `[n_true, d_in]`.
    """
    n = max(k, int(fired.sum(1).max()))
    on, index = fired.to(torch.int8).topk(n, dim=1)
    chosen = directions.double()[index] * on[..., None]  # [rows, n, d_in]
    magnitude = _fit(chosen, x)
    keep = magnitude.abs().topk(min(k, n), dim=1).indices
    chosen = chosen.gather(1, keep[..., None].expand(-1, -1, chosen.shape[2]))
    return (_fit(chosen, x)[:, None] @ chosen).squeeze(1).to(x.dtype)


def _fit(chosen: Tensor, x: Tensor) -> Tensor:
    """`[rows, n]` least squares of `x` on each row's directions `[rows, n, d_in]`."""
    gram = chosen @ chosen.mT + RIDGE * torch.eye(chosen.shape[1], dtype=chosen.dtype)
    return torch.linalg.solve(gram, (chosen @ x.to(chosen.dtype)[..., None]).squeeze(-1))


def groups(k: int) -> list[str]:
    """Names of the groups of rows, by the number of true features on."""
    ends = [k + step for step in STEPS]
    between = [f"{a + 1} to {b}" for a, b in itertools.pairwise(ends)]
    return [f"up to {ends[0]}", *between, f"{ends[-1] + 1} or more"]


@torch.no_grad()
def measure(folders: dict[str, Path]) -> Sums:
    """One seed: the trained SAEs by name, and the oracle, on their held-out rows."""
    config = read_stored_config(next(iter(folders.values())) / "config.toml")
    data, k = prepare(config), round(config.sae.k)
    assert data.source.truth is not None
    saes = {name: load_sae(folder) for name, folder in folders.items()}
    bounds = torch.tensor([k + step for step in STEPS])
    n = len(bounds) + 1
    error = {name: torch.zeros(n, dtype=torch.float64) for name in (*saes, ORACLE)}
    total, rows = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    for block in eval_blocks(data.source, config.eval_samples):
        assert block.fired is not None
        group = torch.bucketize(block.fired.sum(1), bounds)
        found = {name: sae.decode(sae.encode(block.x)) for name, sae in saes.items()}
        found[ORACLE] = oracle(block.x, block.fired, data.source.truth.directions, k)
        for name, x_hat in found.items():
            error[name].index_add_(0, group, (block.x - x_hat).double().pow(2).sum(1))
        total.index_add_(0, group, (block.x - data.mean).double().pow(2).sum(1))
        rows += group.bincount(minlength=n)
    return Sums(error, total, rows)


def _seeds(part: Path) -> Iterator[dict[str, Path]]:
    """The folders of finished runs, seed by seed, where all shown arms are there."""
    plan: dict[str, Any] = json.loads((part / "ablation.json").read_text(encoding="utf-8"))
    by_seed: dict[int, dict[str, Path]] = {}
    for run in [*plan.get("tuning", {}).get("runs", []), *plan["runs"]]:
        folder = part / run["folder"]
        if run["label"] not in SHOWN or not (folder / "result.json").exists():
            continue
        config = read_stored_config(folder / "config.toml")
        own = replace(config, penalty=replace(config.penalty, coefficient=None)).coefficient()
        if run["label"] == NONE or config.coefficient() == own:
            by_seed.setdefault(run["seed"], {})[run["label"]] = folder
    yield from (found for found in by_seed.values() if len(found) == len(SHOWN))


def crowding(part: Path) -> str:
    """The table, empty where no seed is finished."""
    measured = [measure(folders) for folders in _seeds(part)]
    if not measured:
        return ""
    k = round(_config(part).sae.k)
    share = torch.stack([m.rows / m.rows.sum() for m in measured]).mean(0).tolist()
    lines = [["share of the rows", *(percent(s) for s in share), percent(1.0)]]
    lines += [[name, *_means([m.explained(name) for m in measured])] for name in (*SHOWN, ORACLE)]
    coefficient = _config(part, DEFAULT).coefficient()
    head = (
        f"Explained variance by the number of true features on a row, means of {len(measured)} "
        f"seeds; default at coefficient {coefficient:g}:"
    )
    return f"{head}\n\n{table(['true features on', *groups(k), 'all'], lines)}"


def _means(columns: Sequence[Sequence[float]]) -> list[str]:
    return [number(sum(values) / len(values)) for values in zip(*columns, strict=True)]


def _config(part: Path, name: str = NONE) -> TrainConfig:
    return read_stored_config(next(_seeds(part))[name] / "config.toml")
