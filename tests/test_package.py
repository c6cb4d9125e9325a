"""The package as Python sees it: its names, one line for each of its objects, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import topk_ortho
from tests.conftest import environment
from tests.system.tiny_run import tiny
from topk_ortho import (
    AbsorptionMeter,
    ConfigError,
    Criterion,
    Orthogonality,
    OrthogonalityConfig,
    OrthogonalityPenalty,
    PairHistory,
    PairsConfig,
    PairSelector,
    SAEConfig,
    load_sae,
    train,
)
from topk_ortho.config.registry import CRITERIA
from topk_ortho.metrics.matching import match_by_labels
from topk_ortho.sae import build

ACTS = torch.relu(torch.randn(64, 40, generator=torch.Generator().manual_seed(0)))


def test_public_names_are_listed_without_being_loaded() -> None:
    code = (
        "import sys, topk_ortho, rlcompleter; names = dir(topk_ortho); print(*names); "
        "assert 'torch' not in sys.modules; import rlcompleter; "
        "print(rlcompleter.Completer({'t': topk_ortho}).attr_matches('t.Ortho'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    names, completed = done.stdout.splitlines()
    assert set(topk_ortho.__all__) <= set(names.split())
    assert "import_module" not in names and "TYPE_CHECKING" not in names
    assert all(name in completed for name in ("Orthogonality", "OrthogonalityPenalty"))


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(AttributeError, match=r"perhaps you meant Orthogonality\)"):
        topk_ortho.Ortogonality  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        topk_ortho.zzz  # noqa: B018
    assert not hasattr(topk_ortho, "__wrapped__")


def test_every_object_says_in_one_line_what_it_is() -> None:
    selection = PairSelector("coactivation", per_feature=2)(ACTS)
    pairs = PairsConfig(criterion="coactivation")
    constraint = Orthogonality(OrthogonalityConfig(pairs=pairs, variance=1.0))
    constraint(ACTS, torch.ones(40, 8), 0)
    history = PairHistory(capacity=1000)
    history.observe(0, selection.i, selection.j)
    on = ACTS[:, :2] > 0
    on[:, 0] |= on[:, 1]
    meter = AbsorptionMeter([(0, 1)], match_by_labels(ACTS, on))
    meter.update(ACTS, on)
    assert repr(selection).startswith("PairSelection(80 of 780 positive pairs, scores ")
    by_share = PairSelector("coactivation", fraction=0.1)
    assert [repr(each) for each in (by_share, PairSelector("ortsae"),
                                    OrthogonalityPenalty(0.1), OrthogonalityPenalty("mean-std"),
                                    constraint, history, meter)] == [
        "PairSelector('coactivation', fraction=0.1, fraction_of='all')",
        "PairSelector('ortsae')",
        "OrthogonalityPenalty('fixed', threshold=0.1, sign='positive', gradient='child-only', "
        "normalize_by='d-sae')",
        "OrthogonalityPenalty('mean-std', sign='positive', gradient='child-only', "
        "normalize_by='d-sae')",
        "Orthogonality('coactivation', coefficient=2, 100 pairs)",
        "PairHistory(80 of 1,000 entries, 1 observations, decay=0.99)",
        "AbsorptionMeter(1 edges, 64 tokens)",
    ]  # fmt: skip
    criterion: Criterion = CRITERIA["coactivation"]
    assert repr(criterion) == f"Criterion('coactivation': {criterion.line})"


@pytest.mark.parametrize(
    ("kind", "d_out", "shown"),
    [
        ("batch-topk", None, "BatchTopKSAE(d_in=64, d_sae=1024, k=16)"),
        ("relu", None, "ReLUSAE(d_in=64, d_sae=1024, k=16)"),
        ("topk", 32, "TopKSAE(d_in=64, d_out=32, d_sae=1024, k=16)"),
    ],
)
def test_an_sae_says_its_sizes(kind: str, d_out: int | None, shown: str) -> None:
    sae = build(SAEConfig(kind=kind, d_sae=1024, k=16), d_in=64, seed=0, d_out=d_out)
    assert repr(sae) == shown


def test_a_loaded_sae_is_in_eval_mode(tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run", progress=False)
    sae = load_sae(tmp_path / "run")
    assert not sae.training
    assert "k=4" in repr(sae)


def test_what_is_no_tensor_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match=r"acts of type ndarray were.*torch.from_numpy\(acts\)"):
        PairSelector()(ACTS.numpy())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"acts of type list were given.*torch.tensor\(acts\)"):
        Orthogonality()(ACTS.tolist(), torch.eye(40), 0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"of type dict was given, but TrainConfig\(...\) was"):
        train({"steps": 3})  # type: ignore[arg-type]


def test_a_threshold_has_one_name() -> None:
    with pytest.raises(ValueError, match=r"tau=0.05 and threshold=0.1 were both given"):
        OrthogonalityPenalty(0.05, threshold=0.1)
    assert OrthogonalityPenalty("stability", threshold=0.1).threshold == 0.1
    assert OrthogonalityPenalty(0.2).threshold == 0.2 and OrthogonalityPenalty().threshold == 0.05


@pytest.mark.parametrize("rates", [True, False])
def test_a_transposed_decoder_is_told_what_it_is(rates: bool) -> None:
    pairs = PairSelector(per_feature=10)(ACTS)
    W_dec = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 8)))
    penalty = OrthogonalityPenalty(gradient="child_only" if rates else "symmetric")
    rate = torch.rand(40) if rates else None
    with pytest.raises(ValueError, match=r"\[8, 40\] was given for 40 features.*pass W_dec.T"):
        penalty(W_dec.T, pairs, firing_rate=rate)
    with pytest.raises(ValueError, match=r"W_dec of shape \[40\] was given, but a decoder"):
        penalty(W_dec[:, 0], pairs, firing_rate=rate)
    assert penalty(W_dec, pairs, firing_rate=rate) > 0
