"""The options of `train` that a repair amounts to, for the SAE that was named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from topk_ortho import formats
from topk_ortho.config import PairsConfig
from topk_ortho.config.toml import keys_given, read_config
from topk_ortho.inspect.repair.options import RepairOptions, with_defaults
from topk_ortho.studies.options import names_given


class Words(NamedTuple):
    """What `train` is told.

    Attributes:
        arguments: its options.
        keep_l0: whether the SAE's mean L0 has to be measured, since its files do not say it.
    """

    arguments: list[str]
    keep_l0: bool


def words_for(options: RepairOptions, rest: Sequence[str]) -> Words:
    """Options of `train`: those given, and the defaults of a repair for the others.

    Raises:
        ConfigError: no SAE there, or one that is not opened.
    """
    given = names_given(rest)
    criterion, allow_pickle = _value(rest, "pairs.criterion"), "allow-pickle" in given
    if file := _value(rest, "config"):
        there, keys = read_config(Path(file)), keys_given(Path(file))
        allow_pickle = allow_pickle or there.allow_pickle
        if "pairs.criterion" in keys:
            criterion = criterion or there.pairs.criterion
        given |= keys
    stored = formats.read(options.sae, allow_pickle=allow_pickle)
    usual = "recipe" not in given and criterion in (None, PairsConfig().criterion)
    arguments = with_defaults(rest, given=given, usual=usual, hook=stored.hook)
    keep_l0 = stored.k is None and "sae.k" not in given
    if keep_l0:
        arguments += ["--sae.k", "1"]  # stands for the measured one
    return Words([*arguments, "--no-with-baseline", "--init-from", str(options.sae)], keep_l0)


def _value(arguments: Sequence[str], name: str) -> str | None:
    """What an option was given as, the last time."""
    found = None
    for at, word in enumerate(arguments):
        option, _, value = word.partition("=")
        if option.replace("_", "-") == f"--{name}":
            found = value or "".join(arguments[at + 1 : at + 2])
    return found
