"""The command line of a run: arguments in, options out. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.registry import CRITERIA
from topk_ortho.config.renamed import renamed_option, renamed_value
from topk_ortho.config.rules import check
from topk_ortho.config.toml import choices, keys_given, nearest, option_types, read_config
from topk_ortho.studies.recipes import recipe
from topk_ortho.terminal import printable

GO_WITH_RESUME = {"resume", "stop-after", "profile"}


@dataclass(frozen=True)
class RunOptions:
    """Train a sparse autoencoder with the top-k orthogonality constraint.

    Without any argument: the quickstart, both arms on the default synthetic data, in a new folder
    under runs/. Hyphens and underscores are the same in names and values.
    """

    config: Path | None = None
    """TOML file with the same names as the options; options given here win."""
    recipe: str | None = None
    """A run of the source documents (`topk-ortho recipes`) in place of the pairs, penalty and
    history of the TOML file or the defaults; options given here win."""
    out: Path | None = None
    """Run folder; it must not exist yet."""
    resume: Path | None = None
    """Go on with this run folder, from its newest valid checkpoint."""
    stop_after: int | None = None
    """Stop so many steps later as if interrupted; schedules follow the full --steps."""
    profile: int = 0
    """Watch so many steps, print where their time goes, and write a trace; 0 for none."""
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """What to train."""


def parse(arguments: list[str], *, prog: str = "python -m topk_ortho.train") -> RunOptions:
    """Options of a run; its settings are checked.

    Raises:
        ConfigError: an unknown option, or a setting that cannot be used.
        SystemExit: `--help`.
    """
    known = _known_options()
    arguments = [_canonical(a, known) for a in arguments]
    arguments = _after_equals(arguments, known)
    if not {"-h", "--help"} & set(arguments):
        _check_values(arguments, known)
    given = {a[2:].split("=")[0] for a in arguments if a.startswith("--")}
    if "resume" in given and given - GO_WITH_RESUME:
        raise ConfigError(
            f"--resume was given together with --{sorted(given - GO_WITH_RESUME)[0]}, but a run "
            "goes on with its own configuration; leave the option out, or start a new run."
        )
    try:
        options = tyro.cli(RunOptions, args=arguments, default=_default(arguments), prog=prog)
    except SystemExit:
        _print_registered(known)
        raise
    if options.stop_after is not None and options.stop_after < 1:
        raise ConfigError(
            f"--stop-after {options.stop_after} was given, but at least 1 step was expected; "
            "a run that executes no step is a failure."
        )
    if options.profile < 0:
        raise ConfigError(
            f"--profile {options.profile} was given, but a number of steps to watch was expected; "
            "20 is enough for a good mean."
        )
    if any(name.startswith("plant.") for name in given - {"plant.enabled", "plant.no-enabled"}):
        plant = dataclasses.replace(options.settings.plant, enabled=True)
        settings = dataclasses.replace(options.settings, plant=plant)
        options = dataclasses.replace(options, settings=settings)
    settings = _fine_tuning(options, given)
    return dataclasses.replace(options, settings=check(settings))


def _print_registered(known: dict[str, Any]) -> None:
    """What the help above cannot know: values that any package may add to."""
    for name, kind in known.items():
        if typing.get_origin(kind) is Annotated:
            print(f"values of --{name}: {', '.join(choices(kind))}")


def _fine_tuning(options: RunOptions, given: set[str]) -> TrainConfig:
    """The settings with what the SAE of --init-from says, which nothing given may contradict."""
    if options.settings.init_from is None:
        return options.settings
    from topk_ortho.training.warm_start import fine_tuning

    in_file = set() if options.config is None else keys_given(options.config)
    return fine_tuning(options.settings, given=given | in_file)


def _default(arguments: list[str]) -> RunOptions:
    """What the options start from: the quickstart, a TOML file, a recipe, or the defaults."""
    if not arguments:
        return RunOptions(settings=TrainConfig(with_baseline=True))
    given = dict(itertools.pairwise(arguments))
    config = given.get("--config")
    settings = TrainConfig() if config is None else read_config(Path(config))
    if "--recipe" in given:
        settings = recipe(given["--recipe"]).config(settings)
        settings = _freely_sized(settings, given)
    return RunOptions(settings=settings)


def _freely_sized(settings: TrainConfig, given: dict[str, str]) -> TrainConfig:
    """A recipe's settings without its size of a selection, where the options say another."""
    criterion = given.get("--pairs.criterion", "none")
    own_size = criterion != "none" and CRITERIA[criterion].own_size
    other = "--pairs.per-feature" in given or own_size
    if not other or "--pairs.fraction" in given:
        return settings
    pairs = dataclasses.replace(
        settings.pairs, fraction=None, schedule="constant", final_fraction=None, schedule_steps=None
    )
    return dataclasses.replace(settings, pairs=pairs)


def _known_options() -> dict[str, Any]:
    """Every option and its type; a flag also has its negation."""
    known = option_types(RunOptions)
    known = {name.removeprefix("settings."): kind for name, kind in known.items()}
    for name in [name for name, kind in known.items() if kind is bool]:
        head, _, tail = name.rpartition(".")
        known[f"{head}.no-{tail}" if head else f"no-{tail}"] = bool
    return known | {"plant": bool, "help": bool}


def _canonical(argument: str, known: dict[str, Any]) -> str:
    """An option with hyphens for underscores; anything else as it stands."""
    if not argument.startswith("--") or argument == "--":
        return argument
    name, equals, value = argument[2:].partition("=")
    name = name.replace("_", "-")
    if name not in known:
        if renamed := renamed_option(name):
            raise ConfigError(f"the option {renamed}")
        near = nearest(f"--{name}", [f"--{other}" for other in known])
        raise ConfigError(
            f"the option --{name} was given, but there is none of that name{near}; "
            "see --help for all of them."
        )
    name = "plant.enabled" if name == "plant" else name
    return f"--{name}{equals}{value}"


def _after_equals(arguments: list[str], known: dict[str, Any]) -> list[str]:
    """Split `--name=value`, and give the values of choices hyphens for underscores."""
    out: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        out += [name, value] if argument.startswith("--") and equals else [argument]
    for at in range(1, len(out)):
        kind = known.get(out[at - 1][2:]) if out[at - 1].startswith("--") else None
        if choices(kind):
            out[at] = out[at].replace("_", "-")
    return out


def _check_values(arguments: list[str], known: dict[str, Any]) -> None:
    """Every option has a value that can be read, and nothing stands alone.

    Raises:
        ConfigError: the first that has not.
    """
    option, kind, taken = "", bool, 0
    for argument in [*arguments, "--"]:
        if argument.startswith("--"):
            if kind is not bool and not taken:
                raise ConfigError(
                    f"{option} was given without a value, but {_expected(kind)} was expected; "
                    "add it."
                )
            option, kind, taken = argument, known.get(argument[2:], bool), 0
            continue
        taken += 1
        if kind is bool or (taken > 1 and typing.get_origin(kind) is not tuple):
            raise ConfigError(
                f"{argument!r} was given after {option or 'no option'}, but an option was expected "
                "there; take it out, or see --help."
            )
        if not _readable(argument, kind):
            if (renamed := renamed_value(option[2:], argument)) is not None:
                raise ConfigError(
                    f"{option} {argument} was given, but it is called {renamed} now; write "
                    f"{option} {renamed}."
                )
            listed = [str(name) for name in choices(kind)]
            near = nearest(argument, listed) if listed else ""
            raise ConfigError(
                f"{option} {argument} was given, but {_expected(kind)} was expected{near}; "
                "correct it."
            )


def _readable(argument: str, kind: Any) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if listed := choices(kind):
        return argument in listed
    if origin is tuple or parts:
        return any(argument == "None" if p is type(None) else _readable(argument, p)
                   for p in parts if p is not Ellipsis)  # fmt: skip
    if kind not in (int, float):
        return True
    try:
        kind(argument)
    except ValueError:
        return False
    return True


def _expected(kind: Any) -> str:
    parts = typing.get_args(kind)
    if listed := choices(kind):
        return f"one of {', '.join(map(str, listed))}"
    if parts:
        return _expected(parts[0])
    names = {int: "a whole number", float: "a number", Path: "a path"}
    return names.get(kind, "a value")


def fail(error: Exception | str, code: int = 2) -> int:
    """Print one sentence to stderr and return the exit code."""
    print(f"error: {printable(str(error))}", file=sys.stderr)
    return code
