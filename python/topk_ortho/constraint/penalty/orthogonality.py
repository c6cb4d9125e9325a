"""The penalty: `(1/n) Σ w_ij relu(c_ij - τ_ij)²` over the chosen pairs (method 3)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from topk_ortho.config.errors import one_of
from topk_ortho.constraint.penalty import grouped, native
from topk_ortho.constraint.penalty import tau as policies
from topk_ortho.constraint.penalty.cosine import PairCosine
from topk_ortho.constraint.penalty.grouped import GroupedPenalty, Groups, GroupsOfBoth
from topk_ortho.constraint.uncompiled import uncompiled
from topk_ortho.machine.spans import spanned

TAUS = ("fixed", "mean-std", "mean-std-all", "strength", "strength-threshold", "stability")

Columns = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""`i`, `j` and `score` of pairs or of slots, and which of the slots are held."""

THRESHOLDED = ("fixed", "strength-threshold", "stability")
"""Those with a threshold of their own."""


class Pairs(Protocol):
    """Index tensors of the chosen pairs: `i`, `j` `[k]` int64 and `score` `[k]` float."""

    @property
    def i(self) -> Tensor: ...
    @property
    def j(self) -> Tensor: ...
    @property
    def score(self) -> Tensor: ...


class OrthogonalityPenalty:
    """The penalty on the overlap of the decoder rows of given pairs.

    Args:
        tau: a number, the `fixed` threshold on the cosine; or the name of a policy, one of `TAUS`.
        threshold: τ of `fixed` and `stability`, τ0 of `strength-threshold`, when `tau` is a name;
            0.05 unless given.
        sign: `"positive"`: overlap is a positive cosine; `"both"`: its absolute value.
        gradient: `"child_only"`: only the rarer feature's row moves; `"symmetric"`: both.
        normalize_by: `"d_sae"`: the sum is divided by the number of features; `"k"`: of pairs.
        seed: of the sample behind `mean-std-all`.
        backend: `"auto"`: Rust for float32 rows on CPU; `"torch"`: never.

    Hyphens and underscores are the same in every name.

    Example:
        >>> penalty = OrthogonalityPenalty(gradient="child_only")
        >>> loss = loss + coefficient * penalty(W_dec, pairs, firing_rate=rates)
    """

    def __init__(
        self,
        tau: float | str = 0.05,
        *,
        threshold: float | None = None,
        sign: str = "positive",
        gradient: str = "child_only",
        normalize_by: str = "d_sae",
        seed: int = 0,
        backend: str = "auto",
    ):
        self.tau = one_of("tau", tau, TAUS) if isinstance(tau, str) else "fixed"
        if threshold is not None and not isinstance(tau, str):
            raise ValueError(
                f"tau={tau} and threshold={threshold} were both given, but a number as tau is the "
                "threshold; leave one of them out."
            )
        default = 0.05 if threshold is None else threshold
        self.threshold = default if isinstance(tau, str) else float(tau)
        self.sign = one_of("sign", sign, ("positive", "both"))
        self.gradient = one_of("gradient", gradient, ("child-only", "symmetric"))
        self.normalize_by = one_of("normalize_by", normalize_by, ("d-sae", "k"))
        self.seed = seed
        self.backend = one_of("backend", backend, ("auto", "torch"))
        self._sample: tuple[Tensor, Tensor] | None = None
        self._sample_of: tuple[int, torch.device] | None = None

    def __repr__(self) -> str:
        fixed = f"threshold={self.threshold:g}, " if self.tau in THRESHOLDED else ""
        return (f"OrthogonalityPenalty({self.tau!r}, {fixed}sign={self.sign!r}, "
                f"gradient={self.gradient!r}, normalize_by={self.normalize_by!r})")  # fmt: skip

    @uncompiled
    @spanned("penalty")
    def __call__(
        self,
        W_dec: Tensor,
        pairs: Pairs,
        *,
        firing_rate: Tensor | None = None,
        ema: Tensor | None = None,
        factor: Tensor | None = None,
        coefficient: float = 1.0,
    ) -> Tensor:
        """Returns the penalty as a scalar to add to a loss.

        Args:
            W_dec: `[d_sae, d_out]`, any floating dtype, rows of any norm; a zero row overlaps
                with nothing.
            pairs: `i`, `j`, `score`, all `[k]`; k = 0 costs 0.
            firing_rate: `[d_sae]`, for `child_only`; at equal rates the larger index is the child.
            ema: `[k]` moving averages of "selected", the present selection counted, for
                `stability`.
            factor: `[k]`, what the term of each pair is multiplied by; a gradient goes to it.
            coefficient: factor of the penalty; given here, the gradient includes it at once.

        Raises:
            ValueError: indices outside `W_dec`, lengths that differ, or what the chosen options
                need is missing.
        """
        d_sae = W_dec.shape[0]
        _check_rows(W_dec, pairs, firing_rate)
        chosen, held = self._chosen(pairs, d_sae, factor)
        with torch.autocast(W_dec.device.type, enabled=False):
            W_dec = W_dec.float() if W_dec.dtype.itemsize < 4 else W_dec
            i, j, score = chosen.i, chosen.j, chosen.score.detach()
            k = i.numel()
            if k == 0:
                return W_dec[:0].sum()  # part of the graph, so that `backward` finds a gradient
            scale = coefficient / (d_sae if self.normalize_by == "d-sae" else k)
            if factor is None and self._in_groups(W_dec):
                return self._grouped(W_dec, (i, j, score, held), firing_rate, ema, scale)
            i, j = i.long(), j.long()
            i_is_child = self._i_is_child(i, j, firing_rate, d_sae)
            moves = factor is not None and factor.requires_grad
            if i_is_child is not None and not moves and self._in_one_pass(W_dec):
                tau, weight = self._tau_and_weight(W_dec.detach(), W_dec.new_empty(k), score, ema)
                weight = weight if factor is None else weight * factor
                weight = (weight * scale).contiguous()
                return native.NativePairPenalty.apply(
                    W_dec, i, j, tau, weight, i_is_child, self.sign == "both"
                )
            cosine = self._cosines(W_dec, i, j, i_is_child)
            overlap = cosine.abs() if self.sign == "both" else cosine
            tau, weight = self._tau_and_weight(W_dec.detach(), overlap.detach(), score, ema, held)
            weight = weight if factor is None else weight * factor
            return scale * (weight * torch.relu(overlap - tau) ** 2).sum()

    @torch.no_grad()
    def overlapping(self, W_dec: Tensor, pairs: Pairs, *, ema: Tensor | None = None) -> Tensor:
        """Returns `[k]` bool: the pairs whose overlap is above their threshold τ.

        Args:
            W_dec: `[d_sae, d_out]`, rows of any norm.
            pairs: `i`, `j`, `score`, all `[k]`.
            ema: `[k]`, for `stability`.
        """
        with torch.autocast(W_dec.device.type, enabled=False):
            W_dec = W_dec.float() if W_dec.dtype.itemsize < 4 else W_dec
            if not pairs.i.numel():
                return pairs.i.bool()
            cosine = self._cosines(W_dec, pairs.i, pairs.j, None)
            overlap = cosine.abs() if self.sign == "both" else cosine
            return overlap > self._tau_and_weight(W_dec, overlap, pairs.score, ema)[0]

    def _chosen(
        self, pairs: Pairs, d_sae: int, factor: Tensor | None
    ) -> tuple[Pairs, Tensor | None]:
        """Returns the pairs, or their slots and which of these are held (`Slots`).

        Slots come from a selection of this package, whose indices need no check; what is given
        for each pair asks for the pairs.
        """
        slots: Pairs | None = getattr(pairs, "slots", None)
        if slots is not None and self.tau != "stability" and factor is None:
            return slots, slots.score > 0
        _check_pairs(pairs.i, pairs.j, d_sae)
        if factor is not None:
            _check_length("factor", factor, pairs.i.numel(), "one per pair")
        return pairs, None

    def _grouped(
        self,
        W_dec: Tensor,
        columns: Columns,
        firing_rate: Tensor | None,
        ema: Tensor | None,
        scale: float,
    ) -> Tensor:
        """The penalty in one pass over the rows that move."""
        i, j, score, held = columns
        k, d_sae = i.numel(), len(W_dec)
        filled = score.new_ones(k) if held is None else score
        if self.gradient == "symmetric":
            groups: Groups = GroupsOfBoth(i, j, filled, d_sae)
        else:
            groups = Groups(i, j, filled, self._rate(firing_rate, d_sae).float())
        overlap = score.new_empty(k)
        if self.tau == "mean-std":
            overlap = groups.cosines(W_dec.detach())
            overlap = overlap.abs() if self.sign == "both" else overlap
        tau, weight = self._tau_and_weight(W_dec.detach(), overlap, score, ema, held)
        return GroupedPenalty.apply(W_dec, groups, tau, weight * scale, self.sign == "both")

    def _in_groups(self, W_dec: Tensor) -> bool:
        """Returns whether a GPU penalises the pairs in one pass, by the row that moves."""
        asked = torch.is_grad_enabled() and W_dec.requires_grad
        return asked and self.backend == "auto" and grouped.takes(W_dec)

    def _in_one_pass(self, W_dec: Tensor) -> bool:
        """Returns whether Rust can penalise the pairs in one pass: τ has to be known beforehand."""
        asked = torch.is_grad_enabled() and W_dec.requires_grad
        return asked and self.tau != "mean-std" and self._native(W_dec)

    def _native(self, W_dec: Tensor) -> bool:
        return self.backend == "auto" and native.takes(W_dec)

    def _cosines(self, W_dec: Tensor, i: Tensor, j: Tensor, i_is_child: Tensor | None) -> Tensor:
        function = native.NativePairCosine if self._native(W_dec) else PairCosine
        return function.apply(W_dec, i, j, i_is_child)

    def _i_is_child(
        self, i: Tensor, j: Tensor, firing_rate: Tensor | None, d_sae: int
    ) -> Tensor | None:
        """Returns `[k]`: whether `i` is the rarer and moves; None where both move."""
        if self.gradient == "symmetric":
            return None
        firing_rate = self._rate(firing_rate, d_sae)
        return firing_rate[i] < firing_rate[j]

    def _rate(self, firing_rate: Tensor | None, d_sae: int) -> Tensor:
        if firing_rate is None:
            raise ValueError(
                "no firing_rate was given, but gradient='child_only' moves the rarer feature of a "
                "pair; pass firing_rate [d_sae], or take gradient='symmetric'."
            )
        _check_length("firing_rate", firing_rate, d_sae, "one rate per feature")
        return firing_rate

    def _tau_and_weight(
        self,
        W_dec: Tensor,
        overlap: Tensor,
        score: Tensor,
        ema: Tensor | None,
        held: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns `(τ, w)` of each pair, both `[k]`; only `mean-std` uses the overlaps."""
        tau, weight = self._policy(W_dec, overlap, score, ema, held)
        if held is not None:
            weight = weight * held
            if self.normalize_by == "k":
                weight = weight * (len(held) / held.sum().clamp(min=1))
        return tau, weight

    def _policy(
        self,
        W_dec: Tensor,
        overlap: Tensor,
        score: Tensor,
        ema: Tensor | None,
        held: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        k = overlap.numel()
        if self.tau.startswith("strength"):
            _check_length("score", score, k, "one score per pair")
        match self.tau:
            case "mean-std":
                return policies.mean_std(overlap, held)
            case "mean-std-all":
                return policies.mean_std_all(overlap, self._sampled_cosines(W_dec))
            case "strength":
                return policies.strength(overlap, score, held)
            case "strength-threshold":
                return policies.strength_threshold(self.threshold, overlap, score)
            case "stability":
                if ema is None:
                    raise ValueError(
                        "no ema was given, but tau='stability' weighs pairs by their history; "
                        "pass ema [k] from a PairHistory."
                    )
                _check_length("ema", ema, k, "one average per pair")
                return policies.stability(self.threshold, overlap, ema.detach())
        return policies.fixed(self.threshold, overlap)

    def _sampled_cosines(self, W_dec: Tensor) -> Tensor:
        of = (W_dec.shape[0], W_dec.device)
        if self._sample is None or self._sample_of != of:
            self._sample = policies.sample_pairs(of[0], seed=self.seed, device=of[1])
            self._sample_of = of
        return self._cosines(W_dec, *self._sample, None)


def _check_rows(W_dec: Tensor, pairs: Pairs, firing_rate: Tensor | None) -> None:
    """Refuse a decoder whose features are its columns."""
    if W_dec.dim() != 2:
        raise ValueError(
            f"W_dec of shape {list(W_dec.shape)} was given, but a decoder [d_sae, d_out] was "
            "expected; pass one row per feature."
        )
    rows, columns = W_dec.shape
    features = rows
    if firing_rate is not None and firing_rate.dim() == 1:
        features = len(firing_rate)
    elif getattr(pairs, "slots", None) is None and pairs.j.numel() > rows * (rows - 1) // 2:
        features = int(pairs.j.amax()) + 1
    if rows < features <= columns:
        raise ValueError(
            f"W_dec of shape {list(W_dec.shape)} was given for {features} features, but one row "
            "per feature was expected; pass W_dec.T."
        )


def _check_pairs(i: Tensor, j: Tensor, d_sae: int) -> None:
    if i.dim() != 1 or i.shape != j.shape:
        raise ValueError(
            f"i and j of shapes {list(i.shape)} and {list(j.shape)} were given, but two columns "
            "[k] were expected; give one entry of each per pair."
        )
    if i.numel() == 0:
        return
    if i.numel() > d_sae * (d_sae - 1) // 2:
        raise ValueError(
            f"{i.numel()} pairs were given, but {d_sae} features have {d_sae * (d_sae - 1) // 2}; "
            "give every pair once."
        )
    for index in torch.stack([*i.aminmax(), *j.aminmax()]).tolist():
        if not 0 <= index < d_sae:
            raise ValueError(
                f"a pair with feature {index} was given, but W_dec has {d_sae} rows; select the "
                "pairs on the codes of this decoder."
            )


def _check_length(name: str, given: Tensor, length: int, meaning: str) -> None:
    if given.shape != (length,):
        raise ValueError(
            f"{name} of shape {list(given.shape)} was given, but [{length}] was expected; "
            f"give {meaning}."
        )
