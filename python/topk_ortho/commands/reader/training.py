"""The options of a run, on the command line, in a TOML file, and by the name of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_ortho.commands.reader.arguments import Given, build, read
from topk_ortho.commands.reader.options import options_of
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.option import check_ranges, option, table, whole
from topk_ortho.config.registry import CRITERIA
from topk_ortho.config.rules import check, check_effect
from topk_ortho.config.sources import SOURCES
from topk_ortho.config.toml import from_table, given_in, names_in, overlaid, read_table
from topk_ortho.config.train import check_threads
from topk_ortho.studies.grid import cells, names, parse_axis, with_values
from topk_ortho.studies.recipes import recipe

RESUMES_WITH = {"resume", "stop-after", "profile", "timeout"}
REPLACED_BY_A_RECIPE = ("pairs.", "penalty.", "history.")
OVER_MANY_RUNS: Mapping[str, str] = {
    "resume": "an ablation continues by itself when the same command is given again",
    "stop-after": "Ctrl-C stops an ablation, and the same command continues it",
    "profile": "profile one of its arms with topk-ortho train",
    "seed": "seeds are given by --seeds",
    "with-baseline": "the arm without the constraint is always there",
    "no-with-baseline": "the arm without the constraint is always there",
}
"""Options of `train` that mean nothing over many runs, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options that every command that trains takes."""

    config: Path | None = None
    """TOML file with the same names as the options; options given here win."""
    recipe: str | None = None
    """A run of the source experiment (`topk-ortho recipes`) in place of the pairs, penalty and
    history of the TOML file or the defaults; options given here win."""
    settings: TrainConfig = table(TrainConfig, flat=True)
    """The settings to train with."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Training):
    """Train a sparse autoencoder with the top-k orthogonality constraint.

    Without any argument: the quickstart, both arms on the default synthetic data, in a new folder
    under runs/. Hyphens and underscores are the same in names and values.

    Most used: --model, --text and --hook for a language model, or --data for files; --sae.d-sae,
    --sae.k, --steps, --batch-size and --lr; --with-baseline, which compares; --out and --resume.
    """

    out: Path | None = None
    """Run folder; it must not exist yet."""
    resume: Path | None = None
    """Resume this run folder, or folder of runs, from its newest valid checkpoints."""
    vary: tuple[str, ...] = ()
    """Train several runs side by side on the same activations, in folders below --out: axes such as
    hook=blocks.3.hook_resid_post,blocks.9.hook_resid_post or sae.k=16,32; several make a grid. The
    language model runs once for all. Several --hook are an axis as well."""
    stop_after: int | None = option(
        None,
        within=whole(1, 10**12, "at least 1 step",
                     fix="a run that executes no step is a failure"),
    )  # fmt: skip
    """Stop this many steps later as if interrupted; schedules follow the full --steps."""
    profile: int = option(
        0,
        within=whole(0, 10_000, "a number of steps to watch, up to 10,000,",
                     fix="20 is enough for a good mean"),
    )  # fmt: skip
    """Profile this many steps, print where their time goes, and write a trace; 0 for none."""
    timeout: int | None = option(None, within=whole(1, 10**6))
    """Seconds that each of several processes (torchrun) waits for the others, 600 unless given."""


@dataclass(frozen=True)
class Asked:
    """Settings, and what was given of them.

    Attributes:
        settings: checked.
        given: names of the options that were given, and the file that sets each; empty for
            those of the command line.
    """

    settings: TrainConfig
    given: dict[str, str]


def parse(arguments: Sequence[str], *, prog: str = "python -m topk_ortho.train") -> RunOptions:
    """Returns the options of a run; its settings are checked, and each of them has an effect.

    Raises:
        ConfigError: an unknown option, or a setting that cannot be used or has no effect.
        SystemExit: `--help`.
    """
    given = read(RunOptions, hooks_as_axis(arguments), prog=prog)
    if "resume" in given.values and (others := sorted(given.values.keys() - RESUMES_WITH)):
        raise ConfigError(
            f"--resume was given together with --{others[0]}, but a run resumes with its own "
            "configuration; leave the option out, or start a new run."
        )
    quickstart = {} if arguments else {"with-baseline": True}
    chosen = cells([parse_axis(text, seeds=True) for text in given.values.get("vary", ())])
    for name, value in chosen[0].items():  # the first run stands for all of them
        given.values.setdefault(name, value)
    asked = settings_of(given, defaults=quickstart)
    runs = [with_values(asked.settings, values) for values in chosen]
    check_effect(asked.given, *runs)
    return dataclasses.replace(build(RunOptions, given), settings=asked.settings)


def several(options: RunOptions) -> dict[str, TrainConfig]:
    """Returns the runs of `--vary` by their names, of which each is a folder.

    Raises:
        ConfigError: a setting of one of them that cannot be used.
    """
    chosen = cells([parse_axis(text, seeds=True) for text in options.vary])
    runs = [check(with_values(options.settings, values)) for values in chosen]
    return dict(zip(names(chosen), runs, strict=True))


def hooks_as_axis(arguments: Sequence[str]) -> list[str]:
    """Returns the words with `--hook A --hook B` as `--vary hook=A,B`; one `--hook` stays."""
    words, hooks, kept = list(arguments), [], []
    while words:
        word = words.pop(0)
        if word == "--hook" and words and not words[0].startswith("--"):
            hooks.append(words.pop(0))
        elif word.startswith("--hook="):
            hooks.append(word.removeprefix("--hook="))
        else:
            kept.append(word)
    if len(hooks) < 2:
        return list(arguments)
    return [*kept, "--vary", f"hook={','.join(hooks)}"]


def settings_of(given: Given, *, defaults: Mapping[str, Any] | None = None) -> Asked:
    """Returns the settings of a command that trains, checked; whether all have an effect is not.

    Args:
        given: what `read` found.
        defaults: values of options, in place of the configuration's own defaults.

    Raises:
        ConfigError: a file or recipe that does not exist, or a setting that cannot be used.
    """
    options = options_of(TrainConfig)
    own = {name: value for name, value in given.values.items() if name in options}
    path: Path | None = given.values.get("config")
    stored = {} if path is None else read_table(path)
    in_file, meant = names_in(stored), given_in(stored)
    stored = _of_one_source(stored, own)
    settings = from_table(stored, where=str(path))
    check_ranges(settings)
    if name := given.values.get("recipe"):
        settings = _freely_sized(recipe(name).config(settings), own)
        in_file = {n for n in in_file if not n.startswith(REPLACED_BY_A_RECIPE)}
    missing = {n: v for n, v in (defaults or {}).items() if n not in {*own, *in_file}}
    if "activations" not in stored:
        missing.setdefault("activations", "auto")
    settings = overlaid(settings, {**missing, **own})
    check_ranges(settings)
    if settings.init_from is not None:
        from topk_ortho.training.warm_start import fine_tuning

        settings = fine_tuning(settings, given={*own, *in_file, *(defaults or {})})
    check_threads(settings.threads)
    if settings.log_to:
        from topk_ortho.training.loggers import check_loggers

        check_loggers(settings.log_to)
    where = {name: str(path) for name in meant & in_file} | dict.fromkeys(own, "")
    return Asked(check(settings), where)


def _of_one_source(stored: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A file's settings without the source of activations that the command line replaces."""
    first = {name.partition(".")[0] for name in own}
    named = own.get("activations", "auto")
    sources = {k.name for k in SOURCES if first & k.options and k.name != "synthetic"}
    if named != "auto":
        sources = {named}
    if len(sources) != 1:
        return stored
    others = {n for k in SOURCES if k.name not in sources for n in k.options}
    return {k: v for k, v in stored.items()
            if k.replace("-", "_") not in {*others, "activations"}}  # fmt: skip


def _freely_sized(settings: TrainConfig, own: Mapping[str, Any]) -> TrainConfig:
    """A recipe's settings without its size of a selection, where the options say another."""
    criterion = own.get("pairs.criterion", "none")
    own_size = criterion != "none" and CRITERIA[criterion].own_size
    other = "pairs.per-feature" in own or own_size
    if not other or "pairs.fraction" in own:
        return settings
    pairs = dataclasses.replace(
        settings.pairs, fraction=None, schedule="constant", final_fraction=None, schedule_steps=None
    )
    return dataclasses.replace(settings, pairs=pairs)
