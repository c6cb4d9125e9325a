"""The health gate: whether the absorption metrics of a result may be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from topk_ortho.metrics.health import gate, health, is_absorption, loud
from topk_ortho.metrics.reconstruction import Reconstruction


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"explained_variance": 0.5}, None),
        ({"explained_variance": 0.9, "ce_score": 0.9}, None),
        ({"explained_variance": 0.9, "ce_score": None}, None),
        ({"explained_variance": 0.4999}, "explained variance 0.500 is below 0.5"),
        ({"explained_variance": -3.0}, "explained variance -3.000 is below 0.5"),
        ({"explained_variance": float("nan")}, "explained variance nan is below 0.5"),
        ({"explained_variance": 0.9, "ce_score": 0.27}, "CE score 0.270 is below 0.9"),
        ({"explained_variance": None}, "explained variance was not measured"),
        ({}, "explained variance was not measured"),
        (
            {"explained_variance": 0.1, "ce_score": 0.2},
            "explained variance 0.100 is below 0.5 and CE score 0.200 is below 0.9",
        ),
    ],
)
def test_health(result: dict, reason: str | None) -> None:
    assert health(result) == reason


@pytest.mark.fault("metric that is unavailable")
@pytest.mark.parametrize("value", ["0.9", [], {}, True, 10**400], ids=lambda v: repr(v)[:8])
def test_what_is_no_number_was_not_measured(value: Any) -> None:
    assert health({"explained_variance": value}) == "explained variance was not measured"
    assert health({"explained_variance": 0.9, "ce_score": value}) is None


def test_the_gate_names_the_metrics_that_mean_nothing() -> None:
    metrics = {"absorption_rate": 0.0, "excess": None, "mcc": 0.1, "explained_variance": 0.2}
    found = gate(metrics)
    assert (found["healthy"], found["invalid"]) == (False, ["absorption_rate"])
    assert found["reason"] == health(metrics)
    assert found["limits"] == {"explained_variance": 0.5, "ce_score": 0.9}
    assert gate(metrics | {"explained_variance": 0.9})["invalid"] == []


@pytest.mark.parametrize(
    ("name", "needs"),
    [("absorption_rate", True), ("absorption_rate_fired", True), ("excess", True),
     ("mcc", False), ("explained_variance", False)],
)  # fmt: skip
def test_which_metrics_need_the_gate(name: str, needs: bool) -> None:
    assert is_absorption(name) is needs


def test_few_rows_that_make_most_of_the_variance_are_told_of() -> None:
    """One loud row is enough, in an SAE that is healthy on the others."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=rng)
    x[5] *= 100
    meter = Reconstruction(8, 4)
    meter.update(x, x * 0.9, torch.ones(64, 4))
    figures = meter.result()
    assert health(figures) is None
    said = loud(figures)
    assert said is not None and "of the variance" in said and "without them" in said
    assert "--max-norm" in said
    x[5] /= 100
    quiet = Reconstruction(8, 4)
    quiet.update(x, x * 0.9, torch.ones(64, 4))
    assert loud(quiet.result()) is None
    for figure in (None, "no number", float("nan")):
        assert loud({"variance_share_top_rows": figure}) is None
