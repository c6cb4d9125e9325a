"""`metrics.jsonl`: one JSON object per logged step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class EventLog:
    """Appends lines; a torn last line and lines after the resumed step are cut off at the start.

    Args:
        path: the file, created if need be.
        keep_until: the last step whose line stays.
    """

    def __init__(self, path: Path, *, keep_until: int):
        self._truncate(path, keep_until)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: dict[str, Any]) -> None:
        """Append one object; it reaches the file before this returns."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Flush what was written to the disk, so that no checkpoint outlives the lines before."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def _truncate(path: Path, keep_until: int) -> None:
        if not path.exists():
            return
        good = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    step = json.loads(line)["step"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    break
                if not line.endswith(b"\n") or type(step) is not int or step > keep_until:
                    break
                good += len(line)
        with path.open("r+b") as file:
            file.truncate(good)
