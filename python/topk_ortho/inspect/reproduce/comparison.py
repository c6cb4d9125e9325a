"""A comparison of two folders of the same run, number by number and bit by bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

MEASURED = {
    "times": ("seconds", "step_ms", "tokens_per_second"),
    "memory": ("memory_allocated", "memory_reserved"),
}
"""Numbers that no machine repeats: left out, as is all that ends in _ms or _seconds or starts with
memory_."""

RECORDS = ("result.json", "ground_truth.json")
"""Files that may have been added whole; these and the log gain entries from one version of the
package to the next."""
LOG = "metrics.jsonl"
BYTES = ("history.bin",)
TENSORS = ("sae/sae_weights.safetensors",)


@dataclass(frozen=True)
class Differing:
    """One number that is not the same.

    Attributes:
        file: relative to the run folder.
        what: which number in it.
        then, now: in the first run and in the second, None where it is not there.
    """

    file: str
    what: str
    then: Any
    now: Any


@dataclass
class Comparison:
    """The result of a comparison: what was compared, what differed, and what the first run lacks,
    as one of an earlier version may: that is no difference."""

    equal: list[str] = field(default_factory=list)
    differing: list[Differing] = field(default_factory=list)
    only_now: list[str] = field(default_factory=list)

    def record(self, described: str, found: Iterable[Differing]) -> None:
        """Take in one file."""
        found = list(found)
        self.differing += found
        if not found:
            self.equal.append(described)

    def record_figures(self, name: str, then: Path, now: Path) -> None:
        """Take in one file of numbers, which neither run may have."""
        old, new = _figures(then / name), _figures(now / name)
        if old is None and new is None:
            return
        old, new = old or {}, new or {}
        if name.endswith(RECORDS) or old:
            known = {_of_any_step(key) for key in old}
            added = {key for key in new if _of_any_step(key) not in known}
            self.only_now += [f"{name}, {key}" for key in new if key in added]
            new = {key: value for key, value in new.items() if key not in added}
        if old or new:
            found = _figures_differing(name, old, new)
            self.record(f"{len(old)} numbers of {name}", found)


def compare_folders(then: Path, now: Path, *, step: int) -> Comparison:
    """Compare two run folders, and those of their baselines where there are any.

    Args:
        then: the first run.
        now: the second.
        step: whose checkpoint to compare; it may have been deleted from either.
    """
    out = Comparison()
    arms = [Path()] + [Path("baseline")] * any((f / "baseline").is_dir() for f in (then, now))
    checkpoint = f"checkpoints/step_{step}/tensors.safetensors"
    for arm in arms:
        for name in (str(arm / n) for n in (*RECORDS, LOG)):
            out.record_figures(name, then, now)
        for name in (str(arm / n) for n in (*TENSORS, checkpoint)):
            both = [(folder / name).is_file() for folder in (then, now)]
            if all(both) or (any(both) and "checkpoints" not in name):
                out.record(name, _tensors_differing(name, then / name, now / name))
        for name in (str(arm / n) for n in BYTES):
            contents = [_bytes(folder / name) for folder in (then, now)]
            if contents != [None, None]:
                out.record(name, _bytes_differing(name, *contents))
    return out


def is_measured(key: str) -> bool:
    """Returns whether a number is a time or a size in memory, which no machine repeats."""
    last = key.rpartition(".")[2]
    listed = any(last in keys for keys in MEASURED.values())
    return listed or last.endswith(("_ms", "_seconds")) or last.startswith("memory_")


def _figures(path: Path) -> dict[str, str] | None:
    """Returns every number of a JSON or JSONL file by its place, as exact text; None without it."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines()]
            value: Any = {}
            for line in lines:  # a step may have a second one, of held-out metrics
                value.setdefault(f"step {line['step']}", {}).update(line)
        else:
            value = json.loads(text)
    except (ValueError, KeyError, TypeError):
        return {"the whole file": json.dumps("damaged")}
    return {key: json.dumps(v) for key, v in _leaves(value, "") if not is_measured(key)}


def _of_any_step(key: str) -> str:
    """A figure's name without the step of its line, so that a log without it is told from a log
    without the line."""
    return re.sub(r"^step \d+\.", "", key)


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and value:
        for at, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{at}]")
    else:
        yield place, value


def _figures_differing(name: str, then: dict[str, str], now: dict[str, str]) -> Iterator[Differing]:
    for key in (*then, *(k for k in now if k not in then)):
        old, new = then.get(key), now.get(key)
        if old != new:
            yield Differing(
                name,
                key,
                then=None if old is None else json.loads(old),
                now=None if new is None else json.loads(new),
            )


def _tensors_differing(name: str, then: Path, now: Path) -> Iterator[Differing]:
    old, new = _tensors(then), _tensors(now)
    if old is None or new is None:
        yield Differing(name, "the whole file", *(None if t is None else "readable"
                                                  for t in (old, new)))  # fmt: skip
        return
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
            yield Differing(name, key, *(None if t is None else f"{t.dtype} {list(t.shape)}"
                                         for t in (a, b)))  # fmt: skip
        elif not torch.equal(_bits(a), _bits(b)):
            changed = int((a != b).sum())
            apart = float((a.double() - b.double()).abs().max())
            others = f"{changed} others, by up to {apart:.3g}"
            yield Differing(name, key, f"{a.numel()} values", others)


def _tensors(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _bytes_differing(name: str, then: bytes | None, now: bytes | None) -> list[Differing]:
    if then == now:
        return []
    sizes = (None if data is None else f"{len(data)} bytes" for data in (then, now))
    return [Differing(name, "its bytes", *sizes)]
