"""The data that an SAE is measured on: its run's, unless settings are given in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.paths import stored_config
from topk_ortho.config.rules import check, check_effect
from topk_ortho.config.sources import SOURCES
from topk_ortho.config.toml import overlaid, to_table
from topk_ortho.config.train import OF_A_LANGUAGE_MODEL

OF_A_RUN = ("seed", "eval_samples", "activations", "model", "text", "dataset", "hook", "hook_out",
            "context", "backend", "dtype", "attn", "data", "synthetic", "plant")  # fmt: skip
"""Settings of a run that define its data, beside what is left out of it."""
LEFT_OUT = ("tokens", "leave_out", "skip_positions", "chat_roles", "max_norm")
"""Settings of what is left out, None where nothing is."""
OTHER_DATA = {"text", "dataset", "data"}
"""Those that put other data in the place of a run's own, of which a part was held out."""
Split = Literal["eval", "all"]


@dataclass(frozen=True)
class Asked:
    """Data to measure on.

    Attributes:
        sae: a run folder, or the folder of an SAE.
        config: data, seed, samples and device; everything else in it is a default.
        split: the part of the data that is measured on.
        held_out: whether that part has to be what a run's training left out.
    """

    sae: Path
    config: TrainConfig
    split: Split
    held_out: bool


def understand(
    sae: Path,
    given: Mapping[str, Any],
    *,
    split: Literal["auto", "eval", "all"] = "auto",
    device: str = "auto",
    named: Mapping[str, str] | None = None,
) -> Asked:
    """Returns the data to measure on.

    Args:
        sae: a run folder, or the folder of an SAE.
        given: settings that were given, by their names as options, such as `synthetic.d-in`.
        split: `auto` is what a run's training left out on its own data, else all.
        device: where to measure.
        named: `model`, `hook` and `hook_out` as the SAE itself names them, where it does.

    Raises:
        ConfigError: no data, or data that contradicts itself.
    """
    run = run_config(sae)
    first = {name.partition(".")[0] for name in given}
    kind = _kind(sae, given, first, own=None if run is None else run.activations)
    config = TrainConfig() if run is None else _data_of(run, kind)
    if {"text", "dataset"} & first:
        config = overlaid(config, {"text": (), "dataset": ""})
    config = overlaid(config, {"activations": kind, "device": device, **given})
    if kind == "language-model":
        missing = {n: v for n, v in (named or {}).items() if v and not getattr(config, n)}
        config = overlaid(config, missing)
    check_effect(dict.fromkeys(given, ""), config)
    if kind == "synthetic":
        taken: Split = "eval"  # it never ends, and every block is fresh
    elif split == "auto":
        taken = "all" if run is None or first & OTHER_DATA else "eval"
    else:
        taken = split
    held_out = run is not None and split == "auto" and taken == "eval"
    return Asked(sae, check(config), taken, held_out)


def _data_of(run: TrainConfig, kind: str) -> TrainConfig:
    """The data of a run and nothing else of it, as far as a source of this kind has it."""
    kept = {name: getattr(run, name) for name in (*OF_A_RUN, *LEFT_OUT)}
    if kind != run.activations:
        kept |= {"data": None, **{n: type(kept[n])() for n in OF_A_LANGUAGE_MODEL}}
        kept |= dict.fromkeys(LEFT_OUT)
    return TrainConfig(**{**kept, "activations": kind})


def _kind(sae: Path, given: Mapping[str, Any], first: set[str], *, own: str | None) -> str:
    named = given.get("activations", "auto")
    if named != "auto":
        return named
    of_a_source = first & {word for kind in SOURCES for word in kind.options}
    if own is not None and of_a_source and of_a_source <= SOURCES[own].options:
        return own  # a registered kind may share --data with the package's
    if first & {*OF_A_LANGUAGE_MODEL, "context"}:
        return "language-model"
    if "data" in first:
        return "files"
    if "synthetic" in first:
        return "synthetic"
    if own is not None:
        return own
    raise without_data(sae)


def without_data(sae: Path) -> ConfigError:
    """Returns the refusal of an SAE without data."""
    return ConfigError(
        f"{sae} was given without data, but it is not a run folder with its own; add "
        "--text FILE... (and --model, --hook where the SAE does not name them), --data DIR, or "
        "--activations synthetic."
    )


def data_options(run: TrainConfig) -> dict[str, Any]:
    """Returns a run's data as options by name, such as `synthetic.d-in`."""
    stored = to_table(run)
    found: dict[str, Any] = {}
    for name in (*OF_A_RUN, *LEFT_OUT):
        value = stored.get(name)
        shown = name.replace("_", "-")
        if isinstance(value, dict):
            found |= {f"{shown}.{key.replace('_', '-')}": each for key, each in value.items()}
        elif value is not None:
            found[shown] = value
    return found


def run_config(path: Path) -> TrainConfig | None:
    """Returns the configuration of a run folder, None for any other folder."""
    config = path / "config.toml"
    return stored_config(path) if config.is_file() else None
