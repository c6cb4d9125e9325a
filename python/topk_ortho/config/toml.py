"""Configurations as TOML: read, written, hashed; unknown keys are refused by their nearest name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topk_ortho.config import TrainConfig
from topk_ortho.config.errors import ConfigError
from topk_ortho.config.errors import nearest as nearest
from topk_ortho.config.renamed import (
    renamed_option,
    renamed_value,
    with_new_names,
    with_old_names,
)
from topk_ortho.config.settings import unchecked
from topk_ortho.config.spelling import spelled
from topk_ortho.config.train import OF_A_LANGUAGE_MODEL
from topk_ortho.config.values import UnfitError, field_types, typed

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

UNREAD = {
    "synthetic": (*OF_A_LANGUAGE_MODEL, "data"),
    "files": OF_A_LANGUAGE_MODEL,
    "language-model": ("data",),
}
"""Kind of activations: options that name data of another kind."""

D = typing.TypeVar("D", bound="DataclassInstance")

# What does not change a run's metrics.
NOT_HASHED = frozenset(
    {
        "with_baseline",
        "log_every",
        "log_to",
        "checkpoint_every",
        "keep_checkpoints",
        "prefetch",
        "evaluate_every",
        "evaluate_samples",
        "threads",
        "init_from",  # `init_sha256` names it by its content
        "allow_pickle",
    }
)


# Options that earlier versions did not have; one that is at its default leaves the hash as it was.
ADDED = ("backend", "dtype", "attn", "model_device", "device_map", "hook_out")


def read_config(path: Path) -> TrainConfig:
    """Returns the configuration in a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    return from_table(read_table(path), where=str(path))


def read_stored_config(path: Path) -> TrainConfig:
    """Returns the configuration that a run stored, whatever its options were called then.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    config = _as_it_ran(as_written(path))
    if config.activations == "language-model" and "backend" not in read_table(path):
        return dataclasses.replace(config, backend="transformer-lens")  # all there was
    return config


def as_written(path: Path) -> TrainConfig:
    """The configuration that a run stored, with what it named and never read: the one it is hashed
    by.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    return from_table(with_new_names(read_table(path)), where=str(path))


def _as_it_ran(config: TrainConfig) -> TrainConfig:
    """The configuration without the names of data that its source never read.

    Earlier versions took a model or a folder along with another kind of activations, and trained
    without it; refusing it now would leave their runs closed.
    """
    if config.activations not in UNREAD:
        return config
    plain = TrainConfig()
    return dataclasses.replace(
        config, **{name: getattr(plain, name) for name in UNREAD[config.activations]}
    )


def given_in(table: dict[str, Any]) -> set[str]:
    """Returns the options that a file sets on purpose, such as `sae.d-sae`.

    None of a file that was written out by a run: it states every setting, used or not. One in ten
    may be missing, since earlier versions had fewer.
    """
    names = names_in(table)
    all_names = names_in(to_table(TrainConfig()))
    return set() if len(names & all_names) >= 0.9 * len(all_names) else names


def names_in(table: dict[str, Any]) -> set[str]:
    """Returns the options that nested tables set, such as `sae.d-sae`."""
    names = set()
    for name, value in table.items():
        inner = value if isinstance(value, dict) else {"": value}
        names |= {f"{name}.{key}".rstrip(".").replace("_", "-") for key in inner}
    return names


def overlaid(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Returns the configuration with other values for some options.

    Args:
        config: what they are put over.
        values: by name, such as `sae.d-sae`; an option of `plant` plants unless one says no.
    """
    table = to_table(config)
    if "plant.enabled" not in values and any(name.startswith("plant.") for name in values):
        values = {**values, "plant.enabled": True}
    for option, value in values.items():
        *heads, name = option.replace("-", "_").split(".")
        inner = table
        for head in heads:
            inner = inner[head]
        if value is None:
            inner.pop(name, None)
        else:
            inner[name] = list(value) if isinstance(value, tuple) else value
    return from_table(table)


def read_table(path: Path) -> dict[str, Any]:
    """Returns a TOML file as nested tables.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"--config {path} was given, but there is no such file; check the path."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"--config {path} was given, but it cannot be read ({error.strerror}); "
            "give a TOML file."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} was given, but it is not TOML ({error}); correct it.") from None
    except RecursionError:
        raise ConfigError(
            f"{path} was given, but its tables are nested too deeply; correct it."
        ) from None


def from_table(table: dict[str, Any], *, where: str = "the configuration") -> TrainConfig:
    """The configuration of nested tables with the command line's names."""
    if isinstance(table.get("plant"), dict):
        table = {**table, "plant": {"enabled": True, **table["plant"]}}
    return _build(TrainConfig, table, where, "")


def canonical(config: D) -> D:
    """The same settings with names as the options have them, and values of the right type.

    Raises:
        ConfigError: a value of the wrong type, or none of those that may be given.
    """
    table = _plain(dataclasses.asdict(config))
    return typing.cast(D, _build(type(config), table, "the configuration", ""))


def to_table(config: TrainConfig) -> dict[str, Any]:
    """Nested tables of plain values; settings that were left open are left out."""
    return _plain(dataclasses.asdict(config))


def config_text(config: TrainConfig) -> str:
    """The TOML that `read_config` reads back to the same configuration."""
    import tomli_w

    return tomli_w.dumps(to_table(config))


def config_hash(config: TrainConfig) -> str:
    """Returns 16 hexadecimal digits that identify what a run computes.

    Models, texts and data count by their own name and not by the folder they lie in, so that a run
    is the same one after they have been moved.
    """
    table = {k: v for k, v in to_table(config).items() if k not in NOT_HASHED}
    plain = TrainConfig()
    for key in ADDED:
        if table[key] == getattr(plain, key):
            del table[key]
    for key in {"model", "data"} & table.keys():
        table[key] = Path(table[key]).name
    if "text" in table:
        table["text"] = [Path(path).name for path in table["text"]]
    table = with_old_names(table)
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def option_types(cls: type = TrainConfig, prefix: str = "") -> dict[str, Any]:
    """The type of every option by its name on the command line, such as `pairs.per-feature`."""
    types_: dict[str, Any] = {}
    for name, kind in field_types(cls).items():
        if dataclasses.is_dataclass(kind):
            types_ |= option_types(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            types_[prefix + name.replace("_", "-")] = kind
    return types_


def _build(cls: type, table: dict[str, Any], where: str, prefix: str) -> Any:
    hints = field_types(cls)
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        shown = prefix + key
        if name not in hints:
            if renamed := renamed_option(shown):
                raise ConfigError(f"{where}: {renamed}")
            known = [prefix + known for known in hints]
            raise ConfigError(
                f"{where} has an unknown key {shown}{nearest(shown, known)}; "
                "correct it or remove it."
            )
        if name in values:
            raise ConfigError(
                f"{where} has {shown} twice, with a hyphen and an underscore; keep one."
            )
        values[name] = _value(hints[name], value, where, shown)
    return unchecked(cls, values)


def _value(hint: Any, value: Any, where: str, shown: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(typing.cast(type, hint), value, where, f"{shown}.")
        raise _mismatch(where, shown, value, "a table")
    if (renamed := renamed_value(shown, value)) is not None:
        raise _mismatch(where, shown, value, f"{renamed}, as it is called now,")
    try:
        return typed(hint, value)
    except UnfitError as error:
        raise _mismatch(where, shown, value, str(error)) from None


def _mismatch(where: str, shown: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{where} has {shown} = {value!r}, but {expected} was expected; correct it.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return spelled(str(value)) if isinstance(value, (Path, str)) else value
