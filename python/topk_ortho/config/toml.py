"""Configurations as TOML: read, written, hashed; unknown keys are refused by their nearest name."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError, TrainConfig

# What does not change a run's figures.
NOT_HASHED = frozenset(
    {
        "with_baseline",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "threads",
        "init_from",  # `init_sha256` names it by its content
        "allow_pickle",
    }
)


def read_config(path: Path) -> TrainConfig:
    """The configuration in a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    return from_table(_read_table(path), where=str(path))


def keys_given(path: Path) -> set[str]:
    """The options that a TOML file sets, such as `sae.d-sae`.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    names = set()
    for name, value in _read_table(path).items():
        inner = value if isinstance(value, dict) else {"": value}
        names |= {f"{name}.{key}".rstrip(".").replace("_", "-") for key in inner}
    return names


def _read_table(path: Path) -> dict[str, Any]:
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


def to_table(config: TrainConfig) -> dict[str, Any]:
    """Nested tables of plain values; settings that were left open are left out."""
    return _plain(dataclasses.asdict(config))


def config_text(config: TrainConfig) -> str:
    """The TOML that `read_config` reads back to the same configuration."""
    import tomli_w

    return tomli_w.dumps(to_table(config))


def config_hash(config: TrainConfig) -> str:
    """16 hexadecimal digits that name what a run computes.

    Models, texts and data count by their own name and not by the folder they lie in, so that a run
    is the same one after they have been moved.
    """
    table = {k: v for k, v in to_table(config).items() if k not in NOT_HASHED}
    for key in {"model", "data"} & table.keys():
        table[key] = Path(table[key]).name
    if "text" in table:
        table["text"] = [Path(path).name for path in table["text"]]
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def option_types(cls: type = TrainConfig, prefix: str = "") -> dict[str, Any]:
    """The type of every option by its name on the command line, such as `pairs.per-feature`."""
    types_: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            types_ |= option_types(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            types_[prefix + name.replace("_", "-")] = kind
    return types_


def nearest(name: str, names: list[str]) -> str:
    """` (perhaps you meant X)` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (perhaps you meant {close[0]})" if close else ""


def _build(cls: type, table: dict[str, Any], where: str, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        shown = prefix + key
        if name not in hints:
            known = [prefix + known for known in hints]
            raise ConfigError(
                f"{where} has an unknown key {shown}{nearest(shown, known)}; "
                "correct it or take it out."
            )
        if name in values:
            raise ConfigError(
                f"{where} has {shown} twice, with a hyphen and an underscore; keep one."
            )
        values[name] = _value(hints[name], value, where, shown)
    return cls(**values)


def _value(hint: Any, value: Any, where: str, shown: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(typing.cast(type, hint), value, where, f"{shown}.")
        raise _mismatch(where, shown, value, "a table")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _value(next(a for a in args if a is not type(None)), value, where, shown)
    if origin is typing.Literal:
        canonical = value.replace("_", "-") if isinstance(value, str) else value
        if canonical in args:
            return canonical
        near = nearest(str(canonical), [str(a) for a in args])
        raise _mismatch(where, shown, value, f"one of {', '.join(map(str, args))}{near}")
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(args[0], item, where, shown) for item in items)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _mismatch(where, shown, value, f"a value of type {hint.__name__}")
    return value


def _mismatch(where: str, shown: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{where} has {shown} = {value!r}, but {expected} was expected; correct it.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
