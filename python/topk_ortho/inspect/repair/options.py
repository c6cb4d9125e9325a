"""The command line of `repair`: its own options, those of `train`, and few-step defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.config import ConfigError
from topk_ortho.studies.options import split


@dataclass(frozen=True)
class RepairOptions:
    """Fine-tune a trained SAE briefly under the constraint, and compare it before and after.

    Takes every option of `topk-ortho train`: the activations that the SAE reads (--model, --text
    and --hook, or --data, or the synthetic data), and anything else in place of the defaults of a
    repair. The repaired SAE is written in the layout that it came in. Interrupted anywhere, the
    same command with the same --out goes on.
    """

    sae: Path
    """A run folder, or a folder of SAELens, dictionary_learning or sparsify."""
    out: Path | None = None
    """Run folder, with the repaired SAE in repaired/; a new one under runs/ unless given."""
    json: bool = False
    """Print JSON."""


DEFAULTS: Mapping[str, str] = {"steps": "400", "warmup-steps": "20"}
"""Of a repair, where they differ from those of a training (docs/repair.md has the measurements)."""
PENALTY: Mapping[str, str] = {"penalty.coefficient": "12", "penalty.threshold": "0.1"}
"""Of the default criterion: strong, since absorption is there already, and with a threshold, since
without one directions that merely crowd each other are moved as well, at once and dearly."""

NOT_HERE = {
    "init-from": "the SAE to repair is the first argument",
    "resume": "an interrupted repair goes on when the same command is given again",
    "stop-after": "Ctrl-C stops a repair, and the same command with the same --out goes on",
    "profile": "profile the run with topk-ortho train --init-from",
    "with-baseline": "before and after are compared",
}
"""Options of `train` that mean nothing here, and what to do instead."""


def split_repair(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, the SAE first, and the options of `train` as they were given.

    Raises:
        ConfigError: no SAE was named, or an option that neither has.
    """
    if "-h" in arguments or "--help" in arguments:
        return ["--help"], []
    own, rest = split(arguments, RepairOptions, not_here=NOT_HERE)
    if not rest or rest[0].startswith("--"):
        raise ConfigError(
            "repair was given without an SAE, but the folder of a trained SAE was expected first; "
            "see topk-ortho repair --help."
        )
    return [rest[0], *own], rest[1:]


def with_defaults(
    rest: Sequence[str], *, given: Collection[str], usual: bool, hook: str = ""
) -> list[str]:
    """The options of `train` for a repair: what was given, and the defaults of what was not.

    Args:
        rest: as given on the command line.
        given: names of all options that were given, also in a file.
        usual: whether the criterion is the default one, given or not.
        hook: the hook point that the SAE is known to read, empty where it is not known.
    """
    defaults = dict(DEFAULTS)
    if usual:
        defaults |= PENALTY
    if "model" in given:
        defaults["activations"] = "language-model"
        defaults |= {"hook": hook} if hook else {}
    elif "data" in given:
        defaults["activations"] = "files"
    missing = {name: value for name, value in defaults.items() if name not in given}
    return [*(word for name in missing for word in (f"--{name}", missing[name])), *rest]
