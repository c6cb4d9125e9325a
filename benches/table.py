"""Writes the figures of `benches/results/*.json` into the page that shows them.

`python benches/table.py` replaces what is between the marks `<!-- figures: begin -->` and
`<!-- figures: end -->` in `docs/performance.md`, and draws `docs/cost.svg`. Quick results are
refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curves import draw
from machine import HERE, RESULTS, Row
from targets import Results, Target, evaluate, number

DOCS = HERE.parent / "docs"
BENCHES = ("step", "step-cuda", "pairs", "penalty", "curves")
TITLES = {
    "step": {
        "kept": "Training step, freed memory kept",
        "default": "Training step, default settings",
    },
    "pairs": {
        "selection": "Scores and selection, 0.1 % of all pairs",
        "selection_per_feature": "Scores and selection, 2.5 pairs per feature",
        "selection_cosine": "The same by `coactive-cosine`, 0.1 % of all pairs",
        "topk": "The 134,209 best of 10 M scores",
        "history": "One observation of the history",
    },
    "penalty": {
        "penalty": "Penalty, forward and backward, every pair above τ",
        "penalty_random_rows": "The same with random rows, where hardly a pair is above τ",
    },
    "curves": {"large": "A million features (d_in 64, batch 256, L0 32, 2.5 pairs per feature)"},
}


def load(folder: Path) -> Results:
    """Results by bench.

    Raises:
        SystemExit: results of a quick run, which are no figures.
    """
    out = {}
    for name in BENCHES:
        path = folder / f"{name}.json"
        if path.exists():
            out[name] = json.loads(path.read_text())
            if out[name]["quick"]:
                raise SystemExit(f"{path} is of a quick run; run `python benches/{name}.py`.")
    return out


def markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def target_table(targets: list[Target]) -> str:
    """Target against measured."""
    verdict = {True: "met", False: "**missed**", None: ""}
    rows = [(t.what, t.aim, t.measured, verdict[t.met], t.command) for t in targets]
    text = markdown(("what", "target", "measured", "", "command"), rows)
    reasons: dict[str, list[str]] = {}
    for t in targets:
        if t.met is False:
            reasons.setdefault(t.why, []).append(t.what)
    lines = [
        f"- {'; '.join(whats)}. Reason: {why or 'not known'}." for why, whats in reasons.items()
    ]
    return "\n\n".join([text, "What is missed:", "\n".join(lines)] if lines else [text])


def section_table(rows: list[Row]) -> str:
    """Median and spread of everything that took turns."""
    header = ("", "median ms", "quartiles", "mean", "calls", "threads", "extra MB")
    return markdown(header, [_cells(r) for r in rows])


def _cells(r: Row) -> tuple[str, ...]:
    memory = "" if r.get("extra_mb") is None else f"{r['extra_mb']:.0f}"
    spread = f"{number(r['q1'])} to {number(r['q3'])}"
    return (r["name"], number(r["ms"]), spread, number(r["mean"]), str(r["calls"]),
            str(r.get("threads", "")), memory)  # fmt: skip


def machine_line(results: Results) -> str:
    """Returns where and with what each bench was run."""
    lines = []
    for name, record in results.items():
        m = record["machine"]
        versions = ", ".join(f"{n} {v}" for n, v in m["versions"].items() if v)
        settings = ", ".join(f"`{n}={v}`" for n, v in m["settings"].items())
        peers = record["facts"].get("peers") or {}
        others = "".join(f", {n} {v}" for n, v in peers.items() if n != "torch")
        lines.append(
            f"- `{name}`: {m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, "
            f"{m['system']}; {versions}{others}; commit {m['commit']}, {m['date']}, "
            f"load {m['load']} at the end; {settings}"
        )
    return "\n".join(lines)


def figures(results: Results) -> str:
    """The generated part of `docs/performance.md`."""
    parts = ["## Targets", target_table(evaluate(results)), "## Machine", machine_line(results)]
    parts.append("## Figures")
    for bench, titles in TITLES.items():
        for section, title in titles.items():
            rows = results.get(bench, {}).get("sections", {}).get(section)
            if rows:
                parts += [f"**{title}** (`benches/{bench}.py`)", section_table(rows)]
    if "curves" in results:
        parts += ["## How it grows", "![Cost curves](cost.svg)", _growth(results["curves"])]
    return "\n\n".join(parts)


def _growth(record: dict[str, Any]) -> str:
    rows = []
    for axis, points in record["sections"].items():
        if axis != "large":
            for value in sorted({p["value"] for p in points}):
                here = {p["way"]: number(p["ms"]) for p in points if p["value"] == value}
                k = next(p["k"] for p in points if p["value"] == value)
                ways = ("selection", "selection, torch alone", "penalty")
                cells = [here.get(way, "") for way in ways]
                rows.append((axis, f"{value:,}", f"{k:,}", *cells))
    header = ("axis", "value", "k", "selection ms", "torch alone ms", "penalty ms")
    return markdown(header, rows)


def fill(path: Path, mark: str, text: str) -> bool:
    """Replace what is between a page's marks; whether it has them."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    page = path.read_text() if path.exists() else ""
    if begin not in page or end not in page:
        return False
    head, tail = page.split(begin)[0], page.split(end)[1]
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}")
    return True


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--results", type=Path, default=RESULTS)
    options.add_argument("--page", type=Path, default=DOCS / "performance.md")
    arguments = options.parse_args(argv)
    results = load(arguments.results)
    if not results:
        raise SystemExit(f"no results in {arguments.results}; run `make bench` first.")
    if not fill(arguments.page, "figures", figures(results)):
        raise SystemExit(f"{arguments.page} has no marks `<!-- figures: begin -->` and `end`.")
    if "curves" in results:
        draw(results["curves"], arguments.page.with_name("cost.svg"))
    for t in evaluate(results):
        print(f"{'' if t.met is None else 'met' if t.met else 'MISSED':7}{t.what}: {t.measured}")


if __name__ == "__main__":
    main()
