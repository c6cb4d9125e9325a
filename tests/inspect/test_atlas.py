"""Candidates for absorption without labels, against the obvious way and on planted absorption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.inspect.naive_atlas import naive_edges, naive_statistics
from tests.stored_saes import KINDS, stored
from topk_ortho import cli, formats
from topk_ortho.config import ConfigError
from topk_ortho.formats.load import as_module
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.inspect.atlas.measure import STEADY, atlas, candidates
from topk_ortho.inspect.atlas.nearest import nearest_rows
from topk_ortho.inspect.atlas.rules import Edge, find_edges
from topk_ortho.inspect.atlas.statistics import Statistics, statistics
from topk_ortho.inspect.atlas.tally import Tally
from topk_ortho.sae import SAE

D_IN, PAIRS, SINGLE = 32, 3, 14


def absorbing(*, std: float = 0.25, rows: int = 6000) -> tuple[StoredSAE, Tensor]:
    """An SAE that absorbs three parents, each into one child, and its data.

    Rows 0 to 2 are parents, 3 to 5 their children, which took them on, and the rest are single
    features. A parent's encoder is blocked where its child is there.
    """
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=rng))[0][: 2 * PAIRS + SINGLE]
    parents, children = directions[:PAIRS], directions[PAIRS : 2 * PAIRS]
    W_dec = directions.clone()
    W_dec[PAIRS : 2 * PAIRS] = normalize(parents + children, dim=1)
    W_enc = directions.clone()
    W_enc[:PAIRS] -= 2 * children
    W_enc[PAIRS : 2 * PAIRS] = normalize(parents + children, dim=1) + children
    b_enc = torch.zeros(len(W_dec))
    b_enc[PAIRS : 2 * PAIRS] = -1.2
    on = torch.rand(rows, len(directions), generator=rng) < 0.15
    on[:, PAIRS : 2 * PAIRS] = on[:, :PAIRS] & (torch.rand(rows, PAIRS, generator=rng) < 0.6)
    strength = 1 + std * torch.randn(on.shape, generator=rng)
    x = (on * strength) @ directions + 0.02 * torch.randn(rows, D_IN, generator=rng)
    sae = replace(
        stored("relu"),
        W_enc=W_enc.T.contiguous(), b_enc=b_enc - 0.1, W_dec=W_dec, b_dec=torch.zeros(D_IN),
    )  # fmt: skip
    return sae, x


def measured(
    sae: SAE, x: Tensor, *, k: int, batch: int = 512, buffer: int = 2048
) -> tuple[Statistics, int]:
    nearest = nearest_rows(sae.W_dec.detach(), k, memory_budget=2**20)
    references = torch.arange(sae.d_sae)
    tally = Tally(sae, nearest, references, buffer_rows=buffer)
    for part in x.split(batch):
        tally.update(part)
    sums = tally.finish()
    return statistics(sae, nearest, references, sums), sums.rows


def edges_of(sae: SAE, x: Tensor) -> tuple[Edge, ...]:
    s, rows = measured(sae, x, k=sae.d_sae - 1)
    return find_edges(s, rows=rows, least_z=3.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [True, False])
def test_statistics_are_those_of_the_obvious_way(kind: str, unit: bool) -> None:
    sae = as_module(stored(kind, unit=unit))
    x = 1.5 * torch.randn(900, sae.d_in, generator=torch.Generator().manual_seed(2))
    s, _ = measured(sae, x, k=sae.d_sae - 1, buffer=900)
    naive = naive_statistics(sae, x, list(range(sae.d_sae)))
    child = np.arange(sae.d_sae)[:, None]
    parent = s.parent.numpy()
    judged = s.judged.numpy()
    assert judged.any()
    assert np.array_equal(s.n.numpy(), naive["n"])
    for name in ("n_T", "flagged", "V", "z", "y_ratio", "intercept", "hole"):
        got, wanted = getattr(s, name).numpy(), naive[name][parent, child]
        assert got[judged] == pytest.approx(wanted[judged], rel=2e-3, abs=2e-3), name
    tiers = {(e.parent, e.child): e.tier for e in find_edges(s, rows=len(x), least_z=3.0)}
    assert tiers == naive_edges(naive)


def test_edges_of_an_absorbing_sae_are_those_of_the_obvious_way_and_right() -> None:
    given, x = absorbing()
    sae = as_module(given)
    found = edges_of(sae, x)
    naive = naive_edges(naive_statistics(sae, x, list(range(sae.d_sae))))
    assert {(e.parent, e.child): e.tier for e in found} == naive
    assert {(e.parent, e.child) for e in found} == {(0, 3), (1, 4), (2, 5)}
    for edge in found:
        assert edge.silent_share > 0.9
        assert edge.n_flagged > 0.8 * edge.n_tokens
        assert edge.rate_child < edge.rate_parent + 0.1


def test_how_rows_are_cut_changes_nothing() -> None:
    sae = as_module(stored("jumprelu"))
    x = 1.5 * torch.randn(700, sae.d_in, generator=torch.Generator().manual_seed(2))
    (a, _), (b, _) = (measured(sae, x, k=7, batch=n, buffer=m) for n, m in ((700, 700), (31, 64)))
    assert torch.equal(a.n, b.n)
    for name in ("n_T", "V", "z", "y_ratio", "intercept", "hole"):
        one, other = getattr(a, name)[a.judged], getattr(b, name)[a.judged]
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4), name


def test_a_search_for_what_fires_answers_as_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = as_module(stored("relu"))
    x = torch.randn(200, sae.d_in, generator=torch.Generator().manual_seed(2))
    table = measured(sae, x, k=9)[0]
    monkeypatch.setattr("topk_ortho.inspect.atlas.tally.CELLS", 0)
    assert torch.equal(table.n_T, measured(sae, x, k=9)[0].n_T)


@pytest.mark.parametrize("budget", [2**12, 2**16, 2**24])
@pytest.mark.parametrize("k", [1, 5, 39])
def test_nearest_rows_are_exact(k: int, budget: int) -> None:
    W = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    W[9] = W[3] * 2
    W[11] = 0
    cosine = normalize(W.double(), dim=1) @ normalize(W.double(), dim=1).T
    cosine.fill_diagonal_(-2)
    order = torch.argsort(cosine.round(decimals=12), dim=1, descending=True, stable=True)[:, :k]
    found = nearest_rows(W, k, memory_budget=budget)
    assert torch.allclose(found.cosine, cosine.gather(1, order), atol=1e-12)
    nonzero = torch.arange(40) != 11
    assert torch.equal(found.rows[nonzero], order[nonzero])


def test_many_rows_at_one_cosine_are_compared_exactly() -> None:
    W = torch.zeros(60, 4)
    W[:, 0] = 1
    W[:, 1] = torch.linspace(0, 1e-6, 60)
    found = nearest_rows(W, 3, memory_budget=2**20)
    cosine = normalize(W.double(), dim=1) @ normalize(W.double(), dim=1).T
    cosine.fill_diagonal_(-2)
    assert torch.allclose(found.cosine, cosine.topk(3).values, atol=1e-15)


@pytest.fixture
def on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    given, x = absorbing()
    formats.write(given, "sae", layout="saelens")
    Path("data").mkdir()
    np.save("data/a.npy", x.numpy())
    return tmp_path


def test_the_command_lists_edges_and_writes_json(
    on_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["atlas", "sae", "--data", "data", "--out", "atlas.json"]) == 0
    text = capsys.readouterr().out
    record = json.loads(Path("atlas.json").read_text())
    assert "experimental" in text
    assert record["experimental"] is True
    assert {(e["parent"], e["child"]) for e in record["edges"]} == {(0, 3), (1, 4), (2, 5)}
    assert record["truth"] is None
    assert sum(record["columns"].values()) == record["sae"]["d_sae"]


def test_the_graph_is_json_or_graphml(on_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["atlas", "sae", "--data", "data", "--neuronpedia", "gpt2-small/6-res-jb"]
    for name in ("a.json", "a.graphml"):
        assert cli.main([*asked, "--graph", name]) == 0
    graph = json.loads(Path("a.json").read_text())
    assert [node["id"] for node in graph["nodes"]] == list(range(2 * PAIRS))
    assert graph["nodes"][3]["url"] == "https://www.neuronpedia.org/gpt2-small/6-res-jb/3"
    xml = ElementTree.parse("a.graphml").getroot()
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    edges = [(e.get("source"), e.get("target")) for e in xml.iterfind(".//g:edge", space)]
    assert edges == [(str(e["source"]), str(e["target"])) for e in graph["edges"]]
    keys = {key.get("id"): key.get("attr.type") for key in xml.iterfind("g:key", space)}
    assert (keys["edge.z"], keys["edge.n_tokens"], keys["node.url"]) == ("double", "long", "string")
    assert all(data.get("key") in keys for data in xml.iterfind(".//g:data", space))
    assert cli.main(asked) == 2
    assert "--graph" in capsys.readouterr().err


def test_known_features_give_verdicts(synthetic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["atlas", str(synthetic), "--samples", "3000", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["truth"]["tiers"]) == {"both", "variance", "strength", "any"}
    assert len(record["truth"]["edges"]) == len(record["edges"])


def test_a_spike_in_stands_beside_the_edges(
    on_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["atlas", "sae", "--data", "data", "--spike-in", "--spike-in-steps", "20",
             "--samples", "3000", "--out", "atlas.json"]  # fmt: skip
    assert cli.main(asked) == 0
    assert "these rules on hierarchies and confounds planted" in capsys.readouterr().out
    spiked = json.loads(Path("atlas.json").read_text())["spike_in"]
    assert spiked["steps"] == 20
    assert set(spiked["tiers"]) == {"both", "variance", "strength", "any"}


def test_a_spike_in_needs_unknown_features(
    synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["atlas", str(synthetic), "--samples", "600", "--spike-in"]) == 2
    assert "--spike-in was given, but the features of this data are known" in (
        capsys.readouterr().err
    )


def test_hardly_varying_strengths_are_recognised() -> None:
    spreads = {}
    for std in (0.02, 0.25):
        given, x = absorbing(std=std)
        codes = as_module(given).encode(x).detach()[:, 6:]
        spreads[std] = float(torch.stack([c[c > 0.3].std() / c[c > 0.3].mean() for c in codes.T])
                             .median())  # fmt: skip
    assert spreads[0.02] < STEADY < spreads[0.25]


def test_what_cannot_be_is_refused(on_files: Path) -> None:
    with pytest.raises(ConfigError, match="--neighbours 20 was given, but the SAE has 20 features"):
        candidates(20, 20)
    with pytest.raises(ConfigError, match=r"--memory-budget 1,000 was given.*take .* bytes"):
        atlas(Path("sae"), {"data": Path("data")}, memory_budget=1000, progress=False)
