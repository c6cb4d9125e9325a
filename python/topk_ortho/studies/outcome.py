"""The outcome of a run, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def failed_path(root: Path, name: str) -> Path:
    """Returns the path of the file with the reason of a failed run, beside its folder."""
    return root / "runs" / f"{name}.failed.json"


def result_of(root: Path, name: str) -> dict[str, Any] | None:
    """Returns the metrics of a finished run, None before."""
    path = root / "runs" / name / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def failure_of(root: Path, name: str) -> str | None:
    """Returns why a run failed; None where it has not, or was finished later."""
    path = failed_path(root, name)
    if result_of(root, name) is not None or not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except (ValueError, KeyError, TypeError):
        return "the reason was not written whole"
