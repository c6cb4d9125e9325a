"""Absorption is shown only beside what makes it believable, and marked where it is not."""

from __future__ import annotations

import pytest

from topk_ortho.report import comparison_table

GOOD = {
    "absorption_rate": 0.1741,
    "excess": 0.03249,
    "mcc": 0.77,
    "explained_variance": 0.883,
    "l0": 8.0,
    "dead_features": 0.0,
    "seconds": 41.27,
    "hidden": 1.0,
}
POOR = GOOD | {"absorption_rate": 0.0067, "explained_variance": 0.3, "mcc": None}


def test_the_table_as_a_whole() -> None:
    table = comparison_table([("none", POOR), ("random", GOOD)])
    assert table.splitlines() == [
        "arm     absorption_rate  excess    mcc  explained_variance    l0  dead_features  seconds",
        "-" * 88,
        "none              0.007*  0.032*     -               0.300  8.00          0.000     41.3",
        "random            0.174   0.032  0.770               0.883  8.00          0.000     41.3",
        "* none: invalid, explained variance 0.300 is below 0.5",
    ]


def test_absorption_brings_its_gate_along() -> None:
    table = comparison_table([("a", GOOD)], ["absorption_rate"])
    for name in ("explained_variance", "l0", "dead_features"):
        assert name in table
    assert "explained_variance" not in comparison_table([("a", GOOD)], ["mcc"])


@pytest.mark.parametrize("name", ["absorption_rate_found", "excess", "partial", "decoder_leak"])
def test_every_absorption_figure_is_marked(name: str) -> None:
    assert "0.250*" in comparison_table([("a", {name: 0.25, "explained_variance": 0.1})], [name])
    assert "*" not in comparison_table([("a", {name: None, "explained_variance": 0.1})], [name])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("x", None, "-"), ("x", 3, "3"), ("x", 0.0, "0.000"), ("x", 1e-5, "1e-05"),
        ("x", 123456.0, "1.23e+05"), ("x", float("nan"), "-"), ("l0", 1234.5, "1234.50"),
        ("seconds", 0.04, "0.0"), ("x", "text", "text"),
    ],
)  # fmt: skip
def test_a_cell(name: str, value: object, text: str) -> None:
    assert comparison_table([("a", {name: value})], [name]).splitlines()[-1].split() == ["a", text]


def test_no_arms_give_a_header_alone() -> None:
    assert comparison_table([], ["mcc"]).splitlines()[0].split() == ["arm", "mcc"]
