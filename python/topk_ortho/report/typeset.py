"""Figures and strings as the page shows them; nothing from outside reaches it unprintable."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topk_ortho.statistics import Difference

UNAVAILABLE = "unavailable"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_LONGEST = 400  # characters of a string from outside, such as the reason of a failure


def plain(value: Any, *, longest: int = _LONGEST) -> str:
    """A string in which control characters and marks of direction are spelled out."""
    text = "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character)[0] == "C" else character
        for character in str(value)[: longest + 1]
    )
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def cut(text: str, longest: int) -> str:
    """A label as wide as `longest` usual letters at most: its middle goes."""
    text = plain(text)
    keep = len(text)
    while keep > 2 and _width(_ends(text, keep)) > longest:
        keep -= 1
    return _ends(text, keep)


def _ends(text: str, keep: int) -> str:
    if keep >= len(text):
        return text
    return f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"


def _width(text: str) -> float:
    """In usual letters; capitals, m and w are wider, and so are the signs of East Asia."""
    wide = sum(c.isupper() or c in "mw%@" for c in text)
    widest = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + 0.4 * wide + widest


def number(value: float | None, decimals: int = 3) -> str:
    """A figure with a fixed number of decimals, `unavailable` where there is none."""
    if value is None or not math.isfinite(value):
        return UNAVAILABLE
    text = f"{value:,.{decimals}f}"
    if text.startswith("-"):
        text = text[1:] if not float(text.replace(",", "")) else f"{_MINUS}{text[1:]}"
    return text


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign."""
    text = number(value, decimals)
    return text if text.startswith(_MINUS) or not text.strip("0.,") else f"+{text}"


def significant(value: float | None) -> str:
    """A figure of any size by its first three digits."""
    return UNAVAILABLE if value is None else f"{value:.3g}".replace("-", _MINUS)


def percent(value: float, decimals: int = 0) -> str:
    """A share as per cent."""
    return f"{number(100 * value, decimals)}{_SPACE}%"


def signed_percent(value: float, decimals: int = 0) -> str:
    """A relative change as per cent, with its sign."""
    return f"{signed(100 * value, decimals)}{_SPACE}%"


def interval(difference: Difference, decimals: int = 3) -> str:
    """`[low, high]`."""
    return f"[{signed(difference.low, decimals)}, {signed(difference.high, decimals)}]"


def interval_percent(difference: Difference) -> str:
    """`[low %, high %]` of a relative change."""
    return f"[{signed_percent(difference.low)}, {signed_percent(difference.high)}]"


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return ", ".join(names[:-1]) + (f" and {names[-1]}" if len(names) > 1 else names[0]) \
        if names else ""  # fmt: skip
