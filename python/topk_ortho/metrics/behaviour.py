"""The effect of a reconstruction on the model that it is spliced into: cross-entropy and KL.

Costs five forward passes per context (activations, original, reconstructed, zero, mean), and a
sixth for SAELens' own way of counting. BOS positions are never spliced and never counted. Refused:
a reconstruction of another shape, and logits that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from topk_ortho.metrics.losses import cross_entropy, kl_divergence
from topk_ortho.metrics.loud_rows import norms
from topk_ortho.metrics.saelens import RunEvalsLosses

CONTEXTS_AT_ONCE = 16
"""Contexts of a pass that computes logits."""


class SpliceModel(Protocol):
    """A language model whose activations at one hook point can be read and replaced."""

    def run_with_hooks(
        self,
        tokens: Tensor,
        hook: str | None = None,
        replace: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Returns logits `[batch, position, d_vocab]`; `replace` maps `[batch, position, d_in]`."""

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Returns the activations at the hook, `[batch, position, d_in]` float32."""


def behaviour(
    model: SpliceModel,
    contexts: Tensor,
    hook: str,
    reconstruct: Callable[[Tensor], Tensor],
    *,
    kept: Tensor | None = None,
    norm_limit: float | None = None,
    batch: int = CONTEXTS_AT_ONCE,
    beside: RunEvalsLosses | None = None,
    progress: Callable[[int], object] = lambda contexts: None,
) -> dict[str, float | None]:
    """Returns losses and scores of `x_hat` in place of `x`, beside zero and mean ablation.

    Cross-entropy (nats per token) is over predictions from a position that is not BOS of a token
    that is not BOS; KL(original || spliced) (nats) over positions that are not BOS. A score is 1
    for the original and 0 for the ablation; None where the ablation changes nothing.

    Args:
        model: the language model.
        contexts: `[n, context]` int64; the first column is BOS throughout.
        hook: hook point to splice at.
        reconstruct: `[rows, d_in]` float32 in the model's own units -> the same shape.
        kept: `[n, context]` bool, positions that are spliced and counted; all but BOS unless given.
        norm_limit: activations above are never spliced, in the model's units.
        batch: contexts per forward pass.
        beside: takes in the same predictions as SAELens counts them.
        progress: called after each batch with the number of contexts done.

    Returns:
        `ce_original`; `ce_*` and `kl_*` of `reconstructed`, `zero`, `mean`; `ce_score`, `kl_score`
        (against zero ablation); `ce_score_mean`, `kl_score_mean` (against mean ablation). None
        where there is nothing to count: cross-entropy of contexts whose documents have one token.

    Raises:
        ValueError: contexts that do not start with one BOS token, a reconstruction of another
            shape, or a loss that is not finite.
    """
    bos = _bos(contexts)
    kept = contexts != bos if kept is None else kept
    mean = _mean_activation(model, contexts, hook, kept=kept, limit=norm_limit, batch=batch)
    arms: dict[str, Callable[[Tensor], Tensor]] = {
        "reconstructed": reconstruct,
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
    }
    sums = dict.fromkeys(["ce_original", *(f"{m}_{a}" for a in arms for m in ("ce", "kl"))], 0.0)
    predictions = positions = 0
    quiet = {name: _quiet(replace, norm_limit) for name, replace in arms.items()}
    for tokens, keep in zip(contexts.split(batch), kept.split(batch), strict=True):
        predictions += int(_counted(tokens, keep, bos).sum())
        positions += int(keep.sum())
        _add(sums, model, tokens, keep, hook=hook, arms=quiet, beside=beside, bos=bos)
        progress(len(tokens))
    broken = [name for name, value in sums.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"{', '.join(broken)} not finite at {hook!r}: check the reconstruction")
    counts = {name: predictions if name[:2] == "ce" else positions for name in sums}
    out = {name: sums[name] / n if n else None for name, n in counts.items()}
    return {**out, **_scores(out)}


@torch.no_grad()
def _add(
    sums: dict[str, float],
    model: SpliceModel,
    tokens: Tensor,
    keep: Tensor,
    *,
    hook: str,
    arms: Mapping[str, Callable[[Tensor], Tensor]],
    beside: RunEvalsLosses | None,
    bos: int,
) -> None:
    """Add what a batch of contexts loses to each of the arms; only positions `keep` count."""
    original = model.run_with_hooks(tokens)
    counted = _counted(tokens, keep, bos)
    sums["ce_original"] += cross_entropy(original, tokens, counted)
    for arm, replace in arms.items():
        spliced = model.run_with_hooks(tokens, hook, _splice(replace, keep))
        sums[f"ce_{arm}"] += cross_entropy(spliced, tokens, counted)
        sums[f"kl_{arm}"] += kl_divergence(original, spliced, keep)
        if beside is not None and arm == "reconstructed":
            beside.add("with_sae", original, spliced, tokens=tokens, keep=keep)
    if beside is not None:
        ablated = model.run_with_hooks(tokens, hook, torch.zeros_like)
        beside.add("with_ablation", original, ablated, tokens=tokens, keep=keep)


def _scores(out: dict[str, float | None]) -> dict[str, float | None]:
    scores = {}
    for suffix, arm in (("", "zero"), ("_mean", "mean")):
        ce, kl = out[f"ce_{arm}"], out[f"kl_{arm}"]
        scores[f"ce_score{suffix}"] = _score(ce, out["ce_reconstructed"], out["ce_original"])
        scores[f"kl_score{suffix}"] = _score(kl, out["kl_reconstructed"], 0.0)
    return scores


def _score(
    ablated: float | None, reconstructed: float | None, original: float | None
) -> float | None:
    """Returns how far the reconstruction is from the ablation, as a share of the whole way."""
    if ablated is None or reconstructed is None or original is None or ablated == original:
        return None
    return (ablated - reconstructed) / (ablated - original)


def _bos(contexts: Tensor) -> int:
    if contexts.ndim != 2 or not len(contexts) or (contexts[:, 0] != contexts[0, 0]).any():
        raise ValueError(
            f"contexts of shape {list(contexts.shape)} do not all start with the same BOS token: "
            "expected [n, context] as pack_contexts returns them"
        )
    return int(contexts[0, 0])


def _mean_activation(
    model: SpliceModel,
    contexts: Tensor,
    hook: str,
    *,
    kept: Tensor,
    limit: float | None,
    batch: int,
) -> Tensor:
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for tokens, keep in zip(contexts.split(batch), kept.split(batch), strict=True):
        x = model.activations(tokens, hook)
        x = x[keep.to(x.device)]
        x = x if limit is None else x[norms(x) <= limit]
        total = total.to(x.device) + x.sum(dim=0, dtype=torch.float64)
        rows += len(x)
    return (total / max(rows, 1)).float()


def _counted(tokens: Tensor, keep: Tensor, bos: int) -> Tensor:
    """Returns the predictions that count: from a kept position, of a token that is not BOS."""
    return keep[:, :-1] & (tokens[:, 1:] != bos)


def _quiet(replace: Callable[[Tensor], Tensor], limit: float | None) -> Callable[[Tensor], Tensor]:
    """Returns a replacement of `[rows, d_in]` that leaves rows of a norm above a limit alone."""
    if limit is None:
        return replace

    def quiet(x: Tensor) -> Tensor:
        return torch.where((norms(x) > limit)[:, None], x, replace(x))

    return quiet


def _splice(replace: Callable[[Tensor], Tensor], keep: Tensor) -> Callable[[Tensor], Tensor]:
    """Replaces the rows of `[batch, position, d_in]` at the positions `keep`, no others."""

    def splice(x: Tensor) -> Tensor:
        where = keep.to(x.device)
        rows = x[where]
        new = replace(rows)
        if new.shape != rows.shape:
            raise ValueError(
                f"reconstruct gives shape {list(new.shape)}; expected {list(rows.shape)}"
            )
        out = x.clone()
        out[where] = new.to(x)
        return out

    return splice
