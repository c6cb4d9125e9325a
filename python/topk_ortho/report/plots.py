"""Three sheets of a run: `memory_usage.png`, `training_metrics.png`, `final_stats.png`.

Drawn from the files of a run folder, with the run in `baseline/` beside it where there is one, so
that they can be redrawn anywhere. 1,200 pixels wide. A torn last line of a log, as a killed run
leaves it, is passed over.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.report.canvas import Chart, Words, png, sheet
from topk_ortho.report.charts import LABEL, NOT_LOGGED, Bar, Look, Series, bars, curves, looks
from topk_ortho.report.drawings import MEGABYTE, memory_kinds
from topk_ortho.report.reading import Logged, on_gpu, read_json, read_log
from topk_ortho.report.words import CURVES, HELD_OUT, LABELS, NONE
from topk_ortho.statistics import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "baseline"
_TAIL = 0.1  # the final loss is a mean over this share of the log, since one batch is noisy
_LOSSES = ("l2", "l1", "loss")


@dataclass(frozen=True)
class _Run(Logged):
    label: str
    look: Look
    result: dict[str, Any]
    on_gpu: bool

    def curve(self, key: str, *, kind: str = "", unit: float = 1.0, dashed: bool = False) -> Series:
        """Returns what was logged under a key, as far as it is a number."""
        steps, values = self.series(key)
        name = f"{self.label}: {kind}" if kind else self.label
        return Series(name, self.look, steps, [value / unit for value in values], dashed=dashed)

    def bar(self, value: float | None, spread: float = 0.0) -> Bar:
        """Returns a value at the end of training."""
        if value is None or not spread:
            return Bar(self.label, self.look, value)
        return Bar(self.label, self.look, value, value - spread, value + spread)


def draw(run_folder: Path) -> list[Path]:
    """Draws a run's sheets into its folder `plots/`.

    Args:
        run_folder: holds `metrics.jsonl`; `result.json`, `manifest.json` and a run in `baseline/`
            are used where present.

    Returns:
        The three files.

    Raises:
        ConfigError: no log, an empty one, or one that is damaged before its last line.
    """
    runs = read_runs(Path(run_folder))
    plots = Path(run_folder) / "plots"
    plots.mkdir(exist_ok=True)
    sheets = {
        "memory_usage.png": memory_sheet(runs),
        "training_metrics.png": training_sheet(runs),
        "final_stats.png": final_sheet(runs),
    }
    for name, figure in sheets.items():
        replace_file(plots / name, png(figure))
    return [plots / name for name in sheets]


def read_runs(folder: Path) -> list[_Run]:
    """Returns the run of a folder, and its baseline where there is one.

    Raises:
        ConfigError: no log, an empty one, or one that is damaged before its last line.
    """
    label = str(read_json(folder / "result.json").get("criterion") or folder.resolve().name)
    both = looks([label, NONE], plain=[NONE])
    runs = [_read(folder, label, both[label])]
    if (folder / BASELINE / "metrics.jsonl").exists():
        runs.append(_read(folder / BASELINE, NONE, both[NONE]))
    return runs


def _read(folder: Path, label: str, look: Look) -> _Run:
    return _Run(
        label=label,
        look=look,
        lines=read_log(folder / "metrics.jsonl"),
        result=read_json(folder / "result.json"),
        on_gpu=on_gpu(folder),
    )


def memory_sheet(runs: list[_Run]) -> Figure:
    """Allocated solid, reserved dashed."""
    series = []
    for run in runs:
        solid, dashed = memory_kinds(on_gpu=run.on_gpu)
        series.append(run.curve("memory_allocated", kind=solid, unit=MEGABYTE))
        series.append(run.curve("memory_reserved", kind=dashed, unit=MEGABYTE, dashed=True))
    words = Words("memory_usage", "Memory", "", y="memory (MB)")
    return sheet("Memory over training", [curves(words, series, from_zero=True, longest=2 * LABEL)])


def training_sheet(runs: list[_Run]) -> Figure:
    """The losses over the steps, and what was measured on held-out activations on the way."""
    charts = []
    for key in _LOSSES:
        title, y = CURVES[key]
        charts.append(curves(Words(key, title, "", y=y), [run.curve(key) for run in runs]))
    for key in HELD_OUT:
        series = [run.curve(f"held_out.{key}") for run in runs]
        if any(each.x for each in series):
            title, y = f"Held-out {LABELS[key].name}", LABELS[key].short
            charts.append(curves(Words(f"held_out_{key}", title, "", y=y), series))
    return sheet("Training", charts, columns=3)


def final_sheet(runs: list[_Run]) -> Figure:
    """What training came to: absorption first where it is known, then explained variance and L0
    over the steps, the final loss, and last what was set, as bars where the runs differ in it."""
    charts = [
        _bars(key, [run.bar(finite(run.result.get(key))) for run in runs])
        for key in ("absorption_rate", "excess")
        if any(finite(run.result.get(key)) is not None for run in runs)
    ]
    for key in ("explained_variance", "l0"):
        words = Words(key, LABELS[key].title, "", y=LABELS[key].short)
        charts.append(curves(words, [run.curve(key) for run in runs]))
    charts.append(_bars("loss", [run.bar(*final_loss(run)) for run in runs]))
    alike = []
    for key in ("steps", "lr", "sparsity_penalty"):
        values = [_steps(run) if key == "steps" else run.last(key) for run in runs]
        if len(set(values)) > 1:
            charts.append(_bars(key, [run.bar(v) for run, v in zip(runs, values, strict=True)]))
        elif values[0] is not None:
            alike.append(f"{LABELS[key].name} {values[0]:,.6g}")
    note = f"final loss: mean and standard deviation over the last {_TAIL:.0%} of the log"
    if alike:
        note += f"; {', '.join(alike)}{' of every run' if len(runs) > 1 else ''}"
    return sheet("At the end of training", charts, columns=2, note=note)


def _bars(key: str, rows: list[Bar]) -> Chart:
    words = Words(key, LABELS[key].title, "")
    return bars(words, rows, decimals=0 if key == "steps" else None, missing=NOT_LOGGED)


def _steps(run: _Run) -> float:
    return finite(run.result.get("steps")) or run.lines[-1]["step"]


def final_loss(run: _Run) -> tuple[float | None, float]:
    """Returns the mean of the end of the log, and its standard deviation."""
    losses = run.series("loss")[1]
    tail = losses[-max(1, round(_TAIL * len(losses))) :]
    spread = statistics.stdev(tail) if len(tail) > 1 else 0.0
    return (statistics.fmean(tail) if tail else None), spread
