"""What a run left out of its training, so that whoever looks at it leaves out the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.activations.language_model import LanguageModel
from topk_ortho.activations.leaving_out import LeaveOut
from topk_ortho.activations.reading import left_out
from topk_ortho.config.paths import stored_config


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not measured on.

    Attributes:
        positions: of contexts.
        norm_limit: activations above are left out, in the model's units; None for no limit.
    """

    positions: LeaveOut
    norm_limit: float | None


def left_out_by(sae: Path, model: LanguageModel) -> LeftOut:
    """Returns what a run folder left out; BOS alone for the folder of any other SAE."""
    if not (sae / "config.toml").is_file():
        return LeftOut(LeaveOut(model.bos), None)
    return LeftOut(left_out(stored_config(sae), model), norm_limit(sae))


def norm_limit(sae: Path) -> float | None:
    """Returns the norm above which a finished run left activations out, None for no limit."""
    try:
        result = json.loads((sae / "result.json").read_text(encoding="utf-8"))
        limit = result["left_out"]["norm_limit"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return limit if isinstance(limit, float) else None
