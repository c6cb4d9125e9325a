"""Draws docs/absorption.svg, the picture of the README, from the table in docs/results.md.

    python docs/site/picture.py

The figures are those of the section on SmolLM2-135M: how often the parent's feature is silent
where its child fires, without the constraint and with it, and explained variance beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
PICTURE = DOCS / "absorption.svg"
INK, MUTED, GREY, BLUE, LINE = "#1f2328", "#59636e", "#8b949e", "#0072b2", "#d8dee5"
LEFT, WIDE = 150, 300  # of the bars, in pixels; WIDE is a rate of FULL
FULL = 0.4

Row = tuple[str, float, float]


def measured() -> list[Row]:
    """Returns each layer's arms: name, absorption, explained variance."""
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    table = text[text.index("## Planted in SmolLM2-135M") :]
    rows: list[Row] = []
    layer = ""
    for line in table[: table.index("Intervals are")].splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if len(cells) < 8 or not re.fullmatch(r"\.\d+", cells[2]):
            continue
        layer = cells[0] or layer
        name = {"none": "without", "default": "with the constraint"}.get(cells[1])
        if name:
            rows.append((f"{layer}|{name}", float(cells[2]), float(cells[7])))
    assert len(rows) == 4, rows
    return rows


def picture(rows: list[Row]) -> str:
    """Returns the SVG, on white, so that it can be read on a dark page too."""

    def text(x: int, y: int, words: str, *, fill: str = INK, size: int = 13, more: str = "") -> str:
        return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}"{more}>{words}</text>'

    bold = ' font-weight="600"'
    parts = [
        text(16, 28, "How often the parent's feature is silent where its child fires", more=bold),
        text(560, 28, "explained variance", fill=MUTED),
    ]
    for n, (name, absorption, variance) in enumerate(rows):
        layer, arm = name.split("|")
        y = 62 + 28 * n + 40 * (n // 2)
        if n % 2 == 0:
            parts.append(text(16, y, f"SmolLM2-135M, {layer}, known hierarchies", fill=MUTED))
        y += 12
        width = round(WIDE * absorption / FULL)
        colour = GREY if arm == "without" else BLUE
        parts += [
            text(16, y + 15, arm),
            f'<rect x="{LEFT}" y="{y}" width="{width}" height="20" rx="2" fill="{colour}"/>',
            text(LEFT + width + 8, y + 15, f"{absorption:.3f}".lstrip("0"), more=bold),
            text(560, y + 15, f"{variance:.3f}".lstrip("0")),
        ]
    said = "; ".join(f"{name.replace('|', ', ')}: {a:.3f}" for name, a, _ in rows)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 234" width="700" height="234" '
        'role="img" font-family="system-ui, sans-serif">'
        f"<title>Share of tokens with the child on where the parent's feature is silent. {said}"
        f'</title><rect width="700" height="234" rx="8" fill="#ffffff" stroke="{LINE}"/>'
        + "".join(parts)
        + "</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(measured()), encoding="utf-8")
