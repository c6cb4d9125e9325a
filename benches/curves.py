"""The growth of cost: over d_sae (4k to 1M), batch, L0 and fraction; and whole steps at 65k and 1M.

`python benches/curves.py` takes about two minutes and needs 8 GB; `--draw FILE` draws the figure
of the last results and measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import (
    Rival,
    Row,
    growth,
    growth_alone,
    interleave,
    keep_memory,
    parser,
    show,
    write,
)
from workload import QUICK, REFERENCE, Size, activations, decoder

# isort: split
import torch
from pairs import codes_of
from penalty import one_loss
from step import fresh

from topk_ortho import OrthogonalityPenalty, PairSelector
from topk_ortho.training.step import train_step

SELECTION, TORCH, PENALTY = "selection", "selection, torch alone", "penalty"
PAIRS = 40_960
NARROW = 64  # d_in where a million rows have to fit
LARGE = (65_536, 1_048_576)
SWEEPS = {
    "d_sae": (4096, 16_384, 65_536, 262_144, 1_048_576),
    "batch": (256, 1024, 4096),
    "l0": (8, 16, 32, 64, 128),
    "fraction": (0.0001, 0.0003, 0.001, 0.003, 0.005),
}
QUICK_SWEEPS = {
    "d_sae": (512, 1024),
    "batch": (32, 64),
    "l0": (4, 8),
    "fraction": (0.001, 0.005),
}
LABELS = {
    "d_sae": f"features (k {PAIRS:,}, penalty at d_in {NARROW})",
    "batch": "batch (k = 0.1 % of pairs)",
    "l0": "L0 (k = 0.1 % of pairs)",
    "fraction": "fraction of all pairs",
}


def point(axis: str, value: float, base: Size) -> tuple[Size, int]:
    """Size and k of one point of a sweep."""
    if axis == "fraction":
        return base, base.k(value)
    size = replace(base, **{axis: int(value)})
    if axis == "d_sae":
        return replace(size, d_in=min(size.d_in, NARROW)), min(PAIRS, size.k(0.1))
    return size, size.k()


def selection(size: Size, k: int, backend: str) -> Callable[[], object]:
    """One selection of k pairs."""
    codes = codes_of(size)
    selector = PairSelector("coactivation", per_feature=k / size.d_sae, backend=backend)
    return lambda: selector(codes)


def sweep(axis: str, values: tuple[float, ...], base: Size, *, rounds: int) -> list[Row]:
    """One row per way and point."""
    rivals, at = [], []
    for value in values:
        size, k = point(axis, value, base)
        ways = {SELECTION: selection(size, k, "auto"), TORCH: selection(size, k, "torch")}
        if axis in ("d_sae", "fraction"):  # it sees pairs and rows, neither batch nor L0
            ways[PENALTY] = one_loss(size, k)
        for name, call in ways.items():
            few = min(rounds, 2) if name == TORCH else rounds
            rivals.append(Rival(f"{name}, {axis} {value:,}", call, threads=1, rounds=few))
            at.append({"way": name, "value": value, "k": k})
    rows = interleave(rivals, rounds=rounds, warmup=1)
    return [r | more for r, more in zip(rows, at, strict=True)]


def large(d_sae: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A whole training step at d_in 64 and batch 256; and its selection and penalty alone."""
    size = Size(d_sae=d_sae, d_in=NARROW, batch=256)
    batches = activations(size, batches=2)
    state = fresh("per-feature", size, batches, "cpu")
    codes, rate = codes_of(size), torch.rand(d_sae)
    selector = PairSelector("coactivation", per_feature=2.5)
    penalty = OrthogonalityPenalty(0.1)
    W_dec = decoder(size).requires_grad_()

    def pairs() -> None:
        W_dec.grad = None
        penalty(W_dec, selector(codes), firing_rate=rate).backward()

    return lambda: train_step(state, batches[state.step % 2]), pairs


def memory(d_sae: int) -> int:
    """Bytes of selection and penalty, forward and backward, beyond the gradient itself."""
    pairs = large(d_sae)[1]
    small = large(512)[1]
    small()
    return max(0, growth(pairs) - d_sae * NARROW * 4)


def large_steps(sizes: tuple[int, ...], *, rounds: int, measured: bool) -> list[Row]:
    """One row for the step and one for the pair work, per size."""
    out = []
    for d_sae in sizes:
        step, pairs = large(d_sae)
        rows = interleave(
            [Rival(f"step, {d_sae:,} features", step),
             Rival(f"selection + penalty, {d_sae:,} features", pairs)],
            rounds=min(rounds, 3),
            warmup=1,
        )  # fmt: skip
        if measured:
            rows[1]["extra_mb"] = growth_alone("curves.py", str(d_sae))
        out += [r | {"d_sae": d_sae} for r in rows]
    return out


def draw(record: dict[str, Any], path: Path) -> None:
    """The figure of `docs/performance.md`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "cost", "svg.fonttype": "none", "font.size": 9}
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(1, 4, figsize=(12, 2.9), sharey=True, layout="constrained")
    for panel, axis in zip(axes, SWEEPS, strict=True):
        for way, x, y in curves(record["sections"][axis]):
            panel.plot(x, y, marker="o", markersize=3, label=way)
        panel.set(xscale="log", yscale="log", xlabel=LABELS[axis])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("ms, one thread")
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def curves(rows: list[Row]) -> Iterator[tuple[str, list[float], list[float]]]:
    """`(way, values, median ms)` of one sweep."""
    for way in (SELECTION, TORCH, PENALTY):
        mine = [r for r in rows if r["way"] == way]
        if mine:
            yield way, [r["value"] for r in mine], [r["ms"] for r in mine]


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--draw", type=Path, help="draw the figure of the last results")
    arguments = options.parse_args(argv)
    if arguments.memory:
        print(memory(int(arguments.memory)))
        return
    if arguments.draw:
        draw(json.loads((arguments.out / "curves.json").read_text()), arguments.draw)
        return
    quick = arguments.quick
    if not quick:
        keep_memory("curves.py")
    rounds = 2 if quick else 5
    base = QUICK if quick else REFERENCE
    sections = {
        axis: sweep(axis, values, base, rounds=rounds)
        for axis, values in (QUICK_SWEEPS if quick else SWEEPS).items()
    }
    sizes = (1024,) if quick else LARGE
    sections["large"] = large_steps(sizes, rounds=rounds, measured=not quick)
    for title, rows in sections.items():
        show(title, rows)
    write("curves", arguments, facts={"size": vars(base), "d_in": NARROW}, sections=sections)


if __name__ == "__main__":
    main()
