"""Features that nobody planted: arms trained on a language model, measured by labelled classes.

    python benches/natural.py --model models/smollm2-135m --text FILE

Cuts the text in two by documents, caches the activations of the first part once, trains every arm
over paired seeds on them, and measures all SAEs on the second part: first letters and meanings
(docs/absorption.md), and with `--words N` SAEBench's own absorption too (after `make saebench`).
Every step is a command of `topk-ortho`, and what is finished is not computed again: interrupted at
any point, the same command continues. No coefficient is tuned: every arm has its own default one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import ablated, table, topk_ortho
from machine import HERE, parser, write

from topk_ortho.activations.text import text_documents

HELD_OUT = 0.08
CLASSES = ("first-letters", "meanings")
WITH = ("c2r", "matryoshka+constraint")
WITHOUT = ("rate-matched-random",)
SAEBENCH = (
    "mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features",
    "num_letters",
)  # fmt: skip
FOUND = 0.5
"""Share of its tokens without a listed child on which a parent's feature fires, from which the
parent counts as found: where it fires on few of them, there is nothing to absorb."""


def cut(text: Sequence[Path], out: Path) -> dict[str, Path]:
    """The documents in two files: `training`, and the last of them `held-out`."""
    files = {name: out / f"{name}.txt" for name in ("training", "held-out")}
    if not all(file.is_file() for file in files.values()):
        documents = list(text_documents(text))
        last = round(len(documents) * (1 - HELD_OUT))
        for file, part in zip(files.values(), (documents[:last], documents[last:]), strict=True):
            file.write_text("\n\n".join(part) + "\n", encoding="utf-8")
    return files


def trained(o: argparse.Namespace, activations: Path) -> list[dict[str, Any]]:
    """The finished runs of every arm."""
    return ablated(
        o.out / "ablation", "--data", activations, "--jobs", o.jobs, "--seeds", *o.seeds,
        "--with-arm", *WITH, "--without-arm", *WITHOUT, "--sae.d-sae", o.d_sae, "--sae.k", o.k,
        "--steps", o.steps, "--batch-size", o.batch_size, "--buffer-rows", o.buffer,
    )  # fmt: skip


def labelled(o: argparse.Namespace, runs: Sequence[Mapping[str, Any]], text: Path) -> None:
    """Adds absorption between classes of tokens to every run."""
    for classes in CLASSES:
        out = o.out / f"{classes}.json"
        saes = [str(run["folder"]) for run in runs]
        record = json.loads(out.read_text()) if out.is_file() else {"saes": []}
        if [one["sae"] for one in record["saes"]] != saes:
            topk_ortho(
                "absorption", *saes, "--model", o.model, "--hook", o.hook, "--text", text,
                "--tokens", o.eval_tokens, "--context", o.context, "--out", out,
                "--classes", HERE / "classes" / f"{classes}.toml",
                *([] if classes == CLASSES[0] else ["--eval-contexts", 0]),  # once is enough
            )  # fmt: skip
            record = json.loads(out.read_text())
        for run, one in zip(runs, record["saes"], strict=True):
            run[classes] = of_classes(one)


def of_classes(record: Mapping[str, Any]) -> dict[str, float | None]:
    """What is compared of one SAE: over all edges, and over those whose parent is found."""
    summary = record["absorption"]["summary"]
    figures = record["figures"]
    found = [e for e in record["absorption"]["edges"] if e["eligible"]
             and e["excess"] is not None and e["recall_without_child"] >= FOUND]  # fmt: skip
    return {
        **{name: summary[name] for name in ("absorption_rate", "base_miss", "excess")},
        "found": len({e["parent"] for e in found}),
        "excess_of_found": sum(e["excess"] for e in found) / len(found) if found else None,
        "parents_f1": record["parents_f1"],
        "ce_score": figures.get("ce_score"),
        "explained_variance": figures["explained_variance"],
        "l0": figures["l0"],
        "dead_features": figures["dead_features"],
    }


def saebench(o: argparse.Namespace, runs: Sequence[dict[str, Any]]) -> None:
    """Adds SAEBench's own absorption to every run."""
    for run in runs:
        out = o.out / "saebench" / f"{run['folder'].name}.json"
        out.parent.mkdir(exist_ok=True)
        if not out.is_file():
            topk_ortho(
                "evaluate", run["folder"], "--suite", "saebench", "--evals", "absorption",
                "--words", o.words, "--model", o.model, "--hook", o.hook, "--out", out,
                "--saebench-python", o.saebench_python, "--saebench-folder", out.parent / "work",
            )  # fmt: skip
        figures = json.loads(out.read_text())["evals"]["absorption"]["figures"]
        run["saebench"] = {name: figures[name] for name in SAEBENCH}


def main() -> None:
    """Train, measure, print and write everything."""
    arguments = parser(__doc__ or "")
    arguments.set_defaults(out=Path("runs/natural"))
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--text", type=Path, nargs="+", required=True)
    arguments.add_argument("--hook", default="blocks.3.hook_resid_post")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[5])
    arguments.add_argument("--tokens", type=int, default=1_000_000)
    arguments.add_argument("--eval-tokens", type=int, default=120_000)
    arguments.add_argument("--context", type=int, default=128)
    arguments.add_argument("--d-sae", type=int, default=4608)
    arguments.add_argument("--k", type=float, default=20)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--batch-size", type=int, default=1024)
    arguments.add_argument("--buffer", type=int, default=65_536)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--words", type=int, default=0)
    arguments.add_argument("--saebench-python", default=".venv-saebench/bin/python")
    o = arguments.parse_args()
    if o.quick:
        o.seeds, o.tokens, o.d_sae, o.k, o.steps = [1], 4096, 64, 4, 20
        o.eval_tokens, o.batch_size, o.buffer = 4096, 128, 1024
    o.out.mkdir(parents=True, exist_ok=True)
    texts = cut(o.text, o.out)
    activations = o.out / "activations"
    if not (activations / "shards.json").is_file():
        topk_ortho(
            "cache", "--out", activations, "--model", o.model, "--hook", o.hook,
            "--text", texts["training"], "--tokens", o.tokens, "--context", o.context,
        )  # fmt: skip
    runs = trained(o, activations)
    labelled(o, runs, texts["held-out"])
    if o.words:
        saebench(o, runs)
    print("\n".join(printed(runs)))
    rows = [{**run, "folder": run["folder"].name} for run in runs]
    write(
        "natural", o, rows=rows, sizes={n: getattr(o, n) for n in ("hook", "tokens", "d_sae", "k")}
    )


def printed(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables."""
    quality = ("explained_variance", "ce_score", "l0", "dead_features")
    lines = table(runs, CLASSES[0], quality)
    names = ("parents_f1", "absorption_rate", "base_miss", "excess", "found", "excess_of_found")
    for classes in CLASSES:
        lines += ["", *table(runs, classes, names)]
    if "saebench" in runs[0]:
        lines += ["", *table(runs, "saebench", SAEBENCH)]
    return lines


if __name__ == "__main__":
    main()
