"""SynthSAEBench at a tiny size: SAELens' synthetic model, our arms, both packages' measures."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("sae_lens")

BENCHES = Path(__file__).resolve().parents[2] / "benches"


def test_all_arms_are_measured_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHES))
    synth = import_module("synth_saebench")
    monkeypatch.setattr(sys, "argv", ["synth_saebench", "--quick", "--out", str(tmp_path)])
    synth.main()
    rows = json.loads((tmp_path / "synth-saebench.json").read_text())["rows"]
    assert {row["label"] for row in rows} >= {"none", "default", "c2r", "matryoshka"}
    for row in rows:
        found = row["measured"]
        assert found["l0"] == pytest.approx(4, rel=0.1)
        assert 0 < found["mcc"] < 1
        assert all(0 < found[name] < 1 for name in ("f1", "absorption_rate", "base_miss"))
    model = synth.SyntheticModel.load_from_disk(tmp_path / "model")
    found = synth.edges(model)
    assert len(found) == 2 * (4 + 16 + 64)
    _, features = model.sample_with_features(1000)
    parents, children = (features[:, list(side)] > 0 for side in zip(*found, strict=True))
    assert not (children & ~parents).any(), "a child is on only where its parent is"
