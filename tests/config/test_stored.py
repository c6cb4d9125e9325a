"""A run that was stored under the options' old names is still the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from topk_ortho.config import ConfigError, PairsConfig, PenaltyConfig, SAEConfig, TrainConfig
from topk_ortho.config.renamed import RENAMED, RENAMED_VALUES
from topk_ortho.config.toml import (
    ADDED,
    as_written,
    config_hash,
    config_text,
    from_table,
    option_types,
    read_config,
    read_stored_config,
    to_table,
)
from topk_ortho.config.values import choices

# As a run of these settings wrote them, and the hash in its manifest.
STORED = """
steps = 70
[pairs]
criterion = "random-matched"
fraction = 0.01
of = "active"
account = true
[penalty]
n = "k"
tau = "mean-std"
"""
LITERAL = PairsConfig(criterion="coactivation")
"""What was the default then."""
HASH = "cd0fb9497e02ce1f"
NOW = TrainConfig(
    steps=70,
    pairs=PairsConfig(
        criterion="rate-matched-random", fraction=0.01, fraction_of="active", track_memory=True
    ),
    penalty=PenaltyConfig(normalize_by="k", tau="mean-std"),
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(STORED)
    return path


def test_a_stored_run_is_read_with_the_old_names(stored):
    assert read_stored_config(stored) == NOW


def test_its_hash_is_the_one_in_its_manifest():
    assert config_hash(NOW) == HASH
    assert config_hash(TrainConfig(pairs=LITERAL)) == "5d0279bb8d3709e2"


@pytest.mark.parametrize(
    ("products", "now", "hash_then"),
    [("bfloat16", True, "c0818f16f5174a23"), ("float32", False, "5d0279bb8d3709e2")],
)
def test_a_value_of_another_type_is_translated_too(products, now, hash_then, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f'[sae]\nproducts = "{products}"\n[pairs]\ncriterion = "coactivation"\n')
    config = read_stored_config(path)
    assert config == TrainConfig(pairs=LITERAL, sae=SAEConfig(bf16_prefilter=now))
    assert config_hash(config) == hash_then


@pytest.mark.parametrize(
    ("named", "kind"),
    [('hook = "blocks.3.hook_resid_post"', "synthetic"), ('data = "shards"', "synthetic"),
     ('model = "gpt2"', "files"), ('data = "shards"', "language-model")],
)  # fmt: skip
def test_data_that_a_stored_run_named_and_never_read_is_left_out(named, kind, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f'activations = "{kind}"\n{named}\n')
    backend = "transformer-lens" if kind == "language-model" else "auto"
    assert read_stored_config(path) == TrainConfig(activations=kind, backend=backend)
    assert as_written(path) == read_config(path) != TrainConfig(activations=kind)


def test_a_run_from_before_there_were_backends_keeps_the_one_it_had(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('activations = "language-model"\nmodel = "m"\n')
    assert read_stored_config(path).backend == "transformer-lens"
    path.write_text(config_text(TrainConfig(model="m")))
    assert read_stored_config(path).backend == "auto"


@pytest.mark.parametrize("name", ADDED)
def test_an_option_that_was_added_counts_only_where_it_is_not_at_its_default(name):
    before = to_table(TrainConfig(model="m"))
    old = {key: value for key, value in before.items() if key not in ADDED}
    assert config_hash(from_table(old)) == config_hash(from_table(before))
    other = {"backend": "transformers", "dtype": "auto", "attn": "eager"}.get(name, "cuda")
    assert config_hash(from_table({**before, name: other})) != config_hash(from_table(before))


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_users_file_with_an_old_name_is_answered_with_the_new_one(old, new, tmp_path):
    table, key = old.split(".")
    path = tmp_path / "mine.toml"
    path.write_text(f"[{table}]\n{key} = 1\n")
    with pytest.raises(ConfigError, match=f"{old} was given, but it is called {new} now"):
        read_config(path)


@pytest.mark.parametrize(
    ("option", "old", "new"), [(o, old, new) for o, v in RENAMED_VALUES.items()
                               for old, new in v.items() if isinstance(old, str)]
)  # fmt: skip
def test_a_users_file_with_an_old_value_is_answered_with_the_new_one(option, old, new, tmp_path):
    table, key = option.split(".")
    path = tmp_path / "mine.toml"
    path.write_text(f"[{table}]\n{key} = '{old}'\n")
    with pytest.raises(ConfigError, match=f"{new}, as it is called now"):
        read_config(path)


def test_every_new_name_is_an_option_and_no_old_one_is():
    kinds = option_types()
    assert set(RENAMED.values()) <= set(kinds)
    assert not set(RENAMED) & set(kinds)
    for option, values in RENAMED_VALUES.items():
        for old, new in values.items():
            assert old not in choices(kinds[option])
            assert not choices(kinds[option]) or new in choices(kinds[option])
