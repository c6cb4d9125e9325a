"""`PairSelector`: from a batch of codes (and the decoder) to the k best pairs, exactly.

The score of a pair is the criterion's formula in float64, rounded once to float32; pairs are ranked
by that value, ties to the smaller (i, j). Every path gives the set that a brute force would give
(method 2, "What exact means"). Nothing here carries a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.codes import Codes
from topk_ortho.config import DEFAULT_PER_FEATURE
from topk_ortho.pairs.coactive import coactive_blocks
from topk_ortho.pairs.cosine import Cosine
from topk_ortho.pairs.criteria import COACTIVE, WITH_SUPPORT_FLOOR
from topk_ortho.pairs.selection import PairSelection, n_pairs
from topk_ortho.pairs.tiles import cosine_blocks
from topk_ortho.pairs.topk import collector
from topk_ortho.pairs.uniform import random_pairs

CRITERIA = (*COACTIVE, "decoder-cosine", "random")
BYTES_PER_PAIR = 64  # in the collector, and once more in its answer
WITH_DECODER = frozenset({"coactive-cosine", "decoder-cosine"})


class PairSelector:
    """Selects the k best pairs of features in a batch.

    Args:
        criterion: one of `CRITERIA`; hyphens and underscores are the same.
        fraction: k as a share of the pairs counted by `of`.
        per_feature: k as a multiple of `d_sae`; 2.5 when neither is given.
        of: `"all"` pairs, or the `"active"` ones, with a positive score.
        max_pairs: an upper limit on k; none by default.
        min_support: `correlation` leaves out pairs whose rarer feature fired on fewer rows.
        memory_budget: bytes for the temporaries of one selection.
        seed: of the `random` pairs.

    Example:
        >>> selection = PairSelector("coactivation", fraction=0.001)(acts)
        >>> selection.i, selection.j, selection.score
    """

    def __init__(
        self,
        criterion: str = "coactivation",
        *,
        fraction: float | None = None,
        per_feature: float | None = None,
        of: str = "all",
        max_pairs: int | None = None,
        min_support: int = 8,
        memory_budget: int = 256 * 2**20,
        seed: int = 0,
    ):
        criterion = criterion.replace("_", "-")
        if criterion not in CRITERIA:
            raise ValueError(
                f"criterion {criterion!r} was given, but one of {', '.join(CRITERIA)} was expected."
            )
        if fraction is not None and per_feature is not None:
            raise ValueError(
                f"fraction={fraction} and per_feature={per_feature} were both given, but they say "
                "the same thing, k, in two ways; leave one out."
            )
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(
                f"fraction={fraction} was given, but a share of the pairs in (0, 1] was expected; "
                "0.001 is 0.1 % of them."
            )
        if per_feature is not None and not per_feature > 0:
            raise ValueError(
                f"per_feature={per_feature} was given, but it has to be above 0; try 2.5."
            )
        if of not in ("all", "active"):
            raise ValueError(f"of={of!r} was given, but 'all' or 'active' was expected.")
        self.criterion = criterion
        self.fraction = fraction
        self.per_feature = DEFAULT_PER_FEATURE if per_feature is None else per_feature
        self.of = of
        self.max_pairs = max_pairs
        self.min_support = min_support
        self.memory_budget = memory_budget
        self.seed = seed

    @torch.no_grad()
    def __call__(
        self,
        acts: Tensor | Codes,
        *,
        W_dec: Tensor | None = None,
        fraction: float | None = None,
        step: int = 0,
    ) -> PairSelection:
        """The selection of one batch.

        Args:
            acts: `[batch, d_sae]`, dense or sparse (CSR or COO), on any device; or `Codes`.
            W_dec: `[d_sae, d_in]`, for criteria that look at the decoder.
            fraction: in place of the selector's own, for schedules.
            step: varies the `random` pairs.

        Raises:
            ValueError: activations that are negative or not finite, a missing or mismatched
                decoder, or a score that is not finite (the message names the pair).
        """
        codes = acts if isinstance(acts, Codes) else Codes.of(acts)
        if self.criterion in WITH_DECODER:
            _check_decoder(W_dec, codes)
        with torch.autocast(codes.device.type, enabled=False):
            requested = self._requested(codes, W_dec, fraction)
            if self.criterion == "random":
                return self._random(codes, requested, step)
            return self._select(codes, W_dec, requested)

    def _requested(self, codes: Codes, W_dec: Tensor | None, fraction: float | None) -> int:
        fraction = self.fraction if fraction is None else fraction
        if fraction is None:
            k = round(self.per_feature * codes.d_sae)
        elif self.of == "active" and self.criterion != "random":
            k = round(fraction * self._select(codes, W_dec, 1).positive)
        else:
            k = round(fraction * n_pairs(codes.d_sae))
        k = min(max(k, 1), n_pairs(codes.d_sae))
        return k if self.max_pairs is None else min(k, self.max_pairs)

    def _random(self, codes: Codes, k: int, step: int) -> PairSelection:
        i, j, score = random_pairs(
            codes.d_sae, k, seed=self.seed * 1_000_003 + step, device=codes.device
        )
        return PairSelection(i, j, score, k, n_pairs(codes.d_sae), path="uniform")

    def _select(self, codes: Codes, W_dec: Tensor | None, k: int) -> PairSelection:
        best = collector(k, codes.device)
        positive = unsupported = 0
        cosine = None
        if self.criterion in WITH_DECODER and W_dec is not None:
            cosine = Cosine(W_dec, memory_budget=self.memory_budget)
        if self.criterion == "decoder-cosine":
            assert W_dec is not None
            assert cosine is not None
            for i, j, score, above in cosine_blocks(
                W_dec, cosine, best.threshold, k=k, memory_budget=self.memory_budget
            ):
                best.push(i, j, score.float())
                positive += above
            return PairSelection(*best.finish(), k, positive, path="tiles")

        score_of = COACTIVE[self.criterion](codes, cosine)
        counts = codes.counts()
        room = max(self.memory_budget // 4, self.memory_budget - BYTES_PER_PAIR * k)
        for i, j, sums in coactive_blocks(codes, codes.value, memory_budget=room):
            if self.criterion in WITH_SUPPORT_FLOOR:
                supported = torch.minimum(counts[i], counts[j]) >= self.min_support
                unsupported += int((~supported).sum())
                i, j, sums = i[supported], j[supported], sums[supported]
            score = score_of(i, j, sums).float()
            positive += int((score > 0).sum())
            threshold = best.threshold()
            if threshold is not None:
                keep = ~(score < threshold)
                i, j, score = i[keep], j[keep], score[keep]
            best.push(i, j, score)
        return PairSelection(*best.finish(), k, positive, unsupported, path="coactive")


def _check_decoder(W_dec: Tensor | None, codes: Codes) -> None:
    if W_dec is None:
        raise ValueError(
            "no W_dec was given, but this criterion looks at the decoder; "
            "pass W_dec=sae.W_dec, [d_sae, d_in]."
        )
    if W_dec.dim() != 2 or W_dec.shape[0] != codes.d_sae:
        raise ValueError(
            f"W_dec of shape {list(W_dec.shape)} was given, but [d_sae, d_in] with "
            f"d_sae = {codes.d_sae} was expected; transpose it if it is [d_in, d_sae]."
        )
