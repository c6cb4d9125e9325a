"""The numbers that a report shows of a stored history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from topk_ortho.constraint.history.history import PairHistory

BINS = 20
TOP = 8


def stability_figures(history: PairHistory) -> dict[str, Any]:
    """Returns what a run stores about its selection's stability, beside the history (method 4).

    Returns:
        `observations`, `mean_jaccard` (from the second selection on), `survival` and `hubs` as in
        `history_figures`, and `lifetimes` of the streaks that have ended.
    """
    stability = history.stability()
    features, degrees = history.hubs(TOP)
    return {
        "observations": stability["observations"],
        "mean_jaccard": stability["mean_jaccard"],
        "survival": {lag: list(pair) for lag, pair in stability["survival"].items()},
        "lifetimes": dict(stability["lifetimes"]),
        "hubs": [list(hub) for hub in zip(features.tolist(), degrees.tolist(), strict=True)],
    }


def history_figures(run_folder: Path) -> dict[str, Any] | None:
    """Returns the history of a run in plain numbers; None where none can be read.

    Returns:
        `observations`; `remembered` pairs; `ema`, how many of them have a moving average (its lower
        end) in each of `BINS` equal bins from 0 to 1; `survival`, by lag in observations [pairs
        still selected, pairs anchored]; `hubs`, [feature, degree] in the latest selection; `top`,
        the most persistent pairs as [i, j, lower end, upper end, hits]; `lifetimes`, selections
        that the streaks lasted which have ended.
    """
    path = run_folder / "history.bin"
    try:
        history = PairHistory.from_bytes(path.read_bytes())
    except (OSError, ValueError):
        return None
    pairs = history.top(len(history))
    counts, _ = np.histogram(pairs.ema_low, bins=BINS, range=(0.0, 1.0))
    columns = (pairs.i, pairs.j, pairs.ema_low, pairs.ema_high, pairs.hits)
    return stability_figures(history) | {
        "remembered": len(history),
        "ema": counts.tolist(),
        "top": [list(row) for row in zip(*(c[:TOP].tolist() for c in columns), strict=True)],
    }
