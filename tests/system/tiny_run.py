"""Settings of runs that take half a second, and what is compared between two of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topk_ortho.commands.reader import parse
from topk_ortho.config import TrainConfig


def words(text: str) -> list[str]:
    """A command line as its arguments."""
    return text.split()


SYNTHETIC = words(
    "--synthetic.d-in 24 --synthetic.roots 4 --synthetic.children 2 --synthetic.independent 12"
)
# dead-after 3: aux-k works from the first steps on.
SHAPE = words(
    "--steps 60 --batch-size 32 --sae.d-sae 64 --sae.k 4 --sae.dead-after 3 --eval-samples 512 "
    "--buffer-rows 2048 --checkpoint-every 20 --log-every 7"
)
OPTIONS = [*SHAPE, *SYNTHETIC]
CHANGING_FIGURES = ("seconds", "step_ms", "folder")
CHANGING_EVENTS = ("tokens_per_second", "memory_allocated", "memory_reserved")


def over(base: Sequence[str], *options: str) -> list[str]:
    """The words of `base` without the options that `options` has too, then `options`.

    Options of synthetic data are left out where another source of activations is given.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in options if word.startswith("--")}
    sources = {"--data", "--model", "--text", "--activations"}
    kept: list[str] = []
    keep = True
    for word in base:
        if word.startswith("--"):
            keep = word not in given and not (word.startswith("--synthetic.") and sources & given)
        kept += [word] if keep else []
    return [*kept, *options]


def tiny(*options: str, base: Sequence[str] = OPTIONS) -> TrainConfig:
    """The tiny configuration with options of the command line in place of its own."""
    words_ = list(base)
    starts = [at for at, word in enumerate(options) if word.startswith("--")]
    for start, end in itertools.pairwise([*starts, len(options)]):
        words_ = over(words_, *options[start:end])
    return parse(words_).settings


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that has to be the same on every run."""
    result = json.loads((folder / "result.json").read_text())
    history = folder / "history.bin"
    return {
        "weights": (folder / "sae" / "sae_weights.safetensors").read_bytes(),
        "history": history.read_bytes() if history.exists() else None,
        "result": {k: v for k, v in result.items() if k not in CHANGING_FIGURES},
        "events": [
            {k: v for k, v in event.items() if k not in CHANGING_EVENTS} for event in events(folder)
        ],
    }


def events(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def assert_same(given: Path, expected: Path) -> None:
    """Fail, naming the part, unless both runs ended bit for bit the same."""
    one, other = outcome(given), outcome(expected)
    for part in one:
        assert one[part] == other[part], part
