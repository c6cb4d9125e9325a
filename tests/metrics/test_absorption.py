"""The standalone meter against the ground-truth meter, a plain twin, and every kind of codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_ortho.activations.synthetic import SyntheticSource
from topk_ortho.config import SAEConfig, SyntheticConfig
from topk_ortho.metrics import absorption
from topk_ortho.metrics.absorption import AbsorptionMeter, Matching
from topk_ortho.metrics.ground_truth import GroundTruthMeter
from topk_ortho.sae import build

SAME = {
    "absorption_rate": "absorption_rate",
    "base_miss": "base_miss",
    "excess": "excess",
    "n_child": "n_with_child",
    "n_parent_alone": "n_without_child",
    "parent_feature": "parent_feature",
    "child_feature": "child_feature",
    "parent_cosine": "parent_cosine",
}


def synthetic(rows: int = 8192) -> tuple[Tensor, Tensor, SyntheticSource, Tensor]:
    """Codes of an untrained SAE whose decoder is near the truth, and what is on."""
    source = SyntheticSource(SyntheticConfig(), seed=3)
    assert source.truth is not None
    sae = build(SAEConfig(kind="topk", d_sae=256, k=8), d_in=source.d_in, seed=0)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        near = source.truth.directions + 0.05 * torch.randn(240, source.d_in, generator=rng)
        sae.W_dec[:240] = near[torch.randperm(240, generator=rng)]
        sae.normalise_decoder_()
        sae.W_enc.copy_(sae.W_dec.T)
        blocks = [source.block(i, "eval") for i in range(rows // 4096)]
        acts = torch.cat([sae.encode(block.x) for block in blocks])
    fired = torch.cat([block.fired for block in blocks if block.fired is not None])
    return acts, fired, source, sae.W_dec.detach()


def test_it_is_the_ground_truth_rate_with_the_truth_as_labels():
    acts, fired, source, W_dec = synthetic()
    truth = source.truth
    assert truth is not None
    reference = GroundTruthMeter(truth.directions, truth.parent, W_dec)
    reference.update(fired, acts)
    known = reference.result()
    edges = absorption.edges_of(truth.parent)
    meter = AbsorptionMeter(edges, absorption.match_by_cosine(W_dec, truth.directions))
    for part in torch.arange(len(acts)).split(1000):
        meter.update(acts[part], fired[part])
    measured = meter.result()
    assert [(e.parent, e.child) for e in measured.edges] == [
        (e.parent, e.child) for e in known.edges
    ]
    for ours, theirs in zip(measured.edges, known.edges, strict=True):
        for name, here in SAME.items():
            assert getattr(ours, here) == getattr(theirs, name), name  # exactly
        assert ours.fires_with_child == theirs.n_child - (theirs.n_silent or 0)
    summary, expected = measured.summary(), known.summary()
    assert summary["absorption_rate"] == expected["absorption_rate"] > 0.01
    assert summary["excess"] == expected["excess"]
    for name in ("edges_eligible", "edges_total"):
        assert summary[name] == expected[name] > 0


def test_matching_by_labels_finds_what_matching_by_direction_finds():
    acts, fired, source, W_dec = synthetic()
    assert source.truth is not None
    by_cosine = absorption.match_by_cosine(W_dec, source.truth.directions)
    frequent = (fired.sum(0) > 200).nonzero().flatten()
    assert len(frequent) > 50
    for score in ("f1", "correlation"):
        matched = absorption.match_by_labels(acts, fired, score=score)
        same = matched.feature[frequent] == by_cosine.feature[frequent]
        assert same.double().mean() > 0.95
        assert matched.how == score
        assert bool(matched.cosine.isnan().all())


def plain(fires, on, edges, feature) -> list[dict]:
    """The definitions, one token at a time."""
    out = []
    for p, c in edges:
        own = [child for parent, child in edges if parent == p]
        with_, without = [], []
        for r in range(len(on)):
            if on[r, c]:
                with_.append(r)
            elif on[r, p] and not any(on[r, child] for child in own):
                without.append(r)
        row = {"n_with_child": len(with_), "n_without_child": len(without)}
        known = feature[p] >= 0
        hits = sum(fires[r, feature[p]] for r in with_) if known else None
        hits_without = sum(fires[r, feature[p]] for r in without) if known else None
        row |= {"fires_with_child": hits, "fires_without_child": hits_without}
        row["eligible"] = len(with_) >= absorption.MIN_CHILD_TOKENS
        with_rate = hits / len(with_) if known and row["eligible"] else None
        enough = row["eligible"] and len(without) >= absorption.MIN_CHILD_TOKENS
        alone_rate = hits_without / len(without) if known and enough else None
        row |= {"recall_with_child": with_rate, "recall_without_child": alone_rate}
        out.append(row)
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 6),
    d_sae=st.integers(1, 9),
    rows=st.integers(0, 200),
)
def test_equals_the_plain_twin(seed: int, n: int, d_sae: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    # any acyclic hierarchy: a child may have several parents
    edges = [(p, c) for c in range(n) for p in range(c) if rng.random() < 0.5]
    on = rng.random((rows, n)) < rng.random(n)
    for p, c in reversed(edges):
        on[:, p] |= on[:, c]
    fires = rng.random((rows, d_sae)) < 0.5
    feature = rng.integers(-1, d_sae, n)
    meter = AbsorptionMeter(edges, Matching.given(torch.from_numpy(feature)))
    for part in np.array_split(np.arange(rows), 3):
        meter.update(torch.from_numpy(fires[part]), torch.from_numpy(on[part]))
    result = meter.result()
    assert result.rows == rows
    for edge, expected in zip(result.edges, plain(fires, on, edges, feature), strict=True):
        assert {name: getattr(edge, name) for name in expected} == expected
        if edge.excess is not None:
            assert edge.excess == pytest.approx(edge.recall_without_child - edge.recall_with_child)


LAYOUTS = {
    "bool": lambda a: a > 0,
    "int": lambda a: (a > 0).int(),
    "float64": lambda a: a.double(),
    "bfloat16": lambda a: a.bfloat16(),
    "COO": lambda a: a.to_sparse(),
    "COO of booleans": lambda a: (a > 0).to_sparse(),
    "CSR": lambda a: a.to_sparse_csr(),
    "CSC": lambda a: a.to_sparse_csc(),
    "not contiguous": lambda a: a.T.contiguous().T,
    "needs a gradient": lambda a: a.clone().requires_grad_(),
}


def three_classes() -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Codes of 7 features and a parent with two children; feature 4 absorbs the second child."""
    rng = torch.Generator().manual_seed(1)
    on = torch.rand(300, 3, generator=rng) < 0.4
    on[:, 0] |= on[:, 1] | on[:, 2]
    acts = torch.rand(300, 7, generator=rng) * (torch.rand(300, 7, generator=rng) < 0.1)
    acts[:, 2] = (on[:, 0] & ~on[:, 2]).float()
    acts[:, 4], acts[:, 5] = on[:, 2].float() * 2, on[:, 1].float()
    return acts, on, [(0, 1), (0, 2)]


@pytest.mark.filterwarnings("ignore:Sparse CS")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_kind_of_codes_and_labels_gives_the_same(layout):
    acts, on, edges = three_classes()
    matching = absorption.match_by_labels(acts, on)
    expected = absorption.measure(acts, on, edges, matching)
    given = LAYOUTS[layout](acts)
    labels = on if given.requires_grad else LAYOUTS[layout](on.float())
    again = absorption.match_by_labels(given, labels)
    assert again.feature.tolist() == matching.feature.tolist()
    assert absorption.measure(given, labels, edges, again) == expected


def test_an_absorbed_child_shows_and_the_other_does_not():
    acts, on, edges = three_classes()
    matching = absorption.match_by_labels(acts, on)
    assert matching.feature.tolist() == [2, 5, 4]
    first, second = absorption.measure(acts, on, edges, matching).edges
    assert (second.absorption_rate, second.base_miss, second.excess) == (1.0, 0.0, 1.0)
    assert (second.recall_with_child, second.recall_without_child) == (0.0, 1.0)
    both = (on[:, 1] & on[:, 2]).sum().item()
    assert first.fires_with_child == first.n_with_child - both
    assert second.child_f1 == 1.0
    assert second.parent_cosine is None


def test_sums_do_not_depend_on_entries_that_are_given_twice():
    index = torch.tensor([[0, 0, 1], [1, 1, 0]])
    twice = torch.sparse_coo_tensor(
        index, torch.tensor([2.0, -2.0, 1.0]), (2, 2), check_invariants=True
    )
    on = torch.tensor([[True, True], [True, False]])
    edge = absorption.measure(twice, on, [(0, 1)], Matching.given(torch.tensor([1, 0]))).edges[0]
    assert (edge.fires_with_child, edge.fires_without_child) == (0, 0)


def test_what_is_not_available_is_none_and_not_nought():
    acts, on, edges = three_classes()
    few = torch.arange(10)
    result = absorption.measure(acts[few], on[few], edges, absorption.match_by_labels(acts, on))
    assert not any(edge.eligible for edge in result.edges)
    assert result.edges[0].n_with_child > 0
    assert result.edges[0].recall_with_child is None
    summary = result.summary()
    assert (summary["excess"], summary["edges_eligible"], summary["edges_total"]) == (None, 0, 2)
    unmatched = absorption.measure(acts, on, edges, Matching.given(torch.tensor([-1, 5, 4])))
    assert all(edge.eligible for edge in unmatched.edges)
    assert unmatched.edges[0].fires_with_child is None
    assert unmatched.edges[0].parent_feature is None
    assert unmatched.summary()["absorption_rate"] is None
    assert unmatched.summary()["edges_with_excess"] == 0
    alone = on[:, edges[0][0]] & ~torch.stack([on[:, c] for _, c in edges], 1).any(1)
    kept = ~alone
    kept[alone.nonzero().flatten()[: absorption.MIN_CHILD_TOKENS - 1]] = True
    thin = absorption.measure(acts[kept], on[kept], edges, absorption.match_by_labels(acts, on))
    edge = thin.edges[0]
    assert edge.eligible and edge.n_without_child == absorption.MIN_CHILD_TOKENS - 1
    assert edge.absorption_rate is not None  # the side with the child has enough
    assert (edge.base_miss, edge.excess, edge.recall_without_child) == (None, None, None)
    silent = absorption.match_by_labels(torch.zeros(300, 7), on)
    assert silent.feature.tolist() == [-1, -1, -1]


def test_edges_that_are_not_measurable_keep_their_counts_alone():
    acts, on, edges = three_classes()
    meter = AbsorptionMeter(edges, absorption.match_by_labels(acts, on), measurable=[True, False])
    meter.update(acts, on)
    first, second = meter.result().edges
    assert first.excess is not None
    assert (second.excess, second.eligible, second.n_with_child > 20) == (None, False, True)
    assert meter.result().summary()["edges_eligible"] == 1


def test_json_holds_everything():
    acts, on, edges = three_classes()
    result = absorption.measure(acts, on, edges, absorption.match_by_labels(acts, on))
    made = result.as_json()
    assert made["matching"] == "f1"
    assert made["summary"]["edges_total"] == len(made["edges"]) == 2
    assert made["edges"][1]["excess"] == 1.0
    assert made["min_child_tokens"] == absorption.MIN_CHILD_TOKENS


REFUSED = {
    "no such class": (lambda a, o, m: AbsorptionMeter([(0, 3)], m), "edge (0, 3)"),
    "itself": (lambda a, o, m: AbsorptionMeter([(1, 1)], m), "edge (1, 1)"),
    "twice": (lambda a, o, m: AbsorptionMeter([(0, 1), (0, 1)], m), "2 times"),
    "measurable": (lambda a, o, m: AbsorptionMeter([(0, 1)], m, measurable=[]), "0 entries"),
    "orphan": (lambda a, o, m: absorption.measure(a, ~o, [(0, 1)], m), "its parent 0 is not"),
    "rows": (lambda a, o, m: absorption.measure(a[1:], o, [(0, 1)], m), "as many rows"),
    "classes": (lambda a, o, m: absorption.measure(a, o[:, :2], [(0, 1)], m), "3 columns"),
    "features": (lambda a, o, m: absorption.measure(a[:, :3], o, [(0, 1)], m), "have 3 features"),
    "NaN": (lambda a, o, m: absorption.measure(a / 0, o, [(0, 1)], m), "not finite"),
    "NaN, labels": (lambda a, o, m: absorption.match_by_labels(a / 0, o), "not finite"),
    "shape": (lambda a, o, m: absorption.match_by_labels(a[None], o), "do not fit"),
    "score": (lambda a, o, m: absorption.match_by_labels(a, o, score="f2"), "'f2'"),
    "given": (lambda a, o, m: Matching.given(torch.tensor([0.5])), "float32"),
    "three dimensions": (
        lambda a, o, m: absorption.measure(a[:, None], o, [(0, 1)], m),
        "flatten contexts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused(name):
    acts, on, _ = three_classes()
    call, said = REFUSED[name]
    with pytest.raises(ValueError, match=r"(?s).") as error:
        call(acts, on, absorption.match_by_labels(acts, on))
    assert said in str(error.value)
