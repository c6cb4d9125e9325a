"""Arms and what they are compared in: runs that differ in their seed alone, on the same data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.report.reading import Run, Settings, flat_settings
from topk_ortho.report.words import NONE

NO_MATTER = {
    "seed",
    "with_baseline",
    "log_every",
    "log_to",
    "checkpoint_every",
    "keep_checkpoints",
    "prefetch",
    "evaluate_every",
    "evaluate_samples",
    "device",
    "threads",
    "pairs.memory_budget",
    "history.queue",
}
"""Settings that change nothing in what is compared, or that runs are paired by."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Run, ...]

    def values(self, key: str) -> dict[Any, float | None]:
        """Returns a metric by seed; runs without a result are left out."""
        return {run.seed: run.value(key) for run in self.runs if run.result}

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.result)

    @property
    def logged(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.lines)

    @property
    def settings(self) -> Settings:
        return next((run.settings for run in self.runs if run.settings), {})

    def setting(self, key: str, default: Any = None) -> Any:
        """Returns a setting, that of the plan where there is no run yet."""
        return self.axis.get(key, self.settings.get(key, default))

    @property
    def criterion(self) -> str:
        return self.runs[0].criterion

    @property
    def plain(self) -> bool:
        """Returns whether this is a `none` arm."""
        return self.runs[0].arm == NONE

    @property
    def axis(self) -> Settings:
        return self.runs[0].axis


@dataclass(frozen=True)
class Comparison:
    """Arms on the same data.

    Attributes:
        title: for headings.
        source: the folder they were found in.
        arms: `none` first.
        plan: of an ablation, else empty.
        notes: what was left out, as sentences.
    """

    title: str
    source: Path
    arms: tuple[Arm, ...]
    plan: dict[str, Any]
    notes: tuple[str, ...] = ()

    def control(self, arm: Arm) -> Arm | None:
        """The `none` arm with the same values on the axes that both have; None for itself."""
        if arm.plain:
            return None
        agreeing = [
            other
            for other in self.arms
            if other.plain
            and all(arm.setting(key, value) == value for key, value in other.axis.items())
        ]
        return max(agreeing, key=lambda other: len(other.axis), default=None)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)


def differences(settings: Iterable[Settings]) -> list[str]:
    """The settings that are not the same everywhere, seeds and the like left out."""
    several = [each for each in settings if each]
    keys = sorted({key for each in several for key in each} - NO_MATTER)
    return [key for key in keys if len({repr(each.get(key)) for each in several}) > 1]


def short(key: str) -> str:
    """Returns `penalty.tau` as `tau`."""
    return key.rpartition(".")[2].replace("_", "-")


def plain_value(value: Any) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def describe(settings: Settings) -> str:
    """The data and the size of a run in a few words."""
    kind = settings.get("activations")
    if kind is None:
        return ""
    to = f" to {out}" if (out := settings.get("hook_out")) else ""
    data = {
        "synthetic": f"synthetic {settings.get('synthetic.preset', 'data')}",
        "language-model": f"{settings.get('model', 'a model')} at {settings.get('hook', '?')}{to}",
        "files": f"activations in {settings.get('data', 'files')}",
    }.get(str(kind), str(kind))
    planted = ", hierarchies planted" if settings.get("plant.enabled") else ""
    k, d_sae = settings.get("sae.k"), settings.get("sae.d_sae")
    return f"{data}{planted}, {d_sae} features, L0 {plain_value(k)}"


def base_settings(comparison: Comparison) -> Settings:
    """The settings that a comparison starts from: the plan's, else those of its first arm."""
    base = comparison.plan.get("base")
    if isinstance(base, str):
        try:
            return flat_settings(base, where=comparison.source / "ablation.json")
        except ConfigError:
            pass
    return next((arm.settings for arm in comparison.arms if arm.settings), {})
