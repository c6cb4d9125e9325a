"""One page that holds everything a page can hold, made once for all tests that look at it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.folders import BETTER, FIGURES, HOSTILE, ablation, log, run_folder
from topk_ortho.report.write import write_report

FEATURES = {
    "rows": 100,
    "fired": [1, 0, 100, 50],
    "encoder_norm": [1.0, 0.25, 1.5, 1.125],
    "neighbour": [1, 0, 3, 2],
    "cosine": [0.25, 0.25, 0.125, 0.75],
    "true_feature": [0, 3, 1, 1],
    "true_cosine": [0.9, 0.1, 0.95, 0.5],
    "cosines": {"edges": [-1.0, -0.5, 0.0, 0.5, 1.0], "pairs": [0, 2, 3, 1]},
}
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
    for folder in (root / name for name in ("none", "constant", "linear", "half")):
        (folder / "features.json").write_text(json.dumps(FEATURES))
    return write_report([root], root / "out", history=lambda folder: HISTORY)
