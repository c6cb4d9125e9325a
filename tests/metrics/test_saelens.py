"""SAELens' figures, token by token as its source counts them."""

from __future__ import annotations

import pytest
import torch

from tests.metrics.test_behaviour import HOOK, Table
from topk_ortho.metrics.behaviour import behaviour
from topk_ortho.metrics.reconstruction import Reconstruction
from topk_ortho.metrics.saelens import RunEvalsLosses, RunEvalsRows


def by_hand(model: Table, contexts: torch.Tensor, replace, *, everywhere: bool) -> list[float]:
    """Mean cross-entropy and KL; BOS (0) is no position but may be what is predicted."""
    ce, kl = [], []
    for row in contexts.tolist():
        for at, here in enumerate(row):
            x = model.embed[here].double()
            spliced = replace(x) if everywhere or here else x
            log_p = (x @ model.unembed.double()).log_softmax(-1)
            log_q = (spliced @ model.unembed.double()).log_softmax(-1)
            if here:
                kl.append(float((log_p.exp() * (log_p - log_q)).sum()))
                if at + 1 < len(row):
                    ce.append(-float(log_q[row[at + 1]]))
    return [sum(ce) / len(ce), sum(kl) / len(kl)]


def test_losses_as_run_evals_counts_them():
    model, rng = Table(), torch.Generator().manual_seed(5)
    contexts = torch.randint(0, 7, (9, 6), generator=rng)
    contexts[:, 0] = 0
    theirs = RunEvalsLosses()
    done: list[int] = []
    behaviour(
        model, contexts, HOOK, lambda x: 0.5 * x, batch=4, beside=theirs, progress=done.append
    )
    kl, ce = theirs.result().values()
    with_sae = by_hand(model, contexts, lambda x: 0.5 * x, everywhere=False)
    ablated = by_hand(model, contexts, torch.zeros_like, everywhere=True)
    without, _ = by_hand(model, contexts, lambda x: x, everywhere=False)
    got = [ce["ce_loss_with_sae"], kl["kl_div_with_sae"]]
    assert got == pytest.approx(with_sae, rel=1e-5)
    assert [ce["ce_loss_with_ablation"], kl["kl_div_with_ablation"]] == pytest.approx(
        ablated, rel=1e-5
    )
    assert ce["ce_loss_without_sae"] == pytest.approx(without, rel=1e-5)
    assert ce["ce_loss_score"] == pytest.approx(
        (ablated[0] - with_sae[0]) / (ablated[0] - without), rel=1e-4
    )
    assert kl["kl_div_score"] == pytest.approx(1 - with_sae[1] / ablated[1], rel=1e-4)
    assert done == [4, 4, 1]


def test_rows_batch_by_batch():
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(50, 5, generator=rng) + 3
    x_hat = x + 0.3 * torch.randn(50, 5, generator=rng)
    rows, all_of_it = RunEvalsRows(), Reconstruction(5, 3)
    legacy, biases = [], []
    for batch in (slice(0, 20), slice(20, 50)):
        a, b = x[batch].double(), x_hat[batch].double()
        rows.update(x[batch], x_hat[batch])
        all_of_it.update(x[batch], x_hat[batch], torch.zeros(len(a), 3))
        legacy += (1 - (a - b).square().sum(1) / (a - a.mean(0)).square().sum(1)).tolist()
        biases.append(float(b.square().sum() / (a * b).sum()))
    got = rows.result(all_of_it.result())
    quality, shrinkage = got["reconstruction_quality"], got["shrinkage"]
    assert quality["explained_variance_legacy"] == pytest.approx(sum(legacy) / 50)
    assert shrinkage["relative_reconstruction_bias"] == pytest.approx(sum(biases) / 2)
    assert quality["mse"] == pytest.approx(float((x - x_hat).square().sum(1).mean()), rel=1e-6)
    assert shrinkage["l2_norm_in"] == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-6)
    whole = all_of_it.result()["relative_reconstruction_bias"]
    assert whole == pytest.approx(float(x_hat.square().sum() / (x * x_hat).sum()), rel=1e-6)
    assert abs(whole - sum(biases) / 2) > 1e-6


def test_a_batch_of_one_row_has_no_legacy_variance():
    rows, figures = RunEvalsRows(), Reconstruction(2, 1)
    x = torch.ones(1, 2)
    rows.update(x, 0.5 * x)
    figures.update(x, 0.5 * x, torch.zeros(1, 1))
    got = rows.result(figures.result())["reconstruction_quality"]
    assert got["explained_variance_legacy"] is None


def test_where_nothing_is_reconstructed_there_is_no_bias():
    rows, figures = RunEvalsRows(), Reconstruction(2, 1)
    x, nothing = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.zeros(2, 2)
    for x_hat in (nothing, x):  # no batch makes up for another
        rows.update(x, x_hat)
        figures.update(x, x_hat, torch.zeros(2, 1))
        bias = rows.result(figures.result())["shrinkage"]["relative_reconstruction_bias"]
        assert bias is None
