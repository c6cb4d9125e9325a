"""On a real GPU: what the pretended one promised, and what it cannot show (`make gpu`)."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests.cuda.test_without_a_gpu import evidence, run_steps
from tests.system.tiny_run import tiny
from topk_ortho import OrthogonalityPenalty, PairSelector
from topk_ortho.constraint.criteria import CRITERIA
from topk_ortho.training import train
from topk_ortho.training.memory import forecast
from topk_ortho.training.step import train_step

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
WAITS = 40  # of a step; the exact list is in test_without_a_gpu.py


@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_a_selection_is_that_on_cpu(criterion: str) -> None:
    acts, given = evidence()
    select = PairSelector(criterion, per_feature=0.5, min_support=1, given=(9, 3, 5, 7))
    given = {name: tensor for name, tensor in given.items() if name in select.required_inputs}
    expected = select(acts, **given)
    got = select(acts.to(GPU), **{name: tensor.to(GPU) for name, tensor in given.items()})
    for name in ("i", "j", "score"):
        assert torch.equal(getattr(got, name).cpu(), getattr(expected, name)), name


def test_a_selection_is_the_same_on_every_run() -> None:
    acts = torch.rand(512, 2048, generator=torch.Generator().manual_seed(0)).to(GPU)
    acts = acts * (acts > 0.99)
    first = PairSelector("coactivation")(acts)
    for _ in range(5):
        again = PairSelector("coactivation")(acts)
        assert torch.equal(again.i, first.i) and torch.equal(again.score, first.score)


def test_a_penalty_is_that_on_cpu() -> None:
    acts, given = evidence()
    selection = PairSelector("coactivation", per_feature=0.5)(acts)
    there = PairSelector("coactivation", per_feature=0.5)(acts.to(GPU))
    rows, rows_there = (
        torch.nn.Parameter(given["W_dec"].to(device)) for device in (torch.device("cpu"), GPU)
    )
    penalty = OrthogonalityPenalty("mean-std", gradient="symmetric")
    value, value_there = penalty(rows, selection), penalty(rows_there, there)
    value.backward()
    value_there.backward()
    torch.testing.assert_close(value_there.cpu(), value)
    torch.testing.assert_close(rows_there.grad.cpu(), rows.grad)


def test_a_step_waits_no_more_than_was_counted() -> None:
    state, _ = run_steps(GPU)
    batch = state.buffer.next().to(GPU)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_step(state, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waited = [w for w in caught if "synchronizing" in str(w.message)]
    assert len(waited) <= WAITS, "\n".join(str(w.message) for w in waited)


def test_a_run_trains_resumes_and_profiles(tmp_path: Path) -> None:
    result = train(tiny("--device", "cuda"), tmp_path / "run", profile=8, progress=False)
    assert result["steps"] == 60 and result["explained_variance"] > 0
    assert (tmp_path / "run" / "trace.json.gz").exists()


def test_the_forecast_is_within_20_percent(tmp_path: Path) -> None:
    config = tiny("--device", "cuda", "--sae.d-sae", "65536", "--batch-size", "1024",
                  "--synthetic.d-in", "256", "--steps", "8")  # fmt: skip
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train(config, tmp_path / "run", progress=False)
    measured = torch.cuda.max_memory_allocated() - before
    expected = forecast(config, d_in=256, device="cuda").peak("device")
    assert 0.8 < expected / measured < 1.2, (expected, measured)


def test_memory_that_runs_out_is_tried_again_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    acts, _ = evidence()
    expected = PairSelector("coactivation", backend="torch")(acts)
    from topk_ortho.constraint.selection import paths

    real = paths.coactive

    def scarce(name, e, k, **how):
        if e.memory_budget > 2**24:
            torch.empty(2**50, dtype=torch.uint8, device=GPU)
        return real(name, e, k, **how)

    monkeypatch.setattr(paths, "coactive", scarce)
    select = PairSelector("coactivation")
    got = select(acts.to(GPU))
    assert select.memory_budget == 2**24 and torch.equal(got.i.cpu(), expected.i)
