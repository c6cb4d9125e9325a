"""The history of the chosen pairs: options and their rules."""

from __future__ import annotations

from dataclasses import dataclass

from topk_ortho.config.option import DECAY_ABOVE_0, option, when, whole
from topk_ortho.config.settings import Settings

_KEPT = when("history.enabled", True)


@dataclass(frozen=True, repr=False)
class HistoryConfig(Settings):
    """The history of the chosen pairs."""

    enabled: bool = True
    """Keep a history (`history.bin`)."""
    decay: float = option(0.99, within=DECAY_ABOVE_0, used=_KEPT)
    """β of the moving average of "selected", per observation."""
    capacity: int | None = option(None, within=whole(1, 2**40), used=_KEPT)
    """Entries kept; 32 k and at least 2^20 unless given."""
    queue: int = option(8, within=whole(1, 4096), used=_KEPT)
    """Observations that may wait for the background thread."""
