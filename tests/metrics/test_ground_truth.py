"""Absorption against known features: the δ-family, and a plain twin on random data."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_ortho.metrics.edges import MIN_CHILD_TOKENS
from topk_ortho.metrics.ground_truth import GroundTruthMeter, match

PARENT_OF_ONE = torch.tensor([-1, 0])


def delta_family(delta: float, rows: int = 4000) -> tuple[GroundTruthMeter, Tensor, Tensor]:
    """Parent g1 and child g2, orthonormal; encoder `g1 - δ g2`, decoder `g2 + δ g1`."""
    rng = torch.Generator().manual_seed(0)
    g = torch.eye(3)[:2]
    fired = torch.zeros(rows, 2, dtype=torch.bool)
    fired[:, 0] = torch.rand(rows, generator=rng) < 0.5
    fired[:, 1] = fired[:, 0] & (torch.rand(rows, generator=rng) < 0.5)
    x = fired.float() @ g
    W_enc = torch.stack([g[0] - delta * g[1], g[1]], dim=1)
    W_dec = torch.stack([g[0], g[1] + delta * g[0]])
    acts = torch.relu(x @ W_enc)
    assert torch.allclose(acts @ W_dec, x)  # reconstruction cannot tell one δ from another
    return GroundTruthMeter(g, PARENT_OF_ONE, W_dec, W_enc), fired, acts


@pytest.mark.parametrize("delta", [0.0, 0.3, 0.7, 1.0])
def test_delta_family(delta: float) -> None:
    meter, fired, acts = delta_family(delta)
    meter.update(fired, acts)
    figures = meter.result().summary()
    absorbed = float(delta == 1.0)
    assert figures["absorption_rate"] == absorbed
    assert figures["absorption_rate_fired"] == absorbed
    assert figures["absorption_rate_found"] == absorbed
    assert figures["base_miss"] == 0.0
    assert figures["excess"] == absorbed
    assert figures["partial"] == pytest.approx(delta)
    assert figures["decoder_leak"] == pytest.approx(delta / math.hypot(1, delta))
    assert figures["encoder_hole"] == pytest.approx(-delta / math.hypot(1, delta))
    assert figures["parents_found"] == 1.0
    assert figures["mcc"] == pytest.approx((1 + 1 / math.hypot(1, delta)) / 2)
    assert figures["precision_parent"] == figures["f1_child"] == 1.0
    assert figures["f1_independent"] is None
    share = (fired[:, 0] & ~fired[:, 1]).sum().item() / fired[:, 0].sum().item()
    assert figures["recall_parent"] == pytest.approx(share if absorbed else 1.0)


def test_perfect_features_in_any_order() -> None:
    directions = torch.eye(4)
    order = torch.tensor([2, 0, 3, 1])
    meter = GroundTruthMeter(directions, torch.tensor([-1, 0, 0, -1]), directions[order])
    fired = torch.rand(500, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    fired[:, 0] |= fired[:, 1] | fired[:, 2]
    meter.update(fired, fired.float()[:, order])
    figures = meter.result().summary()
    assert meter.feature.tolist() == [1, 3, 0, 2]
    assert figures["absorption_rate"] == figures["excess"] == figures["partial"] == 0.0
    assert figures["mcc"] == figures["uniqueness"] == figures["parents_found"] == 1.0
    assert [figures[f"f1_{g}"] for g in ("parent", "child", "independent")] == [1.0] * 3
    assert figures["encoder_hole"] is None  # no encoder given
    assert (figures["edges_eligible"], figures["edges_total"]) == (2, 2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_true=st.integers(1, 5), d_sae=st.integers(1, 5))
def test_match_has_the_largest_sum_of_cosines(seed: int, n_true: int, d_sae: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n_true, 4)), rng.normal(size=(d_sae, 4))
    feature, cosine = match(torch.from_numpy(b), torch.from_numpy(a))
    a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))
    table = a @ b.T
    small = min(n_true, d_sae)
    best = max(
        sum(table[t, f] for t, f in zip(true, features, strict=True))
        for true in itertools.combinations(range(n_true), small)
        for features in itertools.permutations(range(d_sae), small)
    )
    taken = feature >= 0
    assert taken.sum() == small
    assert len(set(feature[taken].tolist())) == small
    assert cosine[taken].sum().item() == pytest.approx(best)
    assert bool(cosine[~taken].isnan().all())


def naive(parent, match_of, cosine, fired, acts, directions, W_dec, W_enc) -> dict:
    """The definitions, one token at a time where possible."""

    def rate(values):
        values = list(values)
        return sum(values) / len(values) if values else None

    def angle(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    rows, n_true = fired.shape
    out: dict[str, list] = {}

    def put(name, value):
        out.setdefault(name, [])
        if value is not None:
            out[name].append(value)

    for c in range(n_true):
        p = parent[c]
        if p < 0:
            continue
        on = [r for r in range(rows) if fired[r, c]]
        if len(on) < MIN_CHILD_TOKENS:
            continue
        mp, mc = match_of[p], match_of[c]
        alone = [
            r
            for r in range(rows)
            if fired[r, p] and not any(fired[r, s] for s in range(n_true) if parent[s] == p)
        ]
        if mc >= 0:
            put("decoder_leak", angle(W_dec[mc], directions[p]))
        if mp < 0:
            continue
        absorption = rate(acts[r, mp] == 0 for r in on)
        base = rate(acts[r, mp] == 0 for r in alone)
        put("absorption_rate", absorption)
        put("base_miss", base)
        put("excess", None if base is None else absorption - base)
        if mc >= 0:
            put("absorption_rate_fired", rate(acts[r, mp] == 0 for r in on if acts[r, mc] > 0))
        mean_alone = rate(acts[r, mp] for r in alone)
        if mean_alone:
            put("partial", 1 - rate(acts[r, mp] for r in on) / mean_alone)
        put("encoder_hole", angle(W_enc[:, mp], directions[c]))
        if cosine[p] > 0.8:
            put("absorption_rate_found", absorption)
    for t in range(n_true):
        groups = [
            name
            for name, member in {
                "parent": t in set(parent),
                "child": parent[t] >= 0,
                "independent": parent[t] < 0 and t not in set(parent),
            }.items()
            if member
        ]
        if t in set(parent):
            put("parents_found", float(match_of[t] >= 0 and cosine[t] > 0.8))
        if match_of[t] < 0 or not fired[:, t].any():
            continue
        fires = acts[:, match_of[t]] > 0
        hit = (fires & fired[:, t]).sum()
        precision = hit / fires.sum() if fires.any() else None
        recall = hit / fired[:, t].sum()
        for group in groups:
            put(f"precision_{group}", precision)
            put(f"recall_{group}", recall)
            f1 = 0.0 if hit == 0 else 2 * precision * recall / (precision + recall)
            put(f"f1_{group}", f1)
    return {name: sum(v) / len(v) if v else None for name, v in out.items()}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_true=st.integers(2, 8),
    d_sae=st.integers(1, 9),
    rows=st.integers(0, 120),
)
def test_equals_the_plain_twin(seed: int, n_true: int, d_sae: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    # any forest, three levels included; children need not imply their parents
    parent = np.array([rng.integers(-1, t) if t else -1 for t in range(n_true)])
    directions = rng.normal(size=(n_true, 5)).astype(np.float32)
    W_dec = np.concatenate([directions, rng.normal(size=(9, 5))])[:d_sae].astype(np.float32)
    W_dec += rng.normal(size=W_dec.shape) * 0.3
    W_enc = rng.normal(size=(5, d_sae)).astype(np.float32)
    fired = rng.random((rows, n_true)) < rng.random(n_true)
    acts = (rng.random((rows, d_sae)) * (rng.random((rows, d_sae)) < 0.5)).astype(np.float32)
    meter = GroundTruthMeter(*map(torch.from_numpy, (directions, parent, W_dec, W_enc)))
    for part in np.array_split(np.arange(rows), 3):
        meter.update(torch.from_numpy(fired[part]), torch.from_numpy(acts[part]))
    result = meter.result()
    got = result.summary()
    expected = naive(
        parent, meter.feature.tolist(), meter.cosine.tolist(), fired, acts, directions, W_dec, W_enc
    )
    counted = {"edges_eligible", "edges_total", "mcc", "uniqueness"}
    for name, value in got.items():
        if name not in counted:
            reference = expected.get(name)
            assert value == (None if reference is None else pytest.approx(reference, abs=1e-6)), (
                name
            )
    assert got["edges_total"] == (parent >= 0).sum()
    assert got["edges_eligible"] == sum(
        fired[:, c].sum() >= MIN_CHILD_TOKENS for c in range(n_true) if parent[c] >= 0
    )
    json.dumps([got, result.table()], allow_nan=False)
    counts = result.counts()
    assert set(counts) == set(got) - {"uniqueness", "edges_eligible", "edges_total"}
    for name, count in counts.items():
        # a figure is there exactly where something was counted for it
        measured = count.get("used", count.get("denominator"))
        assert (got[name] is None) == (measured == 0), name
        if measured == 1 and "numerator" in count:
            assert got[name] == pytest.approx(count["numerator"] / count["denominator"])


def test_counts_of_one_parent_with_two_children() -> None:
    directions = torch.eye(3)
    fired = torch.zeros(200, 3, dtype=torch.bool)
    fired[:130, 0] = True
    fired[:30, 1] = True
    fired[30:90, 2] = True
    acts = fired.float()
    acts[:15, 0] = 0.0  # absorbed by the first child on 15 of its 30 tokens
    acts[30:36, 0] = 0.0  # and by the second on 6 of its 60
    acts[90:94, 0] = 0.0  # missed on 4 of the 40 tokens without a child
    acts[:10, 1] = 0.0
    acts[150:160, 2] = 1.0
    meter = GroundTruthMeter(directions, torch.tensor([-1, 0, 0]), directions)
    meter.update(fired, acts)
    figures, counts = meter.result().summary(), meter.result().counts()

    def counted(name: str) -> tuple[int, ...]:
        return tuple(counts[name][k] for k in ("numerator", "denominator", "used", "left_out"))

    assert counted("absorption_rate") == (21, 90, 2, 0)
    assert figures["absorption_rate"] == pytest.approx((15 / 30 + 6 / 60) / 2)
    assert counted("absorption_rate_found") == (21, 90, 2, 0)
    assert counted("absorption_rate_fired") == (5 + 6, 20 + 60, 2, 0)
    assert counted("base_miss") == (8, 80, 2, 0)  # the parent's tokens, once for each edge
    assert counts["parents_found"] == {"numerator": 1, "denominator": 1}
    assert counts["mcc"] == {"used": 3, "left_out": 0}
    assert counted("precision_child") == (20 + 60, 20 + 70, 2, 0)
    assert counted("recall_parent") == (105, 130, 1, 0)
    assert counted("f1_independent") == (0, 0, 0, 0)
    assert counts["excess"] == {"used": 2, "left_out": 0}


def test_rare_children_are_left_out_of_the_averages() -> None:
    directions = torch.eye(3)
    fired = torch.zeros(100, 3, dtype=torch.bool)
    fired[:60, 0] = True
    fired[:20, 1] = True  # just enough
    fired[20:39, 2] = True  # one too few
    acts = fired.float()
    acts[20:39, 0] = 0.0
    meter = GroundTruthMeter(directions, torch.tensor([-1, 0, 0]), directions)
    meter.update(fired, acts)
    result = meter.result()
    assert result.summary()["absorption_rate"] == 0.0
    assert result.summary()["edges_eligible"] == 1
    rare = result.edges[1]
    assert (rare.child, rare.n_child, rare.n_silent, rare.n_child_fires) == (2, 19, 19, 19)
    assert (rare.n_parent_alone, rare.n_silent_alone) == (21, 0)
    rates = ("absorption_rate", "absorption_rate_fired", "base_miss", "excess", "partial")
    assert [getattr(rare, name) for name in rates] == [None] * 5
    assert result.counts()["absorption_rate"] == {
        "used": 1,
        "left_out": 1,
        "numerator": 0,
        "denominator": 20,
    }


def test_every_child_too_rare_is_unavailable_not_zero() -> None:
    meter = GroundTruthMeter(torch.eye(2), PARENT_OF_ONE, torch.eye(2))
    fired = torch.ones(MIN_CHILD_TOKENS - 1, 2, dtype=torch.bool)
    meter.update(fired, fired.float())
    figures, counts = meter.result().summary(), meter.result().counts()
    for name in ("absorption_rate", "absorption_rate_fired", "base_miss", "excess", "partial"):
        assert figures[name] is None
        assert (counts[name]["used"], counts[name]["left_out"]) == (0, 1)
    assert counts["absorption_rate"]["denominator"] == 0


def test_a_parent_without_a_feature_is_unavailable_not_absorbed() -> None:
    directions = torch.eye(3)
    meter = GroundTruthMeter(directions, torch.tensor([-1, 0, -1]), directions[1:2])
    fired = torch.ones(50, 3, dtype=torch.bool)
    meter.update(fired, torch.ones(50, 1))
    result = meter.result()
    figures = result.summary()
    assert meter.feature.tolist() == [-1, 0, -1]
    assert result.edges[0].n_silent is None
    for name in ("absorption_rate", "base_miss", "excess", "partial", "f1_parent"):
        assert figures[name] is None
    assert figures["parents_found"] == 0.0
    assert figures["f1_child"] == 1.0
    assert figures["uniqueness"] == 1.0


def test_no_token_gives_none_throughout() -> None:
    figures = GroundTruthMeter(torch.eye(2), PARENT_OF_ONE, torch.eye(2)).result().summary()
    assert figures["absorption_rate"] is None
    assert figures["f1_parent"] is None
    assert figures["edges_eligible"] == 0
    assert figures["mcc"] == 1.0


def test_uniqueness_counts_true_features_that_are_nearest() -> None:
    W_dec = torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.0, 0.2], [0.0, 1.0]])
    meter = GroundTruthMeter(torch.eye(2), torch.tensor([-1, -1]), W_dec)
    assert meter.result().uniqueness == 0.5


def test_bad_input_is_refused() -> None:
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="not finite"):
        match(eye * float("nan"), eye)
    with pytest.raises(ValueError, match="width 3"):
        match(eye, torch.eye(3))
    with pytest.raises(ValueError, match="parent must be"):
        GroundTruthMeter(eye, torch.tensor([-1, 2]), eye)
    with pytest.raises(ValueError, match="W_enc has shape"):
        GroundTruthMeter(eye, PARENT_OF_ONE, eye, torch.ones(3, 2))
    meter = GroundTruthMeter(eye, PARENT_OF_ONE, eye)
    with pytest.raises(ValueError, match="do not fit"):
        meter.update(torch.zeros(3, 2, dtype=torch.bool), torch.zeros(4, 2))
