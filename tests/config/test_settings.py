"""Settings made in Python: checked at once, in Python's words, and shown in one line."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topk_ortho import OrthogonalityConfig
from topk_ortho.config import (
    ConfigError,
    HistoryConfig,
    PairsConfig,
    PenaltyConfig,
    PlantConfig,
    SAEConfig,
    SyntheticConfig,
    TrainConfig,
)
from topk_ortho.config.errors import as_python, closest, in_python
from topk_ortho.config.rules import check
from topk_ortho.config.settings import unchecked
from topk_ortho.config.toml import config_hash, config_text, from_table, read_config

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (TrainConfig, {"steps": -1}, "TrainConfig(steps=-1) was given, but a run needs at least 1"),
    (TrainConfig, {"steps": 1.5}, "TrainConfig(steps=1.5) was given, but a value of type int"),
    (TrainConfig, {"device": 3}, "TrainConfig(device=3) was given, but a value of type str"),
    (TrainConfig, {"sae": {"k": 3}}, "TrainConfig(sae={'k': 3}) was given, but SAEConfig(...)"),
    (TrainConfig, {"sae": SAEConfig}, "but SAEConfig(...) was expected; make one"),
    (TrainConfig, {"lr": float("nan")}, "TrainConfig(lr=nan) was given, but a finite number above"),
    (TrainConfig, {"steps": None}, "TrainConfig(steps=None) was given, but a value of type int"),
    (TrainConfig, {"activations": "sythetic"}, "perhaps you meant synthetic"),
    (SAEConfig, {"kind": "btk"}, "SAEConfig(kind='btk') was given, but one of topk, batch-topk"),
    (
        SAEConfig,
        {"d_sae": 1},
        "but a pair needs 2 features, and 2 to 16,777,216 was expected",
    ),
    (SAEConfig, {"prefixes": [3, "x"]}, "SAEConfig(prefixes=[3, 'x']) was given"),
    (PairsConfig, {"fraction": 2.0}, "PairsConfig(fraction=2.0) was given, but a share"),
    (PairsConfig, {"criterion": "coactvation"}, "perhaps you meant coactivation"),
    (PenaltyConfig, {"tau": "fixd"}, "perhaps you meant fixed"),
    (HistoryConfig, {"decay": 1.0}, "HistoryConfig(decay=1.0) was given"),
    (PlantConfig, {"roots": 0}, "PlantConfig(roots=0) was given"),
    (SyntheticConfig, {"noise": -1.0}, "SyntheticConfig(noise=-1.0) was given, but 0 or more"),
    (OrthogonalityConfig, {"seed": -2}, "see help(OrthogonalityConfig) for the default"),
    (OrthogonalityConfig, {"decoder": "cols"}, "OrthogonalityConfig(decoder='cols') was given"),
]


@pytest.mark.parametrize(("cls", "values", "said"), REFUSED)
def test_a_setting_is_refused_where_it_is_made(cls: type, values: dict, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cls(**values)
    message = str(refused.value)
    assert said in message
    assert "--" not in message and "\n" not in message


def test_values_take_the_type_of_their_option() -> None:
    config = TrainConfig(text="a.txt", model=Path("m"), hook="h", steps=np.int64(7), lr=1)  # type: ignore[arg-type]
    assert (config.text, config.model, config.steps, config.lr) == ((Path("a.txt"),), "m", 7, 1.0)
    assert type(config.steps) is int and type(config.lr) is float
    sae = SAEConfig(kind="batch_topk", k=torch.tensor(4), prefixes=np.array([8, 256]))  # type: ignore[arg-type]
    assert (sae.kind, sae.k, sae.prefixes) == ("batch-topk", 4.0, (8, 256))
    assert config_hash(TrainConfig(sae=SAEConfig(k=16))) == config_hash(
        TrainConfig(sae=SAEConfig(k=16.0))
    )


def test_the_repr_is_what_makes_the_same_settings() -> None:
    config = TrainConfig(steps=9, sae=SAEConfig(kind="topk", k=3), pairs=PairsConfig(fraction=0.1))
    assert repr(config) == (
        "TrainConfig(steps=9, activations='synthetic', sae=SAEConfig(kind='topk', k=3.0), "
        "pairs=PairsConfig(fraction=0.1))"
    )
    assert eval(repr(config)) == config
    assert repr(SAEConfig()) == "SAEConfig()"


def test_settings_are_copied_and_pickled() -> None:
    config = TrainConfig(steps=9, sae=SAEConfig(k=3))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_a_file_is_checked_as_a_whole_in_its_own_words(tmp_path: Path) -> None:
    config = from_table({"steps": 0})
    assert config.steps == 0
    with pytest.raises(ConfigError, match="--steps 0 was given"):
        check(config)
    path = tmp_path / "config.toml"
    path.write_text(config_text(TrainConfig(steps=9)))
    assert read_config(path) == TrainConfig(steps=9)


def test_unchecked_settings_have_the_other_defaults() -> None:
    config = unchecked(SAEConfig, {"k": None})
    assert config.k is None and config.d_sae == SAEConfig().d_sae
    assert unchecked(TrainConfig, {"data": Path("x")}).activations == "files"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("--sae.k 8 was given, but lower --sae.d-sae", "sae.k=8 was given, but lower sae.d_sae"),
        ("--pairs.fraction 0.1 and --pairs.per-feature 2 were", "pairs.fraction=0.1 and pairs.per_"
         "feature=2 were"),
        ("--text was given; leave --history.no-enabled out", "text was given; leave "
         "history.enabled=False out"),
        ("nothing of the kind - at all", "nothing of the kind - at all"),
    ],
)  # fmt: skip
def test_options_are_said_as_python_has_them(message: str, said: str) -> None:
    assert as_python(message).startswith(said)
    with pytest.raises(ConfigError) as refused, in_python():
        raise ConfigError(message)
    assert str(refused.value) == as_python(message)


OPTIONS = ["sae.k", "hook", "sae.kind", "pairs.fraction", "plant.roots", "synthetic.roots", "steps"]


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("k", OPTIONS, ["sae.k"]),
        ("kind", OPTIONS, ["sae.kind"]),
        ("roots", OPTIONS, ["plant.roots", "synthetic.roots"]),
        ("wandb", OPTIONS, []),
        ("fractions", OPTIONS, ["pairs.fraction"]),
        ("step", OPTIONS, ["steps"]),
        ("btopk", ["topk", "batch-topk", "relu"], ["batch-topk"]),
        ("tpok", ["topk", "batch-topk", "relu"], ["topk"]),
    ],
)
def test_the_closest_names_are_offered(name: str, names: list[str], near: list[str]) -> None:
    assert closest(name, names) == near
