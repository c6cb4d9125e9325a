"""File names that are not valid Unicode, in files that can hold nothing else.

Python reads a byte of a name that is no UTF-8 as a lone surrogate, which TOML cannot hold. Such a
byte is written as NUL and two hexadecimal digits: no name of a file has a NUL.
"""

from __future__ import annotations

import re


def spelled(name: str) -> str:
    """Returns `name` with each byte that is no UTF-8 as NUL and its two digits."""
    return re.sub("[\udc80-\udcff]", lambda m: f"\0{ord(m[0]) - 0xDC00:02x}", name)


def unspelled(text: str) -> str:
    """Returns the name that was `spelled`."""
    return re.sub("\0([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), text)
