"""One page that holds everything a page can hold, made once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.folders import BETTER, FIGURES, HOSTILE, ablation, log, run_folder
from topk_ortho.report.write import write_report

HISTORY = {
    "observations": 200,
    "ema": [10] * 20,
    "survival": {1: [5, 10], 2: [3, 9], 4: [0, 0]},
    "lifetimes": {"bins": [1, 2, 4, 8], "counts": [6, 3, 1, 0], "unknown": 0},
    "hubs": [[3, 7], [1, 2]],
    "top": [[1, 2, 0.9, 0.95, 100]],
}


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two comparisons that fill every section; long and hostile names, failures, one of each."""
    root = tmp_path_factory.mktemp("runs")
    values = {"fixed": BETTER, HOSTILE: {"l0": 9.0}, "w" * 60: {"excess": None}}
    ablation(root / "<b>grid</b>", values=values, seeds=(100, 101))
    for fraction, schedule in ((0.01, "constant"), (0.02, "linear")):
        lines = [line | {"pairs": 1000 * fraction} for line in log()]
        run_folder(root / schedule, lines=lines, figures=FIGURES | BETTER,
                   pairs={"fraction": fraction, "schedule": schedule})  # fmt: skip
    run_folder(root / "half", lines=[log()[-1] | {"pairs": 5}],
               pairs={"fraction": 0.005, "schedule": "constant"})  # fmt: skip
    run_folder(root / "none", criterion="none", figures=FIGURES | {"mcc": HOSTILE})
    return write_report([root], root / "out", history=lambda folder: HISTORY)
