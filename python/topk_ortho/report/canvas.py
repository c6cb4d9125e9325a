"""The one way to draw: a chart alone as PNG and SVG, on a page, or with others on a sheet.

Drawings stay legible on a phone. They are made in fixed colours, each of which has a role. In the
page every colour becomes a CSS variable of its role, so that one drawing serves light and dark;
alone it stands on white. Colours are those of Okabe and Ito, which stay apart for the
colour-blind, darkened to 3:1 on white.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topk_ortho.checkpoint.atomic import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, GREY = "#1f2328", "#59636e", "#d8dee5", "#6e7782"
SERIES = ("#0072b2", "#d55e00", "#008f68", "#b85c92", "#3a9bd6", "#bd7a00", INK)
"""Colours of curves, after which they are repeated with other dashes and markers."""
MARKERS = "osD^vPX"
DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)))
ROLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    GREY: "grey",
    **{colour: f"s{n}" for n, colour in enumerate(SERIES[:-1], start=1)},
}

WIDTH, HEIGHT = 4.6, 3.0  # inches; at the width of a phone the text is about 10 pixels high
_DPI = 200
_SHEET = 12.0  # inches, of 100 dots: 1,200 pixels
_SHEET_DPI = 100
_NO_DATE = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Words:
    """The words on and about a chart: its files' name, its title, its axes."""

    name: str
    title: str
    description: str
    x: str = ""
    y: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart on one pair of axes.

    Attributes:
        words: on it and about it.
        paint: draws everything but the words along the axes.
        height: inches, of `WIDTH` inches across.
        grid: `x`, `y` or `both`.
    """

    words: Words
    paint: Callable[[Axes], None]
    height: float = HEIGHT
    grid: str = "both"

    def draw(self) -> Drawing:
        """Returns the chart alone, as PNG and SVG."""
        figure = _figure((WIDTH, self.height), dpi=_DPI)
        figure.patch.set_alpha(0)
        self.put(figure.add_subplot())
        return _rendered(figure, self.words)

    def put(self, axes: Axes) -> None:
        """Draw on axes, in the style of all charts."""
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
            axes.spines[side].set_linewidth(0.8)
        axes.tick_params(labelsize=9.5, color=MUTED, labelcolor=INK, width=0.8)
        axes.tick_params(which="minor", color=MUTED, labelcolor=INK, labelsize=9.5)
        axes.grid(visible=True, axis=self.grid, color=GRID, linewidth=0.7)  # type: ignore[arg-type]
        axes.set_axisbelow(True)
        axes.set_xlabel(self.words.x, fontsize=10, color=INK)
        axes.set_ylabel(self.words.y, fontsize=10, color=INK)
        self.paint(axes)


@dataclass(frozen=True)
class Drawing:
    """A chart that was drawn, with its words.

    Attributes:
        name: of the files, without an ending.
        title: above it.
        description: for those who cannot see it: what is drawn, with its main values.
        svg: the drawing on nothing, in the colours of `ROLES`.
        png: on white.
    """

    name: str
    title: str
    description: str
    svg: str
    png: bytes

    def inline(self) -> str:
        """The SVG element for a page that defines the CSS variables of `ROLES`.

        The description is left to the page, which has to escape it.
        """
        body = self.svg
        for colour, role in ROLES.items():
            body = body.replace(colour, f"var(--{role})")
        used = set(re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", body))
        names = {name for pair in used for name in pair if name}
        body = re.sub(
            r' id="([^"]+)"',
            lambda found: f' id="{self.name}-{found[1]}"' if found[1] in names else "",
            body,
        )
        return re.sub(r"(url\(#|xlink:href=\"#)", rf"\g<1>{self.name}-", body)

    def save(self, folder: Path) -> list[Path]:
        """Write `NAME.png` and `NAME.svg`, each as a whole or not at all."""
        ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
        alone = re.sub(r"(<svg [^>]*>)", rf"\g<1>{ground}", self.svg, count=1)
        files = {".png": self.png, ".svg": alone.encode()}
        for ending, data in files.items():
            replace_file(folder / f"{self.name}{ending}", data)
        return [folder / f"{self.name}{ending}" for ending in files]


def sheet(title: str, charts: Sequence[Chart], *, columns: int = 1, note: str = "") -> Figure:
    """Returns charts beside each other below one title, 1,200 pixels wide, on white.

    Args:
        title: of the sheet; each chart has its own above it where there are several.
        charts: row by row.
        columns: charts in a row.
        note: small print below.
    """
    rows = [charts[start : start + columns] for start in range(0, len(charts), columns)]
    heights = [max(chart.height for chart in row) + 0.3 for row in rows]
    figure = _figure((_SHEET, sum(heights) + 0.7), dpi=_SHEET_DPI)
    figure.patch.set_facecolor("white")
    figure.suptitle(title, fontsize=16, fontweight="bold", x=0.01, ha="left", color=INK)
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for n, chart in enumerate(charts):
        axes = figure.add_subplot(grid[divmod(n, columns)])
        chart.put(axes)
        if len(charts) > 1:
            axes.set_title(chart.words.title, fontsize=12, loc="left", color=INK)
    if note:
        figure.supxlabel(note, fontsize=10, color=MUTED)
    return figure


def png(figure: Figure) -> bytes:
    """Returns a sheet as a PNG file."""
    raw = io.BytesIO()
    with _no_glyph_warnings():
        figure.savefig(raw, format="png", dpi=figure.dpi, metadata={"Software": None})
    return raw.getvalue()


def _figure(size: tuple[float, float], *, dpi: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, dpi=dpi, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    FigureCanvasAgg(figure)
    return figure


def _rendered(figure: Figure, words: Words) -> Drawing:
    import matplotlib as mpl

    svg, raster = io.StringIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not again for each format
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": words.name}), _no_glyph_warnings():
        figure.savefig(svg, format="svg", metadata=_NO_DATE)
        figure.savefig(raster, format="png", dpi=_DPI, facecolor="white",
                       metadata={"Software": None})  # fmt: skip
    plain = _plain(svg.getvalue())
    return Drawing(words.name, words.title, words.description, plain, raster.getvalue())


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _plain(svg: str) -> str:
    """The SVG element alone, as wide as its place, in the font of the page."""
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", body)
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: _rounded(found[0]), body)
    return re.sub(r">\s*\n\s*<", "><", body)


def _rounded(attribute: str) -> str:
    """Coordinates to a hundredth of a point, on one line."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute).replace("\n", "")
