"""A run folder as it is: settings, log, metrics, and what is wrong with it.

Runs that are unfinished, torn or damaged are read as far as they go; `Run.problem` says what is
missing. Settings are flat, by the names of the command line's tables (`penalty.tau`).
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.config.renamed import with_new_names
from topk_ortho.statistics import finite

Settings = dict[str, Any]


def objects(value: Any) -> list[dict[str, Any]]:
    """Returns the objects of a JSON list; none where it is anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


@dataclass(frozen=True)
class Logged:
    """The lines of a log, by step."""

    lines: list[dict[str, Any]]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values where the value is a finite number."""
        steps, values = [], []
        for line in self.lines:
            value = finite(line.get(key))
            if value is not None:
                steps.append(line["step"])
                values.append(value)
        return steps, values

    def last(self, key: str) -> float | None:
        """The last finite value."""
        values = self.series(key)[1]
        return values[-1] if values else None


@dataclass(frozen=True)
class Run(Logged):
    """One run folder, or the folder that a planned run would have.

    Attributes:
        folder: of the run.
        arm: what it is compared as.
        seed: of the run, None where nothing says.
        settings: flat; empty where there is no `config.toml`.
        result: `result.json`, empty before the end of the run.
        on_gpu: whether memory is that of an accelerator.
        axis: settings that the arm was varied in, empty outside a grid.
        problem: why there is no result, None where there is one.
        failed: whether the problem is a failure, and not only a run that has not ended.
    """

    folder: Path
    arm: str
    seed: int | None
    settings: Settings = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    on_gpu: bool = False
    axis: Settings = field(default_factory=dict)
    problem: str | None = None
    failed: bool = False

    def value(self, key: str) -> float | None:
        """Returns a metric of the result, None where it is unavailable."""
        return finite(self.result.get(key))

    @property
    def constrained(self) -> bool:
        return self.criterion != "none"

    @property
    def criterion(self) -> str:
        return str(self.settings.get("pairs.criterion", self.result.get("criterion", "none")))

    @property
    def pairs_in_all(self) -> int | None:
        """Unordered pairs of features."""
        d_sae = self.settings.get("sae.d_sae")
        return d_sae * (d_sae - 1) // 2 if isinstance(d_sae, int) and d_sae > 1 else None


def read_run(folder: Path, *, arm: str, axis: Settings | None = None) -> Run:
    """A run folder as far as it can be read; never an error."""
    try:
        settings = read_settings(folder / "config.toml")
        result = read_json(folder / "result.json")
        lines = read_log(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
        problem, failed = _unfinished(settings, lines) if not result else None, False
    except (OSError, ValueError) as error:
        settings, result, lines, problem, failed = {}, {}, [], f"cannot be read: {error}", True
    seed = result.get("seed", settings.get("seed"))
    return Run(
        lines=lines,
        folder=folder,
        arm=arm,
        seed=seed if isinstance(seed, int) else None,
        settings=settings,
        result=result,
        on_gpu=on_gpu(folder),
        axis=axis or {},
        problem=problem,
        failed=failed,
    )


def _unfinished(settings: Settings, lines: list[dict[str, Any]]) -> str:
    steps = settings.get("steps")
    of = f" of {steps:,}" if isinstance(steps, int) else ""
    return f"not finished: step {lines[-1]['step']:,}{of}" if lines else "no step was logged"


def on_gpu(folder: Path) -> bool:
    """Returns whether the run's memory is that of an accelerator."""
    try:
        hardware = read_json(folder / "manifest.json").get("hardware")
    except ConfigError:
        return False
    return isinstance(hardware, dict) and hardware.get("device", "cpu") != "cpu"


def read_settings(path: Path) -> Settings:
    """The flat settings of a TOML file, empty where there is none.

    Raises:
        ConfigError: not TOML.
    """
    return flat_settings(path.read_text(encoding="utf-8"), where=path) if path.exists() else {}


def flat_settings(toml: str, *, where: Path) -> Settings:
    """Settings by their name with a dot.

    Raises:
        ConfigError: not TOML.
    """
    try:
        table = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML ({error}); run the training again") from error
    flat: Settings = {}
    for name, value in with_new_names(table).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """An object, empty where there is no file.

    Raises:
        ConfigError: not JSON.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); run the training again") from error
    return found if isinstance(found, dict) else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines by step; of a step that was logged twice, before and after a restart, the later.

    Metrics on held-out activations, which have lines of their own, are beside the others of their
    step, as `held_out.l0`.

    Raises:
        ConfigError: no log, an empty one, or one that is damaged before its last line.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist; expected the folder of a run")
    by_step: dict[int, dict[str, Any]] = {}
    held_out: dict[int, dict[str, Any]] = {}
    raw = path.read_bytes().split(b"\n")
    for number, text in enumerate(raw, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            step = int(line["step"])
            where = held_out if isinstance(line.get("held_out"), dict) else by_step
            where[step] = line | {"step": step}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            if number == len(raw):
                break
            raise ConfigError(
                f"{path} is damaged in line {number}; delete that line to draw the rest"
            ) from error
    for step, line in held_out.items():
        figures = {f"held_out.{name}": value for name, value in line["held_out"].items()}
        by_step[step] = by_step.get(step, {"step": step}) | figures
    if not by_step:
        raise ConfigError(f"{path} holds no step; the run has not logged anything yet")
    return [by_step[step] for step in sorted(by_step)]
