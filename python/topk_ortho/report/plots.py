"""The three figures of a run: `memory_usage.png`, `training_metrics.png`, `final_stats.png`.

Drawn from the files of a run folder, with the run in `baseline/` beside it where there is one, so
that they can be redrawn anywhere. 1,200 pixels wide; colours of Okabe and Ito, which stay apart for
the colour-blind. A torn last line of a log, as a killed run leaves it, is passed over.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topk_ortho.report.reading import Logged, on_gpu, read_json, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00")
_MEGABYTE = 1e6
_THOUSANDS = "{x:,.0f}"
_DPI = 100
_TAIL = 0.1  # the final loss is a mean over this share of the log, since one batch is noisy
_LABEL = 20  # characters of a label
_LOG_SCALE_FROM = 30.0  # curves that span a larger ratio are drawn on a logarithmic axis

_MEMORY = (("memory_allocated", "-"), ("memory_reserved", "--"))
_CURVES = (
    ("l2", "L2 loss", "squared error, summed over dimensions"),
    ("l1", "Sparsity", "L1 of the activations"),
    ("loss", "Total loss", "what the optimiser sees"),
)


@dataclass(frozen=True)
class _Run(Logged):
    label: str
    colour: str
    result: dict[str, Any]
    on_gpu: bool

    def draw(self, axes: Axes, key: str, *, unit: float = 1.0, **style: Any) -> list[float]:
        """Add a curve, a dot where there is one value; returns what was drawn."""
        steps, values = self.series(key)
        values = [value / unit for value in values]
        if values:
            marker = "o" if len(values) == 1 else None
            axes.plot(steps, values, color=self.colour, linewidth=2, marker=marker, **style)
        return values


def draw(run_folder: Path) -> list[Path]:
    """Draw a run's figures into its folder `plots/`.

    Args:
        run_folder: holds `metrics.jsonl`; `result.json`, `manifest.json` and a run in `baseline/`
            are used where present.

    Returns:
        The three files.

    Raises:
        ConfigError: no log, an empty one, or one that is damaged before its last line.
    """
    run_folder = Path(run_folder)
    baseline = run_folder / "baseline"
    runs = [_read(run_folder, label=_label(run_folder), colour=_COLOURS[0])]
    if (baseline / "metrics.jsonl").exists():
        runs.append(_read(baseline, label="baseline", colour=_COLOURS[1]))
    plots = run_folder / "plots"
    plots.mkdir(exist_ok=True)
    figures = {
        "memory_usage.png": _memory_usage(runs),
        "training_metrics.png": _training_metrics(runs),
        "final_stats.png": _final_stats(runs),
    }
    return [_save(figure, plots / name) for name, figure in figures.items()]


def _label(folder: Path) -> str:
    """The run's criterion or folder, its middle cut out where it would not fit below a bar."""
    name = str(read_json(folder / "result.json").get("criterion") or folder.resolve().name)
    name = name.replace("$", "")  # would start a formula
    return name if len(name) <= _LABEL else f"{name[: _LABEL // 2]}…{name[-_LABEL // 2 + 1 :]}"


def _read(folder: Path, *, label: str, colour: str) -> _Run:
    return _Run(
        label=label,
        colour=colour,
        lines=read_log(folder / "metrics.jsonl"),
        result=read_json(folder / "result.json"),
        on_gpu=on_gpu(folder),
    )


def _figure(title: str, *, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(12, height), dpi=_DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=16, fontweight="bold", x=0.01, ha="left")
    return figure


def _style(axes: Axes, title: str, *, grid: str) -> None:
    axes.set_title(title, fontsize=13, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    axes.grid(visible=True, axis=grid, color="#D9D9D9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _steps_below(axes: Axes, *, ticks: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("training step", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))
    axes.xaxis.set_major_formatter(_THOUSANDS)


def _legend(figure: Figure, axes: Axes, *, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=11, frameon=False
        )


def _no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes)


def _memory_usage(runs: list[_Run]) -> Figure:
    figure = _figure("Memory over training", height=6)
    axes = figure.add_subplot()
    _style(axes, "", grid="both")
    values = []
    for run in runs:
        names = ("allocated", "reserved") if run.on_gpu else ("resident", "peak resident")
        for (key, line), name in zip(_MEMORY, names, strict=True):
            label = f"{run.label}: {name}"
            values += run.draw(axes, key, unit=_MEGABYTE, linestyle=line, label=label)
    if not values:
        _no_data(axes)
    _steps_below(axes, ticks=10)
    axes.set_ylabel("memory (MB)", fontsize=12)
    axes.set_ylim(0, 1.1 * max(values, default=0.0) or 1.0)
    axes.yaxis.set_major_formatter(_THOUSANDS)
    _legend(figure, axes, columns=len(runs))
    return figure


def _training_metrics(runs: list[_Run]) -> Figure:
    figure = _figure("Training", height=5.4)
    for axes, (key, title, unit) in zip(figure.subplots(1, 3), _CURVES, strict=True):
        _style(axes, title, grid="both")
        values = [value for run in runs for value in run.draw(axes, key, label=run.label)]
        if not values:
            _no_data(axes)
        elif min(values) > 0 and max(values) / min(values) > _LOG_SCALE_FROM:
            axes.set_yscale("log")
        _steps_below(axes, ticks=4)
        axes.set_ylabel(unit, fontsize=11)
    _legend(figure, axes, columns=len(runs))
    return figure


def _final_stats(runs: list[_Run]) -> Figure:
    figure = _figure("At the end of training", height=5)
    panels: list[tuple[str, list[float | None], list[float] | None]] = [
        ("Training steps", [_steps(run) for run in runs], None),
        ("Final loss", *_final_loss(runs)),
        ("Learning rate", [run.last("lr") for run in runs], None),
        ("Sparsity penalty", [run.last("sparsity_penalty") for run in runs], None),
    ]
    for axes, (title, values, errors) in zip(figure.subplots(1, 4), panels, strict=True):
        _style(axes, title, grid="y")
        _bars(axes, runs, values, errors)
    figure.supxlabel(
        f"final loss: mean and standard deviation over the last {_TAIL:.0%} of the log; "
        "sparsity penalty: weight of the L1 term, 0 where there is none",
        fontsize=10,
        color="#555555",
    )
    return figure


def _steps(run: _Run) -> float:
    return run.result.get("steps") or run.lines[-1]["step"]


def _final_loss(runs: list[_Run]) -> tuple[list[float | None], list[float]]:
    means: list[float | None] = []
    spreads = []
    for run in runs:
        losses = run.series("loss")[1]
        tail = losses[-max(1, round(_TAIL * len(losses))) :]
        means.append(statistics.fmean(tail) if tail else None)
        spreads.append(statistics.stdev(tail) if len(tail) > 1 else 0.0)
    return means, spreads


def _bars(
    axes: Axes, runs: list[_Run], values: list[float | None], errors: list[float] | None
) -> None:
    errors = errors or [0.0] * len(values)
    tops = [(v or 0.0) + e for v, e in zip(values, errors, strict=True)]
    axes.bar(
        range(len(runs)),
        [value or 0.0 for value in values],
        color=[run.colour for run in runs],
        width=0.62,
        yerr=errors if any(errors) else None,
        error_kw={"capsize": 6, "elinewidth": 1.5, "ecolor": "#333333"},
    )
    for index, (value, top) in enumerate(zip(values, tops, strict=True)):
        text = (
            "not logged" if value is None else f"{value:,.0f}" if value >= 1e3 else f"{value:.4g}"
        )
        axes.annotate(
            text,
            (index, top),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=11,
            fontweight="bold",
        )
    axes.set_xticks(range(len(runs)), [run.label for run in runs], rotation=30, ha="right")
    axes.set_xlim(-0.7, len(runs) - 0.3)
    axes.set_ylim(0, (max(tops) or 1.0) * 1.15)
    if not any(tops):
        axes.set_yticks([0])
    else:
        axes.yaxis.set_major_formatter(_THOUSANDS if max(tops) >= 1e3 else "{x:.3g}")


def _save(figure: Figure, path: Path) -> Path:
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=_DPI)
    os.replace(partial, path)
    return path
