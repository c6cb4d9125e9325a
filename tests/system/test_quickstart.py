"""The quickstart shows what the package claims, on one seed, with margins for other machines."""

from __future__ import annotations

import pytest

from topk_ortho.commands.reader import parse
from topk_ortho.training import train


@pytest.mark.parametrize("preset", [pytest.param("forest-240", marks=pytest.mark.slow)])
def test_absorption_falls_and_nothing_else_does(preset: str, tmp_path) -> None:
    config = parse(["--synthetic.preset", preset, "--with-baseline"]).settings
    constrained = train(config, tmp_path / "run", progress=False)
    plain = constrained["baseline"]
    for arm in (constrained, plain):
        assert arm["l0"] == pytest.approx(config.sae.k, rel=0.03)
        assert arm["explained_variance"] > 0.85
    assert constrained["absorption_rate"] < 0.3 < plain["absorption_rate"]
    assert constrained["excess"] < 0.5 * plain["excess"]
    assert constrained["f1_parent"] > plain["f1_parent"] + 0.2
    assert constrained["f1_child"] > plain["f1_child"]
    assert constrained["mcc"] > plain["mcc"]
    assert constrained["explained_variance"] > plain["explained_variance"] - 0.005
