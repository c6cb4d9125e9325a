"""Numbers and strings formatted for display; nothing unprintable reaches a page.

Any metric may be unavailable: None, not finite, or no number at all, as a damaged file has it. The
functions that take one say so in its place, `DASH` in a terminal's tables and `UNAVAILABLE` on a
page, and raise nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topk_ortho.statistics import finite

if TYPE_CHECKING:
    from topk_ortho.statistics import Difference

DASH = "-"
UNAVAILABLE = "unavailable"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_LONGEST = 400  # characters of a string from outside, such as the reason of a failure


def metric(value: Any, form: str = ".3f") -> str:
    """Returns a metric for a terminal in a format, a dash where it is unavailable."""
    return DASH if finite(value) is None else format(value, form)


def count(value: Any) -> str:
    """Returns a whole number for a terminal, a dash where it is unavailable."""
    return metric(value, ".0f")


def change(difference: Difference | None, note: str = "") -> str:
    """Returns `+0.100 [+0.050, +0.150]` for a terminal, a note inside the brackets."""
    if difference is None:
        return UNAVAILABLE
    d = difference
    return f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}{note}]"


def change_percent(difference: Difference | None) -> str:
    """Returns `+10 % [+5, +15]` for a terminal."""
    if difference is None:
        return UNAVAILABLE
    d = difference
    return f"{100 * d.mean:+.0f} % [{100 * d.low:+.0f}, {100 * d.high:+.0f}]"


def plain(value: Any, *, longest: int = _LONGEST) -> str:
    """Returns a string in which control characters and marks of direction are spelled out."""
    text = "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character)[0] == "C" else character
        for character in str(value)[: longest + 1]
    )
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def cut(text: str, longest: int) -> str:
    """Returns a label as wide as `longest` usual letters at most: its middle goes."""
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


def number(value: Any, decimals: int = 3) -> str:
    """Returns a metric for a page with a fixed number of decimals."""
    known = finite(value)
    if known is None:
        return UNAVAILABLE
    text = f"{known:,.{decimals}f}"
    if text.startswith("-"):
        text = text[1:] if not float(text.replace(",", "")) else f"{_MINUS}{text[1:]}"
    return text


def signed(value: Any, decimals: int = 3) -> str:
    """Returns a difference with its sign."""
    text = number(value, decimals)
    bare = text.startswith(_MINUS) or text == UNAVAILABLE or not text.strip("0.,")
    return text if bare else f"+{text}"


def significant(value: Any) -> str:
    """Returns a metric of any size by its first three digits."""
    known = finite(value)
    return UNAVAILABLE if known is None else f"{known:.3g}".replace("-", _MINUS)


def percent(share: float, decimals: int = 0) -> str:
    """Returns a share as per cent."""
    return f"{number(100 * share, decimals)}{_SPACE}%"


def signed_percent(share: float, decimals: int = 0) -> str:
    """Returns a relative change as per cent, with its sign."""
    return f"{signed(100 * share, decimals)}{_SPACE}%"


def interval(difference: Difference, decimals: int = 3) -> str:
    """Returns `[low, high]`."""
    return f"[{signed(difference.low, decimals)}, {signed(difference.high, decimals)}]"


def interval_percent(difference: Difference) -> str:
    """Returns `[low %, high %]` of a relative change."""
    return f"[{signed_percent(difference.low)}, {signed_percent(difference.high)}]"


def with_interval(difference: Difference | None) -> str:
    """Returns `+0.100 [+0.050, +0.150]` for a page."""
    if difference is None:
        return UNAVAILABLE
    return f"{signed(difference.mean)} {interval(difference)}"


def listed(names: Sequence[str]) -> str:
    """Returns `a, b and c`."""
    if not names:
        return ""
    return ", ".join(names[:-1]) + (f" and {names[-1]}" if len(names) > 1 else names[0])
