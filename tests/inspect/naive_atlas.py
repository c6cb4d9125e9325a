"""The statistics and rules of an atlas the obvious way: dense, one pair after another."""

from __future__ import annotations

from typing import Any

import numpy as np

from topk_ortho.sae import SAE

Pair = tuple[int, int]
"""Parent and child."""


def naive_statistics(sae: SAE, x: Any, references: list[int]) -> dict[str, Any]:
    """By name, `[d_sae, d_sae]` indexed [parent, child], or `[d_sae]`; NaN where undefined."""
    acts = sae.encode(x)
    residual = (x - sae.decode(acts)).detach().double().numpy()
    W = sae.W_dec.detach().double().numpy()
    norm = np.linalg.norm(W, axis=1)
    D, E = W / norm[:, None], (sae.W_enc.detach().double().numpy() * norm).T
    F = acts.detach().double().numpy() * norm
    on = F > 0
    n, P, C = on.sum(0), residual @ D.T, D @ D.T
    strength = np.array([(P[on[:, i], i] + F[on[:, i], i]).mean() if n[i] else np.inf for i in
                         range(len(D))])  # fmt: skip
    silent = np.array([P[~on[:, i], i].var() for i in range(len(D))])
    out = {k: np.full(C.shape, np.nan) for k in
           ("V", "y_ratio", "intercept", "hole", "n_T", "flagged")}  # fmt: skip
    for c in np.flatnonzero(n):
        for p in range(len(D)):
            T = on[:, c] & ~on[:, p]
            out["n_T"][p, c] = T.sum()
            if p == c or not T.any():
                continue
            cos, f = C[p, c], F[T, c]
            y = P[T, p] + f * cos
            u = (P[T, p] - cos * P[T, c]) / np.sqrt(1 - cos**2)
            out["V"][p, c] = u.var() / silent[p]
            out["y_ratio"][p, c] = y.mean() / strength[p]
            slope = ((y * f).mean() - y.mean() * f.mean()) / max(f.var(), 1e-9)
            out["intercept"][p, c] = (y.mean() - slope * f.mean()) / strength[p]
            across = E[p] @ D[c] - cos * (E[p] @ D[p])
            out["hole"][p, c] = -across / abs(E[p] @ D[p]) * F[on[:, c], c].mean() / strength[p]
            there = (y >= 0.5 * strength[p]) & (strength[p] > 0)
            out["flagged"][p, c] = there.sum()
    return out | {"C": C, "n": n, "strength": strength, **_robust(out, C, n, references)}


def _robust(s: dict[str, Any], C: Any, n: Any, references: list[int]) -> dict[str, Any]:
    z, opposite = np.full(C.shape, np.nan), np.full(len(n), -np.inf)
    alive = [r for r in references if n[r] >= 20]
    alive = alive if len(alive) >= 16 else references
    for c in range(len(n)):
        own = [r for r in alive if r != c and s["n_T"][r, c] >= 20]
        if not own:
            continue
        log = np.log(s["V"][own, c])
        middle = np.sort(log)[(len(log) - 1) // 2]  # torch's median is the lower of two
        spread = 1.4826 * np.sort(abs(log - middle))[(len(log) - 1) // 2]
        z[:, c] = (np.log(s["V"][:, c]) - middle) / spread
        opposite[c] = max([z[r, c] for r in own if C[r, c] < 0], default=-np.inf)
    return {"z": z, "opposite": opposite}


def naive_edges(s: dict[str, Any]) -> dict[Pair, str]:
    """The tier of each edge."""
    n, C = s["n"], s["C"]
    every = range(len(n))
    ok = {
        (p, c)
        for p in every
        for c in every
        if p != c and n[p] >= 20 and n[c] >= 20 and s["n_T"][p, c] >= 20 and C[p, c] > 0.1
    }
    A, B = set(), set()
    for c in every:
        column = [p for p in every if (p, c) in ok]
        if not column:
            continue
        p = max(column, key=lambda p: s["V"][p, c] * C[p, c])
        raised = s["z"][p, c] >= 3 and s["z"][p, c] > s["opposite"][c]
        if raised and s["y_ratio"][p, c] >= 0.35 and s["intercept"][p, c] > 0:
            A.add((p, c))
        column = [p for p in column if not s["y_ratio"][p, c] < s["y_ratio"][c, p]]
        if not column:
            continue
        p = max(column, key=lambda p: s["y_ratio"][p, c])
        there = s["y_ratio"][p, c] >= 0.55 and s["intercept"][p, c] > 0.1
        if there and C[p, c] > 0.35 and s["hole"][p, c] > 0.3:
            B.add((p, c))
    A = {(p, c) for p, c in A if n[c] - s["n_T"][p, c] <= 0.5 * n[p]}
    A = {pair for pair in A if pair[::-1] not in A or _rank(pair, s, A) > _rank(pair[::-1], s, A)}
    return {e: "both" if e in A and e in B else "variance" if e in A else "strength" for e in A | B}


def _rank(pair: Pair, s: dict[str, Any], edges: set[Pair]) -> tuple[float, int, int]:
    """By which of two mutual edges one is kept."""
    p, child = pair
    others = sum(s["z"][p, c] for q, c in edges if q == p and c != child)
    return others, s["n"][p], -p
