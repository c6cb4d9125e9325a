"""Folders as training, bars and ablations leave them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

HOSTILE = "</script><script>alert(1)</script>\"'&\x00\x1b[31m\u202etxt.exe$x_1$"

FIGURES = {
    "absorption_rate": 0.6,
    "excess": 0.14,
    "base_miss": 0.46,
    "mcc": 0.79,
    "f1_parent": 0.5,
    "f1_child": 0.63,
    "explained_variance": 0.89,
    "l0": 8.0,
    "dead_features": 0.1,
    "step_ms": 10.0,
    "steps": 200,
}
BETTER = {"absorption_rate": 0.2, "excess": 0.02, "mcc": 0.83, "f1_child": 0.68, "step_ms": 12.0}


def log(steps: int = 200) -> list[dict[str, Any]]:
    """Lines with every figure that is drawn."""
    return [
        {
            "step": step,
            "loss": 9.0 / step,
            "l2": 8.0 / step,
            "l1": 7.0,
            "orthogonality": 0.01 * step,
            "lr": 0.005,
            "sparsity_penalty": 0.0,
            "memory_allocated": 4e8,
            "memory_reserved": 5e8,
            "pairs": step,
            "pairs_overlapping": 0.4,
            "pairs_features": 100 + step,
            "jaccard": 0.5,
        }
        for step in range(50, steps + 1, 50)
    ]


def run_folder(
    folder: Path,
    *,
    seed: int = 100,
    criterion: str = "coactivation",
    figures: dict[str, Any] | None = None,
    lines: list[dict[str, Any]] | None = None,
    **sections: dict[str, Any],
) -> Path:
    """A finished run, an unfinished one where `figures` is empty."""
    folder.mkdir(parents=True)
    settings: dict[str, Any] = {
        "seed": seed,
        "steps": 200,
        "batch_size": 64,
        "activations": "synthetic",
        "synthetic": {"preset": "forest-240"},
        "sae": {"kind": "batch-topk", "d_sae": 64, "k": 8.0},
        "pairs": {"criterion": criterion, "schedule": "constant"},
        "penalty": {"tau": "fixed", "threshold": 0.1},
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    (folder / "config.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    text = "".join(json.dumps(line) + "\n" for line in (log() if lines is None else lines))
    (folder / "metrics.jsonl").write_text(text)
    figures = FIGURES if figures is None else figures
    if figures:
        result = {"seed": seed, "criterion": criterion} | figures
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def arm_folders(
    root: Path,
    arm: str,
    changes: dict[str, Any] | None = None,
    *,
    seeds: tuple[int, ...] = (100, 101, 102),
    **more: Any,
) -> None:
    """Runs of an arm as bars name them; every seed is a little off, in the same way in all arms."""
    figures = FIGURES | (changes or {})
    for n, seed in enumerate(seeds):
        shifted = {
            key: value + 0.01 * n if key in ("absorption_rate", "excess", "l0") else value
            for key, value in figures.items()
            if value is not None
        }
        shifted |= {key: value for key, value in figures.items() if value is None}
        # What is no constant shift, so that intervals have a width.
        for key in ("mcc", "f1_child", "explained_variance", "excess"):
            if shifted[key] is not None and arm != "none":
                shifted[key] += 0.0005 * (n - 1)
        criterion = more.get("criterion", "none" if arm == "none" else "coactivation")
        rest = {key: value for key, value in more.items() if key != "criterion"}
        folder = root / arm / f"seed-{seed}-{'0' * 15}{n}"
        run_folder(folder, seed=seed, criterion=criterion, figures=shifted, **rest)


def ablation(root: Path, *, values: dict[str, dict[str, Any]], seeds: tuple[int, ...]) -> Path:
    """A grid over `penalty.tau` with `none`, one failed run and one that was not run."""
    runs = []

    def planned(label: str, arm: str, axis: dict[str, Any], seed: int) -> Path:
        name = f"{len(runs):016x}"
        runs.append(
            {
                "label": label,
                "arm": arm,
                "axis": axis,
                "seed": seed,
                "hash": name,
                "folder": f"runs/{name}",
            }
        )
        return root / "runs" / name

    for seed in seeds:
        run_folder(planned("none", "none", {}, seed), seed=seed, criterion="none")
        for tau, figures in values.items():
            folder = planned(f"penalty.tau={tau}", "variant", {"penalty.tau": tau}, seed)
            run_folder(folder, seed=seed, figures=FIGURES | figures, penalty={"tau": tau})
    failed = planned("rate-matched-random", "rate-matched-random", {}, seeds[0])
    failed.with_name(f"{failed.name}.failed.json").write_text(json.dumps({"reason": HOSTILE}))
    planned("rate-matched-random", "rate-matched-random", {}, seeds[1])
    plan = {
        "version": 1,
        "base": tomli_w.dumps({"seed": 0, "steps": 200, "batch_size": 64}),
        "axes": {"penalty.tau": list(values)},
        "arms": ["none", "rate-matched-random"],
        "seeds": list(seeds),
        "left_out_arms": ["ortsae"],
        "runs": runs,
    }
    (root / "ablation.json").write_text(json.dumps(plan))
    return root
