"""The options of `train` that a repair amounts to, for the SAE that was named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from topk_ortho.checkpoint import formats
from topk_ortho.config_file import keys_given
from topk_ortho.experiments.repair.options import RepairOptions, names_given, with_defaults


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
    for at, word in enumerate(rest):
        if word.split("=")[0] == "--config":
            path = word.partition("=")[2] or "".join(rest[at + 1 : at + 2])
            given |= keys_given(Path(path))
    stored = formats.read(options.sae, allow_pickle="allow-pickle" in given)
    arguments = with_defaults(rest, given=given, hook=stored.hook)
    keep_l0 = stored.k is None and "sae.k" not in given
    if keep_l0:
        arguments += ["--sae.k", "1"]  # stands for the measured one
    return Words([*arguments, "--init-from", str(options.sae)], keep_l0)
