"""What the loudest rows hold is in the log, in the manifest, in the result and in the health."""

from __future__ import annotations

import json

import pytest
import torch

from tests.system.tiny_run import events, tiny
from topk_ortho import cli
from topk_ortho.metrics.health import health
from topk_ortho.training import train

SHARES = ("variance_share_top_rows", "score_share_top_rows")


def test_a_run_says_what_its_loudest_rows_hold(tmp_path):
    train(tiny("--steps", "20", "--log-every", "10"), tmp_path / "run", progress=False)
    logged = events(tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for found in (*logged, result):
        assert all(0 < found[name] < 0.5 for name in SHARES)
    assert result["explained_variance_quiet_rows"] == pytest.approx(
        result["explained_variance"], abs=0.05
    )
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert 0 < manifest["loud_rows"]["variance_share"] < 0.1


def test_an_sae_that_is_good_on_loud_rows_alone_is_not_healthy():
    good = {"explained_variance": 0.99, "explained_variance_quiet_rows": 0.9}
    assert health(good) is None
    assert health({"explained_variance": 0.99}) is None  # of an earlier version
    said = health(good | {"explained_variance_quiet_rows": 0.1})
    assert said == ("explained variance 0.100 without the loudest 1 % of the rows is below 0.5")


@pytest.mark.fault("massive activations")
def test_the_doctor_calls_massive_activations_a_problem(tmp_path, capsys):
    import numpy as np

    x = torch.randn(4000, 24, generator=torch.Generator().manual_seed(0))
    data = ["doctor", "--activations", "files", "--data", str(tmp_path)]
    np.save(tmp_path / "a.npy", x.numpy())
    assert cli.main(data) == 0
    assert "rows: the loudest 1 % of 3,200 rows hold 2% of the variance" in capsys.readouterr().out
    x[::128] *= 300
    np.save(tmp_path / "a.npy", x.numpy())
    cli.main(data)
    assert "problem: the loudest 1 % of 3,200 rows hold 100% of" in capsys.readouterr().out
