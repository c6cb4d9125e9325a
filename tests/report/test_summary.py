"""What a finished run prints, whichever of its metrics are unavailable."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from topk_ortho.report.summary import SHOWN, finish, verdict

FULL = {
    "criterion": "coactivation",
    "absorption_rate": 0.1,
    "excess": 0.02,
    "mcc": 0.8,
    "f1_parent": 0.9,
    "f1_child": 0.7,
    "explained_variance": 0.9,
    "l0": 8.0,
    "dead_features": 0.0,
    "seconds": 3.0,
    "step_ms": 2.0,
}
OPTIONAL = [name for name in {**FULL, **dict.fromkeys(SHOWN)} if name != "criterion"]

HOW = ("", "none", "missing")


def without(name: str, how: str) -> dict[str, object]:
    """The metrics, one of them None or missing."""
    kept = {key: value for key, value in FULL.items() if key != name}
    return kept | ({name: None} if how == "none" else {})


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize(("ours", "theirs"), list(itertools.product(HOW, repeat=2)))
def test_any_metric_may_be_unavailable_in_either_arm(
    name: str, ours: str, theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topk_ortho.report.summary.draw", lambda path: [])
    (tmp_path / "baseline").mkdir()
    for folder, how in ((tmp_path, ours), (tmp_path / "baseline", theirs)):
        result = without(name, how) if how else FULL
        (folder / "result.json").write_text(json.dumps(result))
    said = finish(tmp_path)
    assert said.splitlines()[0].startswith("arm") and "Cost: " in said
    assert said.endswith(f"run folder: {tmp_path}")


def test_what_is_known_of_the_cost_is_said() -> None:
    known = verdict(constrained=FULL | {"step_ms": 2.5}, baseline=FULL)
    assert "Cost: +25 % time per step, +0.0000 explained variance." in known
    unknown = verdict(constrained=FULL, baseline=FULL | {"step_ms": None})
    assert "Cost: unknown time per step, +0.0000 explained variance." in unknown
    nothing = verdict(constrained={"criterion": "random"}, baseline={})
    assert nothing == (
        "Cost: unknown time per step, unknown explained variance (one seed, no interval)."
    )
