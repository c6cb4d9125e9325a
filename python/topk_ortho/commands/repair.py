"""Fine-tune a trained SAE under the constraint, and compare before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from topk_ortho.commands.reader import Asked, Given, Training, build, read, settings_of
from topk_ortho.commands.reader.output import say
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.option import option
from topk_ortho.config.rules import check_effect
from topk_ortho.config.toml import from_table, names_in, read_table

REFUSED = {
    "init-from": "the SAE to repair is the first argument",
    "resume": "an interrupted repair continues when the same command is given again",
    "stop-after": "Ctrl-C stops a repair, and the same command with the same --out continues it",
    "profile": "profile the run with topk-ortho train --init-from",
    "with-baseline": "before and after are compared",
    "no-with-baseline": "before and after are compared",
}
"""Options of `train` that mean nothing here, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Fine-tune a trained SAE briefly under the constraint, and compare it before and after.

    Takes every option of `topk-ortho train`: the activations that the SAE reads (--model, --text
    and --hook, or --data, or the synthetic data; a run's own unless given), and anything else in
    place of the defaults of a repair. The repaired SAE is written in the layout that it came in.
    Interrupted at any point, the same command with the same --out continues.
    """

    sae: Path = option(positional=True)
    """A run folder, or a folder of SAELens, dictionary_learning or sparsify."""
    out: Path | None = None
    """Run folder, with the repaired SAE in repaired/; a new one under runs/ unless given."""
    atlas: Path | None = None
    """What `topk-ortho atlas --out` wrote for this SAE: its edges are the pairs, and no others."""
    json: bool = False
    """Print JSON."""


class Repairing(NamedTuple):
    """The settings that a command line amounts to.

    Attributes:
        settings: of the fine-tuning.
        keep_l0: whether the SAE's mean L0 has to be measured, since its files do not say it.
    """

    settings: TrainConfig
    keep_l0: bool


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    given = read(Options, arguments, prog=prog, refused=REFUSED)
    o = build(Options, given)
    settings, keep_l0 = repairing(given)
    from topk_ortho.inspect.repair.repair import repair
    from topk_ortho.inspect.repair.text import as_text

    done = repair(settings, o.out, keep_l0=keep_l0)
    say(json.dumps(done.as_json(), indent=2) if o.json else as_text(done))
    return 0


def _of_atlas(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with the pairs of an atlas, where one was given."""
    if (atlas := values.get("atlas")) is None:
        return dict(values)
    from topk_ortho.inspect.repair.edges import read_edges

    if "pairs.criterion" in values:
        raise ConfigError(
            f"--pairs.criterion {values['pairs.criterion']} was given together with --atlas "
            f"{atlas}, whose edges are the pairs; leave one of them out."
        )
    return {**values, "pairs.criterion": "given", "pairs.given": read_edges(atlas)}


def repairing(given: Given) -> Repairing:
    """Returns the settings of `train` that a repair amounts to, for the SAE that was named.

    Raises:
        ConfigError: no SAE there, one that is not opened, or a setting that cannot be used.
    """
    from topk_ortho import formats
    from topk_ortho.inspect.repair.defaults import defaults, own_data

    values, path = _of_atlas(given.values), given.values.get("config")
    stored = {} if path is None else read_table(path)
    names = {*values, *names_in(stored)}
    there = from_table(stored, where=str(path))
    criterion: Any = there.pairs.criterion if "pairs.criterion" in names else None
    sae = formats.read(values["sae"], allow_pickle=values.get("allow-pickle", there.allow_pickle))
    sae.check_no_transcoder(values["sae"], command="topk-ortho repair")
    usual = defaults(sae, given=names, criterion=values.get("pairs.criterion", criterion))
    usual = {**own_data(values["sae"], given=names), **usual}
    forced = {"init-from": values["sae"], "with-baseline": False}
    asked: Asked = settings_of(replace(given, values={**values, **forced}), defaults=usual)
    check_effect({n: w for n, w in asked.given.items() if n not in forced}, asked.settings)
    return Repairing(asked.settings, keep_l0=sae.k is None and "sae.k" not in names)
