"""The kinds of chart: curves, points with intervals, bars. They know nothing of runs.

Every series is labelled where it ends, in ink, with a line in its colour that leads there; there
are no legends to look up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from topk_ortho.report.canvas import (
    DASHES,
    GREY,
    HEIGHT,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    Chart,
    Words,
)
from topk_ortho.report.typeset import UNAVAILABLE, cut, number, signed, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOT_LOGGED = "not logged"
LABEL = 24  # letters of a series' name
_LETTER = 0.085  # inches
_ROW = 0.24  # inches of a row of bars or points
_LINE = 0.165  # inches of a label
_LOG_FROM = 30.0  # values that span a larger ratio are drawn on a logarithmic axis
_TICKS = 4  # of steps; more do not fit beside the labels


@dataclass(frozen=True)
class Look:
    """The look of an arm wherever it is drawn."""

    colour: str
    dash: Any
    marker: str


@dataclass(frozen=True)
class Series:
    """Values with a name.

    Attributes:
        name: written where the series ends; nothing is written where it is empty.
        spread: low and high of each value, where there are several seeds.
        dots: single observations behind the values, as x and y.
        dashed: a second kind of curve of the same arm, or what others are read against.
    """

    name: str
    look: Look
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[tuple[float, float]] = ()
    dots: tuple[Sequence[float], Sequence[float]] = field(default=((), ()))
    dashed: bool = False


def looks(names: Sequence[str], *, plain: Sequence[str]) -> dict[str, Look]:
    """A look for each arm: grey for those without the constraint, else one after the other."""
    found, n = {}, 0
    for name in names:
        if name in plain:
            found[name] = Look(GREY, DASHES[0], MARKERS[0])
            continue
        again = n // len(SERIES)
        marker = MARKERS[(n + 1) % len(MARKERS)]
        found[name] = Look(SERIES[n % len(SERIES)], DASHES[again % len(DASHES)], marker)
        n += 1
    return found


def curves(
    words: Words, series: Sequence[Series], *, from_zero: bool = False, longest: int = LABEL
) -> Chart:
    """Returns curves over training steps, with what lies between the seeds shaded."""

    def paint(axes: Axes) -> None:
        for each in series:
            dash = (0, (3, 2)) if each.dashed else each.look.dash
            marker = each.look.marker if len(each.x) == 1 else None
            axes.plot(each.x, each.y, color=each.look.colour, linewidth=1.4, linestyle=dash,
                      marker=marker, markersize=4)  # fmt: skip
            if each.spread and len(each.x) > 1:
                low, high = zip(*each.spread, strict=True)
                axes.fill_between(each.x, low, high, color=each.look.colour, alpha=0.18,
                                  linewidth=0)  # fmt: skip
        _step_axis(axes)
        values = [v for each in series for v in (*each.y, *(high for _, high in each.spread))]
        _value_axis(axes, values, from_zero=from_zero)
        if not values:
            axes.text(0.5, 0.5, NOT_LOGGED, ha="center", va="center", transform=axes.transAxes)
        _label_ends(axes, series, longest=longest)

    return Chart(replace(words, x=words.x or "training step"), paint, _height(series))


def against(words: Words, series: Sequence[Series], *, log_x: bool = False) -> Chart:
    """Returns points in a plane, seeds as faint dots, intervals as bars; joined where several."""

    def paint(axes: Axes) -> None:
        for each in series:
            colour, marker = each.look.colour, each.look.marker
            axes.plot(*each.dots, "o", color=colour, alpha=0.5, markersize=3.5, markeredgewidth=0)
            line = each.look.dash if len(each.x) > 1 else "none"
            axes.plot(each.x, each.y, color=colour, marker="none" if each.dashed else marker,
                      linestyle=(0, (3, 2)) if each.dashed else line, linewidth=1.2,
                      markersize=6, markeredgewidth=0)  # fmt: skip
            for x, (low, high) in zip(each.x, each.spread, strict=False):
                axes.plot([x, x], [low, high], color=colour, linewidth=1.2, solid_capstyle="butt")
        if log_x:
            axes.set_xscale("log")
        axes.margins(0.08)
        _label_ends(axes, series)

    return Chart(words, paint, _height(series))


@dataclass(frozen=True)
class Bar:
    """One row: a value, and its low and high end where there are several seeds."""

    name: str
    look: Look
    value: float | None
    low: float | None = None
    high: float | None = None


def bars(
    words: Words,
    rows: Sequence[Bar],
    *,
    decimals: int | None = 3,
    signs: bool = False,
    missing: str = UNAVAILABLE,
) -> Chart:
    """Returns horizontal bars from 0 with their values beside them.

    Args:
        decimals: of the values; None for three significant digits.
        signs: whether a value above 0 has a plus.
        missing: the text in place of a missing value.
    """
    names = [cut(row.name, LABEL) for row in rows]
    texts = [missing if row.value is None else _beside(row.value, decimals, signs=signs)
             for row in rows]  # fmt: skip

    def paint(axes: Axes) -> None:
        ends = [max(row.value or 0.0, 0.0, row.high or 0.0) for row in rows]
        for place, (row, text, end) in enumerate(zip(rows, texts, ends, strict=True)):
            axes.barh(place, row.value or 0.0, height=0.62, color=row.look.colour, linewidth=0)
            if row.low is not None and row.high is not None and row.low < row.high:
                axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.1,
                          marker="|", markersize=5)  # fmt: skip
            axes.annotate(text, (end, place), xytext=(5, 0), fontsize=9.5,
                          textcoords="offset points", va="center", color=INK)  # fmt: skip
        _rows(axes, names)
        _bar_axis(axes, rows, max(ends), names=names, texts=texts)

    return Chart(words, paint, 0.75 + _ROW * max(2, len(rows)), grid="x")


def _bar_axis(
    axes: Axes, rows: Sequence[Bar], highest: float, *, names: Sequence[str], texts: Sequence[str]
) -> None:
    """The values stand right of the bars, in the share of the axes that the longest takes."""
    lowest = min([0.0, *(row.low for row in rows if row.low is not None),
                  *(row.value for row in rows if row.value is not None)])  # fmt: skip
    width = WIDTH - 0.3 - _LETTER * max(map(len, names))
    share = min(0.6, (0.15 + _LETTER * max(map(len, texts))) / width)
    span = (highest - lowest) or 1.0
    axes.set_xlim(lowest - (0.05 * span if lowest else 0), highest + span * share / (1 - share))
    if lowest:
        axes.axvline(0, color=MUTED, linewidth=0.8)
    if highest > lowest:
        axes.locator_params(axis="x", nbins=4)
    else:
        axes.set_xticks([0])
    axes.xaxis.set_major_formatter("{x:,.3g}" if highest < 1e3 else "{x:,.0f}")


def columns(
    words: Words,
    edges: Sequence[float],
    series: Sequence[Series],
    *,
    log_y: bool = False,
    log_x: bool = False,
) -> Chart:
    """Returns a histogram as steps: `y` of a series counts what lies between `edges`."""

    def paint(axes: Axes) -> None:
        for each in series:
            axes.stairs(each.y, edges, color=each.look.colour, linewidth=1.4,
                        linestyle=each.look.dash)  # fmt: skip
        if log_x:
            axes.set_xscale("log")
        if log_y and any(value > 0 for each in series for value in each.y):
            axes.set_yscale("symlog", linthresh=1.0)
            axes.set_ylim(0, 2 * max(value for each in series for value in each.y))
        _label_ends(axes, series)

    return Chart(words, paint, _height(series))


def _beside(value: float, decimals: int | None, *, signs: bool) -> str:
    if decimals is None:
        return significant(value)
    return signed(value, decimals) if signs else number(value, decimals)


def _height(series: Sequence[Series]) -> float:
    """Inches in which the names of the series fit below each other."""
    return max(HEIGHT, 0.9 + _LINE * sum(bool(each.name) for each in series))


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _step_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=_TICKS, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _value_axis(axes: Axes, values: Sequence[float], *, from_zero: bool) -> None:
    if from_zero:
        axes.set_ylim(0, 1.1 * max(values, default=0.0) or 1.0)
    elif values and min(values) > 0 and max(values) / min(values) > _LOG_FROM:
        axes.set_yscale("log")
        return
    if max(map(abs, values), default=0.0) >= 1e3:
        axes.yaxis.set_major_formatter("{x:,.0f}")


def _label_ends(axes: Axes, series: Sequence[Series], *, longest: int = LABEL) -> None:
    """Names at the right edge, as close to where the series end as the names allow."""
    shown = [each for each in series if each.name and len(each.y)]
    if not shown:
        return
    axes.autoscale_view()
    ends = [_end(axes, each) for each in shown]
    inches = _height(series) - 0.6
    places = _spread([end[1] for end in ends], gap=_LINE / inches)
    for each, (x, y), place in zip(shown, ends, places, strict=True):
        axes.annotate(
            cut(each.name, longest),
            xy=(x, y),
            xycoords="axes fraction",
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            color=INK,
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": each.look.colour,
                "linewidth": 1.0,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _end(axes: Axes, series: Series) -> tuple[float, float]:
    """Returns where a series ends, as a share of the axes."""
    point = axes.transData.transform((_last_x(axes, series), series.y[-1]))
    x, y = axes.transAxes.inverted().transform(point)
    return min(max(float(x), 0.0), 1.0), min(max(float(y), 0.0), 1.0)


def _last_x(axes: Axes, series: Series) -> float:
    return series.x[-1] if len(series.x) == len(series.y) else axes.get_xlim()[1]


def _spread(wanted: Sequence[float], *, gap: float) -> list[float]:
    """Places at least `gap` apart and within [0, 1] where they fit, in the order of `wanted`."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    places = [wanted[index] for index in order]
    for n in range(1, len(places)):
        places[n] = max(places[n], places[n - 1] + gap)
    over = max(0.0, places[-1] - 1.0)
    if over:
        places[-1] -= over
        for n in range(len(places) - 2, -1, -1):
            places[n] = min(places[n], places[n + 1] - gap)
    back = dict(zip(order, places, strict=True))
    return [back[index] for index in range(len(wanted))]
