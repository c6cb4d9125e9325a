"""SAEs of three layers and four arms from one pass, beside one SAE of the last layer alone.

`make real-model`, then `python benches/side_by_side.py --text FILE`. Both are whole commands that
take turns; compared is what they take beyond their training steps: the language model, loading,
tokenising, measuring and writing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from language_model import timed
from machine import CORES, HERE, parser, write

LAYERS = (3, 6, 9)
ARMS = ("sae.k=16,32", "pairs.criterion=row-coactivation,none")
ALONE, TOGETHER = "one SAE of the last layer", "three layers, four arms"


def command(o: argparse.Namespace, name: str, out: Path) -> list[str]:
    """The whole command of one side."""
    layers, arms = (LAYERS[-1:], ["--sae.k", "32"])
    if name == TOGETHER:
        layers, arms = LAYERS, ["--vary", *ARMS]
    hooks = [f"--hook=blocks.{layer}.hook_resid_post" for layer in layers]
    return [
        sys.executable, str(HERE / "language_model_worker.py"), "--model", o.model, *hooks, *arms,
        "--text", str(o.text), "--tokens", str(o.tokens), "--steps", str(o.tokens // o.batch_size),
        "--batch-size", str(o.batch_size), "--buffer-rows", str(o.buffer),
        "--sae.d-sae", str(o.d_sae), "--threads", str(CORES), "--out", str(out),
    ]  # fmt: skip


def main() -> None:
    """Measure and write."""
    options = parser(__doc__ or "")
    options.add_argument("--model", default=str(HERE.parent / "models" / "smollm2-135m"))
    options.add_argument("--text", type=Path, required=True)
    for name, value in (("tokens", 1_000_000), ("d-sae", 4608), ("batch-size", 2048),
                        ("buffer", 131_072), ("rounds", 1)):  # fmt: skip
        options.add_argument(f"--{name}", type=int, default=value)
    o = options.parse_args()
    runs: dict[str, list[dict[str, float]]] = {ALONE: [], TOGETHER: []}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(o.rounds):
            for name, found in runs.items():
                spent = timed(command(o, name, Path(place) / "run"), Path(place) / "run")
                found.append(spent | {"beyond": spent["whole"] - spent["training"]})
                print(f"round {turn + 1}: {name} {found[-1]}", flush=True)
    rows = [
        {"name": name} | {part: median(run[part] for run in found) for part in found[0]}
        for name, found in runs.items()
    ]
    ratio = rows[1]["beyond"] / rows[0]["beyond"]
    print(f"beyond training, {TOGETHER} took {ratio:.2f} times what {ALONE} did")
    sizes = {key: getattr(o, key) for key in ("tokens", "d_sae", "batch_size", "buffer")}
    write("side-by-side", o, rows=rows, sizes=sizes, ratio=ratio)


if __name__ == "__main__":
    main()
