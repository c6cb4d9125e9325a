"""The data that a command measures an SAE on, out of all its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topk_ortho.commands.reader.options import options_of
from topk_ortho.config import ConfigError, TrainConfig

NOT_DATA = {"device", "allow-pickle"}
"""Options that `train` has as well, and that do not describe the data."""


def data_settings(values: Mapping[str, Any], options: type) -> dict[str, Any]:
    """Returns the given settings that describe the data to measure on.

    Args:
        values: what was given, by the names of options.
        options: the command's; those that `train` has as well describe the data.
    """
    known = options_of(TrainConfig).keys() & options_of(options).keys()
    return {name: value for name, value in values.items() if name in known - NOT_DATA}


def check_one_text(values: Mapping[str, Any]) -> None:
    """Refuse two texts, before anything is looked up.

    Raises:
        ConfigError: both were given.
    """
    if {"text", "dataset"} <= values.keys():
        raise ConfigError(
            "--text and --dataset were both given, but one was expected; leave one of them out."
        )
