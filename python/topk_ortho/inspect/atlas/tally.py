"""Sums over tokens of what the SAE leaves out, for candidate pairs; one pass, bounded memory.

Of a candidate pair a child c fires, and a parent p is one of the decoder rows nearest to it; T is
the set of tokens on which c fires and p is silent. With the residual `r = x - x_hat`, unit rows d,
`P = <r, d_p>`, `Q = <r, d_c>` and `f` the code of c along its unit row, all that the rules need is
in sums over T of products of P, Q and f. The same sums are kept for a few rows at random, which
every column of pairs is compared with.

For N tokens, L0 k and K candidates it costs `N * k * K * d` multiply-adds beside encoding. It holds
`80 * d_sae * K` and `48 * d_sae * references` bytes, and a buffer of residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.inspect.atlas.nearest import Nearest
from topk_ortho.sae import SAE
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.csr import dots
from topk_ortho.sparse.scale import row_norms

PRESENT = 0.5
"""Share of its typical strength from which a silent parent counts as there on a token."""
ENTRIES = 2**20
"""Numbers `[entries, candidates]` that are worked on at once."""
CELLS = 2**26
"""Bytes `[rows, d_sae]` that say which features fire."""


@dataclass
class Sums:
    """Sums, all float64; a column of `pair` and `reference` is of one feature as the child.

    Attributes:
        rows: tokens.
        r, rr: `[d]` and `[d, d]`, of the residual and its products with itself.
        squared: of `|r|²`; `x_squared` of `|x|²` and `x` `[d]` of what is reconstructed.
        n, P, PP, f, ff: `[d_sae]`, over the tokens on which the feature fires.
        pair: by name `[d_sae, K]`, over T: n, P, PP, PQ, Q, QQ, f, ff, Pf; `flagged` counts the
            tokens of T on which the parent is there, by its typical strength so far.
        reference: the first six of these for `[d_sae, references]`.
    """

    rows: int
    squared: float
    x_squared: float
    x: Tensor
    r: Tensor
    rr: Tensor
    n: Tensor
    P: Tensor
    PP: Tensor
    f: Tensor
    ff: Tensor
    pair: dict[str, Tensor]
    reference: dict[str, Tensor]


FEATURE = ("n", "P", "PP", "f", "ff")
PAIR = ("n", "P", "PP", "PQ", "Q", "QQ", "f", "ff", "Pf", "flagged")
REFERENCE = PAIR[:6]


class Tally:
    """Takes in batches of tokens; `finish` returns the sums.

    Args:
        sae: any, of any row norms.
        nearest: the candidates of each feature.
        references: `[references]` int64, the features that columns are compared with.
        buffer_rows: tokens whose residuals are kept until they are worked on together.
    """

    def __init__(self, sae: SAE, nearest: Nearest, references: Tensor, *, buffer_rows: int):
        self.sae, self.nearest, self.references = sae, nearest, references
        self.norm = row_norms(sae.W_dec.detach()).clamp(min=1e-30)
        self.buffer_rows = max(1, buffer_rows)
        self._held: list[tuple[Tensor, Codes]] = []
        self._rows_held = 0
        self.sums = self._empty()

    def _empty(self) -> Sums:
        d_sae, d = self.sae.W_dec.shape

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=self.sae.W_dec.device)

        each = {name: zeros(d_sae) for name in FEATURE}
        pair = {name: zeros(*self.nearest.rows.shape) for name in PAIR}
        reference = {name: zeros(d_sae, len(self.references)) for name in REFERENCE}
        return Sums(
            rows=0, squared=0.0, x_squared=0.0, x=zeros(d), r=zeros(d), rr=zeros(d, d),
            pair=pair, reference=reference, **each,
        )  # fmt: skip

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in `x` `[rows, d_in]` in the SAE's units."""
        acts = self.sae.encode(x)
        self._add(x, x - self.sae.decode(acts), Codes.of(acts))

    def _add(self, x: Tensor, residual: Tensor, codes: Codes) -> None:
        s = self.sums
        s.rows += len(x)
        s.squared += float(residual.double().square().sum())
        s.x_squared += float(x.double().square().sum())
        s.x += x.sum(0, dtype=torch.float64)
        s.r += residual.sum(0, dtype=torch.float64)
        s.rr += (residual.T @ residual).double()
        self._held.append((residual, codes))
        self._rows_held += len(x)
        if self._rows_held >= self.buffer_rows:
            self._work()

    def finish(self) -> Sums:
        """Returns the sums over all tokens so far."""
        if self._held:
            self._work()
        return self.sums

    @torch.no_grad()
    def _work(self) -> None:
        residual = torch.cat([r for r, _ in self._held])
        codes = Codes.concatenate([c for _, c in self._held])
        self._held, self._rows_held = [], 0
        W = self.sae.W_dec.detach()
        norm = self.norm[codes.col]
        q = dots(codes.crow, codes.col, residual, W) / norm
        f = codes.value * norm
        self._features(codes, q.double(), f.double())
        on = _Firing(codes)
        order = torch.argsort(codes.col, stable=True)
        along = residual @ (W[self.references] / self.norm[self.references, None]).T
        width = max(self.nearest.rows.shape[1], len(self.references))
        for part in order.split(max(1, ENTRIES // width)):
            entries = _Entries(codes.row[part], codes.col[part], q[part], f[part])
            self._references(entries, along, on)
            self._candidates(entries, residual, on)

    def _features(self, codes: Codes, q: Tensor, f: Tensor) -> None:
        s = self.sums
        s.n += codes.counts()
        s.P += codes.column_sums(q)
        s.PP += codes.column_sums(q**2)
        s.f += codes.column_sums(f)
        s.ff += codes.column_sums(f**2)

    def _references(self, e: _Entries, along: Tensor, on: _Firing) -> None:
        off = ~on(e.row, self.references.expand(len(e.row), -1))
        self._store(self.sums.reference, e, along[e.row], off)

    def _candidates(self, e: _Entries, residual: Tensor, on: _Firing) -> None:
        near = self.nearest.rows[e.col]
        off = ~on(e.row, near)
        P = self._along(e, residual)
        self._store(self.sums.pair, e, P, off)
        f, s = e.f[:, None], self.sums
        strength = (s.P + s.f) / s.n.clamp(min=1)
        y = P + f * self.nearest.cosine[e.col].to(P)
        there = off & (y >= PRESENT * strength[near]) & (strength[near] > 0)
        for name, value in (("f", f), ("ff", f**2), ("Pf", P * f)):
            _add(s.pair[name], e.col, torch.where(off, value, 0))
        _add(s.pair["flagged"], e.col, there)

    def _along(self, e: _Entries, residual: Tensor) -> Tensor:
        """`[entries, K]`: the residual along the candidate parents' rows; entries by child."""
        W, near = self.sae.W_dec.detach(), self.nearest.rows
        out = residual.new_empty(len(e.row), near.shape[1])
        children, counts = torch.unique_consecutive(e.col, return_counts=True)
        start = 0
        for child, n in zip(children.tolist(), counts.tolist(), strict=True):
            rows = residual.index_select(0, e.row[start : start + n])
            torch.mm(rows, W.index_select(0, near[child]).T, out=out[start : start + n])
            start += n
        return out / self.norm[near[e.col]]

    def _store(self, into: dict[str, Tensor], e: _Entries, P: Tensor, off: Tensor) -> None:
        q = e.q[:, None]
        for name, value in (
            ("n", torch.ones_like(q)), ("P", P), ("PP", P**2), ("PQ", P * q), ("Q", q),
            ("QQ", q**2),
        ):  # fmt: skip
            _add(into[name], e.col, torch.where(off, value, 0))


@dataclass(frozen=True)
class _Entries:
    """Active entries sorted by feature: their token, feature, residual along it, and code."""

    row: Tensor
    col: Tensor
    q: Tensor
    f: Tensor


class _Firing:
    """Which features fire on which rows: a table where it is small, else a search."""

    def __init__(self, codes: Codes):
        self.codes = codes
        self.keys = None
        if codes.batch * codes.d_sae <= CELLS:
            self.on = torch.zeros(codes.batch, codes.d_sae, dtype=torch.bool, device=codes.device)
            self.on[codes.row, codes.col] = True
        else:
            self.keys = codes.row * codes.d_sae + codes.col  # rising

    def __call__(self, row: Tensor, feature: Tensor) -> Tensor:
        """Returns `[n, k]` bool for rows `[n]` and features `[n, k]`."""
        if self.keys is None:
            return self.on[row[:, None], feature]
        wanted = row[:, None] * self.codes.d_sae + feature
        at = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return self.keys[at] == wanted


def _add(into: Tensor, col: Tensor, value: Tensor) -> None:
    """Add `value` `[entries, k]` to the rows `col` (sorted) of `into` `[d_sae, k]`."""
    children, counts = torch.unique_consecutive(col, return_counts=True)
    into[children] += torch.segment_reduce(value.double(), "sum", lengths=counts)
