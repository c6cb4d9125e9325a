"""The edges of an atlas, as the pairs that a repair is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError

ENDS = (("parent", "child"), ("source", "target"))
"""Names of an edge's two features: in an atlas, and in its graph."""


def read_edges(path: Path) -> tuple[int, ...]:
    """Returns the features of all edges, one edge after the other.

    Args:
        path: what `topk-ortho atlas` wrote by `--out`, or by `--graph` as JSON.

    Raises:
        ConfigError: no such file, none of that kind, or one without an edge.
    """
    try:
        edges = json.loads(path.read_bytes())["edges"]
        found = tuple(feature for edge in edges for feature in _ends(edge))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--atlas {path} was given, but an atlas was expected ({type(error).__name__}: "
            f"{error}); give what topk-ortho atlas --out FILE wrote."
        ) from error
    if not found:
        raise ConfigError(
            f"--atlas {path} was given, but it has no edge, so there is nothing to repair by it; "
            "leave it out, and the pairs are chosen in every batch."
        )
    return found


def _ends(edge: dict[str, Any]) -> tuple[int, int]:
    first, second = next((ends for ends in ENDS if ends[0] in edge), ENDS[0])
    return int(edge[first]), int(edge[second])
