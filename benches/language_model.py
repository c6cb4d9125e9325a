"""From text to a trained SAE: this package, SAELens' runner and sparsify's trainer, in turn.

`make real-model bench-peers`, then `python benches/language_model.py --text FILE`. Every program is
a process of its own, on the same model folder, text, hook point, number of features, batch and L0,
with its own defaults for the rest; they take turns, and what is compared are medians. Afterwards
`topk-ortho evaluate` measures all SAEs on the same held-out text (`--held-out FILE`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from machine import CORES, HERE, parser, write

LAYER = 9
PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
OURS = "topk-ortho"
PROGRAMS = (OURS, "saelens", "sparsify", "sparsify-all-layers")
"""`sparsify` has the layers behind the hook taken out by hand, the other runs them."""
SPLIT = ("model", "training")


def ours(o: argparse.Namespace, out: Path) -> list[str]:
    """The command of this package, with the constraint on; it measures hardly anything at its end,
    since the others measure nothing."""
    return [
        sys.executable, str(HERE / "language_model_worker.py"), "--model", o.model,
        "--hook", f"blocks.{LAYER}.hook_resid_post", "--text", str(o.text),
        "--context", str(o.context), "--tokens", str(o.tokens),
        "--steps", str(o.tokens // o.batch_size), "--batch-size", str(o.batch_size),
        "--buffer-rows", str(o.buffer),
        "--sae.d-sae", str(o.d_sae), "--sae.k", str(o.k), "--threads", str(CORES),
        "--eval-contexts", "0", "--eval-samples", "2048", "--out", str(out),
    ]  # fmt: skip


def peer(program: str, o: argparse.Namespace, out: Path) -> list[str]:
    """The command of another package."""
    return [
        str(o.peers_python), str(HERE / "language_model_peers.py"), program,
        "--model", o.model, "--text", str(o.text), "--out", str(out), "--layer", str(LAYER),
        "--d-in", "576", "--d-sae", str(o.d_sae), "--k", str(o.k), "--tokens", str(o.tokens),
        "--context", str(o.context), "--batch-size", str(o.batch_size), "--buffer", str(o.buffer),
        "--prompts", str(o.batch_size // o.context), "--threads", str(CORES),
    ]  # fmt: skip


def timed(command: list[str], out: Path) -> dict[str, float]:
    """Run a program once; returns the seconds that it took and where they went.

    Raises:
        SystemExit: it failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - began
    lines = [line for line in done.stdout.splitlines() if line.startswith("@")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    spent = json.loads(lines[-1][1:])
    return {"whole": whole, **spent, "rest": whole - sum(spent[name] for name in SPLIT)}


def measured(o: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Explained variance, L0 and CE score of the SAE in a folder, on the held-out text."""
    saes = [path.parent for path in folder.rglob("cfg.json")]
    command = [sys.executable, "-m", "topk_ortho.cli", "evaluate", str(saes[0]),
               "--model", o.model, "--hook", f"blocks.{LAYER}.hook_resid_post",
               "--text", str(o.held_out), "--context", str(o.context), "--split", "all",
               "--eval-samples", str(o.eval_samples), "--allow-mismatch", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"not_measured": done.stderr[-500:]}
    found = json.loads(done.stdout)["figures"]
    return {key: found[key] for key in ("explained_variance", "l0", "ce_score")}


def main() -> None:
    """Measure and write."""
    options = parser(__doc__ or "")
    options.add_argument("--model", default=str(HERE.parent / "models" / "smollm2-135m"))
    options.add_argument("--text", type=Path, required=True)
    options.add_argument("--held-out", type=Path)
    options.add_argument("--tokens", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    options.add_argument("--peers-python", type=Path, default=PEERS_PYTHON)
    for name, value in (("d-sae", 4608), ("k", 32), ("context", 128), ("batch-size", 2048),
                        ("buffer", 131_072), ("eval-samples", 30_000)):  # fmt: skip
        options.add_argument(f"--{name}", type=int, default=value)
    o = options.parse_args()
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in o.programs}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(o.rounds):
            for name in o.programs:
                out = Path(place) / name
                command = ours(o, out) if name == OURS else peer(name, o, out)
                seconds[name].append(timed(command, out))
                print(f"round {turn + 1}: {name} {seconds[name][-1]}", flush=True)
        rows = [
            {"name": name, "rounds": len(runs)}
            | {part: median(run[part] for run in runs) for part in ("whole", *SPLIT, "rest")}
            | (measured(o, Path(place) / name) if o.held_out else {})
            for name, runs in seconds.items()
        ]
    for line in rows:
        print(line)
    sizes = {key: getattr(o, key) for key in ("tokens", "d_sae", "k", "context", "batch_size")}
    write("language-model", o, rows=rows, sizes=sizes)


if __name__ == "__main__":
    main()
