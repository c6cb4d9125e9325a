"""Three ways to keep a history without Rust, as one would write them, and their comparison.

Each keeps, per pair, a lazily decayed moving average of "selected", hits, first and last step and
the current streak, in a table that is cut back to its capacity by the smallest average when it has
grown a quarter beyond. That is less than ours does: no error bound, no survival curve, no Jaccard.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from machine import Row, row
from numpy.typing import NDArray

from topk_ortho import PairHistory

DECAY = 0.99
SLACK = 1.25
Keys = NDArray[np.int64]


class NumpyHistory:
    """A sorted column of keys beside the slots of their records, which stay where they are."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.keys: Keys = np.empty(0, np.int64)
        self.slot: Keys = np.empty(0, np.int64)
        self._make_room(int(SLACK * capacity) + 1)

    def _make_room(self, n: int) -> None:
        self.ema = np.zeros(n)
        self.last, self.first, self.hits, self.streak = np.zeros((4, n), np.int64)

    def observe(self, step: int, keys: Keys) -> None:
        keys = np.sort(keys)
        at = np.searchsorted(self.keys, keys)
        known = np.zeros(len(keys), bool)
        inside = at < len(self.keys)
        known[inside] = self.keys[at[inside]] == keys[inside]
        s = self.slot[at[known]]
        last = self.last[s]
        self.ema[s] = self.ema[s] * DECAY ** (step - last) + (1 - DECAY)
        self.streak[s] = np.where(last == step - 1, self.streak[s] + 1, 1)
        self.hits[s] += 1
        self.last[s] = step
        self._insert(step, at[~known], keys[~known])
        if len(self.keys) > SLACK * self.capacity:
            self._evict(step)

    def _insert(self, step: int, at: Keys, keys: Keys) -> None:
        n, end = len(self.keys), len(self.keys) + len(keys)
        if end > len(self.ema):
            for name in ("ema", "last", "first", "hits", "streak"):
                setattr(self, name, np.resize(getattr(self, name), 2 * end))
        new = slice(n, end)
        self.ema[new], self.hits[new], self.streak[new] = 1 - DECAY, 1, 1
        self.first[new] = self.last[new] = step
        self.keys = np.insert(self.keys, at, keys)
        self.slot = np.insert(self.slot, at, np.arange(n, end))

    def _evict(self, step: int) -> None:
        s = self.slot
        now = self.ema[s] * DECAY ** (step - self.last[s])
        keep = np.sort(np.argpartition(now, len(s) - self.capacity)[len(s) - self.capacity :])
        columns = ("ema", "last", "first", "hits", "streak")
        kept = {name: getattr(self, name)[s[keep]] for name in columns}
        self.keys, self.slot = self.keys[keep], np.arange(self.capacity)
        for name, column in kept.items():
            getattr(self, name)[: self.capacity] = column

    def ema_of(self, step: int, keys: Keys) -> NDArray[np.float64]:
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        s = self.slot[at]
        now = self.ema[s] * DECAY ** (step - self.last[s])
        return np.where(self.keys[at] == keys, now, 0.0)


class PandasHistory:
    """A frame indexed by key; new pairs are concatenated."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.frame = self._fresh(0, np.empty(0, np.int64))

    @staticmethod
    def _fresh(step: int, keys: Keys) -> pd.DataFrame:
        columns = {"ema": 1 - DECAY, "last": step, "first": step, "hits": 1, "streak": 1}
        return pd.DataFrame(columns, index=pd.Index(keys, dtype=np.int64))

    def observe(self, step: int, keys: Keys) -> None:
        at = self.frame.index.get_indexer(keys)
        known = at >= 0
        hit = self.frame.take(at[known])
        again = hit["last"] == step - 1
        hit = hit.assign(
            ema=hit["ema"] * DECAY ** (step - hit["last"]) + (1 - DECAY),
            streak=hit["streak"].where(again, 0) + 1,
            hits=hit["hits"] + 1,
            last=step,
        )
        for number, name in enumerate(self.frame.columns):
            self.frame.iloc[at[known], number] = hit[name].to_numpy()
        if not known.all():
            self.frame = pd.concat([self.frame, self._fresh(step, keys[~known])])
        if len(self.frame) > SLACK * self.capacity:
            now = self.frame["ema"] * DECAY ** (step - self.frame["last"])
            self.frame = self.frame.loc[now.nlargest(self.capacity).index]

    def ema_of(self, step: int, keys: Keys) -> NDArray[np.float64]:
        found = self.frame.reindex(keys)
        return (found["ema"] * DECAY ** (step - found["last"])).fillna(0.0).to_numpy()


class DictHistory:
    """A dictionary from key to a list."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.table: dict[int, list[float]] = {}

    def observe(self, step: int, keys: Keys) -> None:
        table, new = self.table, 1 - DECAY
        for key in keys.tolist():
            record = table.get(key)
            if record is None:
                table[key] = [new, step, step, 1, 1]
                continue
            gap = step - record[1]
            record[0] = record[0] * DECAY**gap + new
            record[1] = step
            record[3] += 1
            record[4] = record[4] + 1 if gap == 1 else 1
        if len(table) > SLACK * self.capacity:
            now = np.array([ema * DECAY ** (step - last) for ema, last, *_ in table.values()])
            bar = np.partition(now, len(now) - self.capacity)[len(now) - self.capacity]
            kept = zip(table.items(), (now >= bar).tolist(), strict=True)
            self.table = {key: record for (key, record), stays in kept if stays}

    def ema_of(self, step: int, keys: Keys) -> NDArray[np.float64]:
        found = (self.table.get(key) for key in keys.tolist())
        return np.array([r[0] * DECAY ** (step - r[1]) if r else 0.0 for r in found])


class Ours:
    """The package's, which takes columns."""

    def __init__(self, capacity: int, d_sae: int):
        self.history = PairHistory(capacity=capacity, decay=DECAY)
        self.d_sae = d_sae

    def observe(self, step: int, pairs: tuple[Keys, Keys]) -> None:
        self.history.observe(step, *pairs)

    def form(self, keys: Keys) -> tuple[Keys, Keys]:
        return keys // self.d_sae, keys % self.d_sae

    def ema_of(self, step: int, keys: Keys) -> NDArray[np.float64]:
        return self.history.ema(*self.form(keys))


class Selections:
    """As in training, in shares of k: three quarters persist, others come back, a tenth is new."""

    def __init__(self, k: int, d_sae: int, entries: int):
        self.rng = np.random.default_rng(0)
        self.k = k
        pool = self.rng.integers(0, d_sae * d_sae, int(4.2 * entries) + 16 * k)
        pool = np.unique(pool[pool // d_sae < pool % d_sae])
        self.pool = self.rng.permutation(pool)
        self.entries, self.used = entries, 0

    def fresh(self, n: int) -> Keys:
        """Pairs never seen before."""
        self.used += n
        return self.pool[self.used - n : self.used]

    def next(self) -> Keys:
        persistent = self.pool[: 3 * self.k // 4][self.rng.random(3 * self.k // 4) < 0.8]
        back = self.pool[self.rng.integers(0, self.entries, 3 * self.k // 10)]
        keys = np.unique(np.concatenate([persistent, back, self.fresh(self.k // 10)]))
        return self.rng.permutation(keys)[: self.k]  # best first, which is no order of pairs


def compare(*, entries: int, k: int, d_sae: int) -> list[Row]:
    """Time of an observation once the table is full, over one cycle of growing and cutting back."""
    source = Selections(k, d_sae, entries)
    histories: dict[str, Any] = {
        "ours": Ours(entries, d_sae),
        "numpy, sorted merge": NumpyHistory(entries),
        "pandas": PandasHistory(entries),
        "dict": DictHistory(entries),
    }
    step = 0
    while source.used < entries:
        step += 1
        keys = source.fresh(min(k, entries - source.used))
        for history in histories.values():
            history.observe(step, _form(history, keys))
    spent: dict[str, list[float]] = {name: [] for name in histories}
    for _ in range(int((SLACK - 1) * entries / (k // 10)) + 2):
        step += 1
        keys = source.next()
        for name, history in histories.items():
            given = _form(history, keys)
            began = time.perf_counter()
            history.observe(step, given)
            spent[name].append(time.perf_counter() - began)
    _check(histories, step, keys)
    return [row(name, seconds, threads=1) for name, seconds in spent.items()]


def _form(history: Any, keys: Keys) -> Any:
    """A selection as a history takes it: ours as columns, the others as keys, untimed."""
    return history.form(keys) if isinstance(history, Ours) else keys


def _check(histories: dict[str, Any], step: int, keys: Keys) -> None:
    """Averages agree, but for pairs that one table has evicted and another has not."""
    mine, *others = (h.ema_of(step, keys) for h in histories.values())
    for theirs in others:
        assert np.isclose(mine, theirs, rtol=1e-9).mean() > 0.9
