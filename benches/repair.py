"""The effect of a repair on SAEs that were trained without the constraint (docs/repair.md).

`python benches/repair.py` trains one for every seed, repairs it, trains on as long without the
constraint, and prints means with intervals over the seeds. `--half-time` stops the first training
half way instead, and tries criteria from there. Runs stay in `--out`; what is there is not trained
again. Synthetic data as by default; options of `train` after `--` go to every training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import machine  # noqa: F401  (before torch)

from topk_ortho import cli
from topk_ortho.config import PenaltyConfig, TrainConfig
from topk_ortho.statistics import MARGIN_EXPLAINED_VARIANCE, Difference, non_inferior, paired
from topk_ortho.studies.plan import FIRST_SEED

COLUMNS = {
    "absorption": "absorption_rate",
    "misses without a child": "base_miss",
    "excess": "excess",
    "MCC": "mcc",
    "parent F1": "f1_parent",
    "child F1": "f1_child",
    "EV": "explained_variance",
    "suppressed pairs": "suppressed_pairs",
    "L0": "l0",
}
CHECKPOINTS = ["--checkpoint-every", "1000000"]
DECODER = ["--penalty.coefficient", "0.8", "--penalty.threshold", "0.1"]
DEFAULT = ["--penalty.coefficient", f"{TrainConfig().coefficient():g}",
           "--penalty.threshold", f"{PenaltyConfig().threshold:g}"]  # fmt: skip
"""A repair has its own, which are stronger."""
AFTER_END: Mapping[str, Sequence[str]] = {
    "trained on without": ["--pairs.criterion", "none"],
    "repaired": [],
}
AFTER_HALF: Mapping[str, Sequence[str]] = {
    "trained on without": ["--pairs.criterion", "none"],
    "decoder-cosine": ["--pairs.criterion", "decoder-cosine", *DECODER],
    "suppressed": ["--pairs.criterion", "suppressed", *DECODER],
    "default": DEFAULT,
}
Figures = dict[str, Any]


def command(*words: str) -> None:
    """Run one of the package's commands without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(list(words))
    if code:
        raise SystemExit(f"topk-ortho {' '.join(words)} ended with {code}")


def of_seed(seed: int, out: Path, more: Sequence[str], *, half: bool) -> dict[str, Figures]:
    """Returns metrics before and after, by name, on the same held-out activations."""
    first, arms = out / f"before-{seed}", AFTER_HALF if half else AFTER_END
    thousand = [] if "--steps" in more else ["--steps", "1000"]
    steps = [*thousand, "--decay-fraction", "0"] if half else []
    if not (first / "result.json").is_file():
        command("train", "--pairs.criterion", "none", "--seed", str(seed), *steps, *CHECKPOINTS,
                "--out", str(first), *more)  # fmt: skip
    found: dict[str, Figures] = {}
    for name, options in arms.items():
        run = out / f"{name.replace(' ', '-')}-{seed}"
        if not (run / "repair.json").is_file():
            longer = thousand if half else []
            command("repair", str(first), "--seed", str(seed), *longer, *CHECKPOINTS,
                    "--out", str(run), *options, *more)  # fmt: skip
        record = json.loads((run / "repair.json").read_text(encoding="utf-8"))
        found["before"] = record["before"]
        found[name] = record["after"]
    return found


def tables(found: Mapping[int, Mapping[str, Figures]]) -> str:
    """Means over the seeds, and paired differences to the SAE before and to training on."""
    names = list(next(iter(found.values())))
    values = {
        name: {key: {seed: arms[name].get(key) for seed, arms in found.items()} for key in
               COLUMNS.values()}
        for name in names
    }  # fmt: skip
    lines = [_row("", *COLUMNS), _row(*["---"] * (len(COLUMNS) + 1))]
    for name in names:
        means = [sum(v.values()) / len(v) for v in values[name].values()]
        lines.append(_row(name, *(f"{m:.0f}" if m >= 20 else f"{m:.3f}" for m in means)))
    lines += ["", _row("", *COLUMNS, "EV kept"), _row(*["---"] * (len(COLUMNS) + 2))]
    for name in names[1:]:
        for beside in ("before", "trained on without"):
            if name != beside:
                lines.append(_against(f"{name} minus {beside}", values[name], values[beside]))
    return "\n".join(lines)


def _against(title: str, values: Mapping[str, Any], beside: Mapping[str, Any]) -> str:
    cells = [_interval(paired(values[key], beside[key])) for key in COLUMNS.values()]
    key = "explained_variance"
    kept = non_inferior(values[key], beside[key], margin=MARGIN_EXPLAINED_VARIANCE)
    return _row(title, *cells, {"holds": "yes", "does not hold": "no"}.get(kept.verdict, "-"))


def _interval(found: Difference | None) -> str:
    if found is None:
        return "-"
    places = 0 if abs(found.mean) >= 5 else 3
    return f"{found.mean:+.{places}f} [{found.low:+.{places}f}, {found.high:+.{places}f}]"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help=f"how many, from {FIRST_SEED} on")
    parser.add_argument("--half-time", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/repair"))
    parser.add_argument("options", nargs="*", help="of train")
    given = parser.parse_args()
    out = given.out / ("half-time" if given.half_time else "to-the-end")
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    more = given.options
    print(tables({seed: of_seed(seed, out, more, half=given.half_time) for seed in seeds}))


if __name__ == "__main__":
    main()
