"""A stored history as the plain numbers that a report shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from topk_ortho.constraint.history import PairHistory
from topk_ortho.constraint.history.figures import BINS, history_figures


def test_what_a_history_holds(tmp_path: Path) -> None:
    history = PairHistory(capacity=100, decay=0.5)
    always = (np.array([0, 0]), np.array([1, 2]))
    for step in range(8):
        history.observe(step, always[0], always[1])
    history.observe(8, np.array([0]), np.array([1]))
    (tmp_path / "history.bin").write_bytes(history.to_bytes())
    figures = history_figures(tmp_path)
    assert figures is not None
    assert figures["observations"] == 9
    assert figures["remembered"] == sum(figures["ema"]) == 2
    assert len(figures["ema"]) == BINS
    # 1 - .5^9 = .998 is in the last bin, half of 1 - .5^8 = .498 below the middle
    assert [n for n, count in enumerate(figures["ema"]) if count] == [BINS // 2 - 1, BINS - 1]
    assert figures["top"][0][:2] == [0, 1]
    assert figures["top"][0][4] == 9
    assert figures["hubs"] == [[0, 1], [1, 1]]
    kept, anchored = figures["survival"][1]
    assert 0 < kept < anchored


def test_no_history_or_a_damaged_one_is_none(tmp_path: Path) -> None:
    assert history_figures(tmp_path) is None
    (tmp_path / "history.bin").write_bytes(b"nothing of the kind")
    assert history_figures(tmp_path) is None
