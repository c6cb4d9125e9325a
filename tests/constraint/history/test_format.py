"""`docs/formats.md` on the pair history, read out of the stored sample of version 1."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topk_ortho.constraint.history import PairHistory

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "rust" / "core" / "tests" / "data" / "history-v1.tkoh"
DATA = SAMPLE.read_bytes()
RECORD = 64
ROW = re.compile(r"\| (\d+) \| (\d+) \| (\w+) \| `([a-z]\d+)((?:\[\d+\])*)` \|")
KINDS = {"u8": "B", "u32": "I", "u64": "Q", "f64": "d"}


def tables() -> list[dict[str, tuple[int, int, str]]]:
    """The documented fields at fixed places, (offset, size, struct format): header, then record."""
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    found: list[dict[str, tuple[int, int, str]]] = []
    for offset, size, name, kind, shape in ROW.findall(text):
        if offset == "0":
            found.append({})
        count = int(np.prod([int(n) for n in re.findall(r"\d+", shape)] or [1]))
        found[-1][name] = int(offset), int(size), f"<{count}{KINDS[kind]}"
    return found


def read(table: dict[str, tuple[int, int, str]], data: bytes) -> dict[str, Any]:
    values = {name: struct.unpack_from(form, data, at) for name, (at, _, form) in table.items()}
    return {name: value[0] if len(value) == 1 else value for name, value in values.items()}


def test_the_documented_fields_follow_each_other() -> None:
    for table, end in zip(tables(), (544, RECORD), strict=True):
        at = 0
        for name, (offset, size, form) in table.items():
            assert (offset, size) == (at, struct.calcsize(form)), name
            at += size
        assert at == end


def test_the_sample_is_read_as_documented() -> None:
    header, record = tables()
    history = PairHistory.from_bytes(DATA)
    fields = read(header, DATA)
    report = history.stability()
    assert bytes(fields["magic"]) == b"TKOH"
    assert fields["version"] == 1
    assert (fields["capacity"], fields["decay"]) == (history.capacity, history.decay) == (3, 0.75)
    assert fields["observations"] == history.observations == 11
    last = report["last"]
    for name in ("step", "left", "kept", "jaccard", "mean_ema", "stable_share"):
        assert fields[name] == last[name], name
    assert fields["jaccard_sum"] / 10 == report["mean_jaccard"]
    assert fields["survival"] == tuple(n for pair in report["survival"].values() for n in pair)
    assert list(fields["lifetimes"]) == report["lifetimes"]["counts"]
    assert fields["unknown"] == report["lifetimes"]["unknown"]

    at = 544
    for _ in range(fields["anchors"]):
        observation, n = struct.unpack_from("<QQ", DATA, at)
        selection = np.frombuffer(DATA, "<u8", n, at + 16)
        at += 16 + 8 * n
    assert observation == 11
    assert len(selection) == last["size"]
    assert set((selection >> 32).tolist()) <= set(history.hubs(9)[0].tolist())

    (records,) = struct.unpack_from("<Q", DATA, at)
    at += 8
    assert records == len(history)
    by_pair = {(int(p.i), int(p.j)): p for p in map(_Row, zip(*history.top(9), strict=True))}
    for _ in range(records):
        stored = read(record, DATA[at : at + RECORD])
        row = by_pair[divmod(stored["pair"], 1 << 32)]
        decayed = history.decay ** (11 - stored["last"])
        assert row.ema_low == pytest.approx(stored["low"] * decayed)
        assert row.ema_high == pytest.approx((stored["low"] + stored["err"]) * decayed)
        for name in ("hits", "first_seen", "last_seen", "longest_streak"):
            assert getattr(row, name) == stored[name], name
        assert row.streak == (stored["streak"] if stored["last"] == 11 else 0)
        at += RECORD
    assert at + 4 == len(DATA)
    assert struct.unpack_from("<I", DATA, at) == (zlib.crc32(DATA[:at]),)


class _Row:
    """One row of `PairHistory.top`, by name."""

    def __init__(self, values: tuple[Any, ...]):
        names = ("i", "j", "ema_low", "ema_high", "hits", "first_seen", "last_seen", "streak")
        self.__dict__ = dict(zip((*names, "longest_streak"), values, strict=True))


def test_the_sample_comes_back_byte_for_byte_and_goes_on() -> None:
    history = PairHistory.from_bytes(DATA)
    assert history.to_bytes() == DATA
    history.observe(101, [0], [1])
    assert history.observations == 12


@pytest.mark.fault("a history whose bytes were changed")
def test_a_change_of_any_bit_of_the_sample_is_refused() -> None:
    damaged = bytearray(DATA)
    for at in range(len(DATA)):
        for flip in (1 << bit for bit in range(8)):
            damaged[at] ^= flip
            with pytest.raises(ValueError, match="expected"):
                PairHistory.from_bytes(bytes(damaged))
            damaged[at] ^= flip


@pytest.mark.fault("a history that was cut off")
def test_every_truncation_and_every_byte_more_is_refused() -> None:
    for cut in (*(DATA[:end] for end in range(len(DATA))), DATA + b"\0", DATA + DATA):
        with pytest.raises(ValueError, match="expected"):
            PairHistory.from_bytes(cut)


@pytest.mark.fault("a history of a later version")
def test_a_later_version_is_refused_by_name() -> None:
    body = DATA[:4] + struct.pack("<I", 2) + DATA[8:-4]
    with pytest.raises(ValueError, match="version 2; expected version 1 to 1; read them with"):
        PairHistory.from_bytes(body + struct.pack("<I", zlib.crc32(body)))
