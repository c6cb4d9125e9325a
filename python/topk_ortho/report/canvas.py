"""One drawing: a small figure that stays legible on a phone, as PNG, as SVG, and within a page.

Drawings are made in fixed colours, each of which has a role. In the page every colour becomes a CSS
variable of its role, so that one drawing serves light and dark; alone it stands on white. Colours
are those of Okabe and Ito, which stay apart for the colour-blind, darkened to 3:1 on white.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
_NO_DATE = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Drawing:
    """A figure with its words.

    Attributes:
        name: of the files, without an ending.
        title: above it.
        description: for those who cannot see it: what is drawn, with its main figures.
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
        return [
            write_whole(folder / f"{self.name}{ending}", data) for ending, data in files.items()
        ]


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file as a whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(data)
    os.replace(partial, path)
    return path


def new_axes(*, height: float = HEIGHT, grid: str = "both") -> tuple[Figure, Axes]:
    """A figure with one pair of axes in the page's style."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(WIDTH, height), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(labelsize=9.5, color=MUTED, labelcolor=INK, width=0.8)
    axes.tick_params(which="minor", color=MUTED, labelcolor=INK, labelsize=9.5)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    return figure, axes


def name_axes(axes: Axes, *, x: str = "", y: str = "") -> None:
    """Words along the axes."""
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)


def finish(figure: Figure, *, name: str, title: str, description: str) -> Drawing:
    """The drawing of a figure that is complete."""
    import matplotlib as mpl

    svg, png = io.StringIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not again for each format
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(svg, format="svg", metadata=_NO_DATE)
        figure.savefig(png, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return Drawing(name, title, description, _plain(svg.getvalue()), png.getvalue())


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
