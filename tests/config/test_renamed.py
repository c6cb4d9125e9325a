"""Options and values that had another name."""

from __future__ import annotations

from topk_ortho.config import renamed


def test_the_new_option_is_named():
    assert "write pairs.fraction-of" in renamed.renamed_option("pairs.of")
    assert renamed.renamed_option("pairs.fraction") == ""


def test_a_stored_table_is_translated_both_ways(monkeypatch):
    monkeypatch.setattr(renamed, "RENAMED_VALUES", {"sae.fast": {"bfloat16": True}})
    monkeypatch.setattr(renamed, "RENAMED", {"sae.quick": "sae.fast", "lr": "learning-rate"})
    old = {"seed": 1, "lr": 2.0, "sae": {"quick": "bfloat16", "d_sae": 8}, "text": ["a"]}
    new = {"seed": 1, "learning_rate": 2.0, "sae": {"fast": True, "d_sae": 8}, "text": ["a"]}
    assert renamed.with_new_names(old) == new
    assert renamed.with_old_names(new) == old
    assert renamed.with_new_names(new) == new
    assert renamed.renamed_value("sae.fast", "bfloat16") is True
    assert renamed.renamed_value("sae.fast", []) is None
