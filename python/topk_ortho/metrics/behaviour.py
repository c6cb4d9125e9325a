"""The effect of a reconstruction on the model that it is spliced into: cross-entropy and KL.

Costs five forward passes per context (activations, original, reconstructed, zero, mean), a sixth
for SAELens' own way of counting, and two where the ablations are known from another SAE. BOS
positions are never spliced and never counted. Refused: a reconstruction of another shape, and
logits that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from topk_ortho.metrics.losses import cross_entropy, kl_divergence
from topk_ortho.metrics.loud_rows import norms
from topk_ortho.metrics.saelens import RunEvalsLosses

CONTEXTS_AT_ONCE = 16
"""Contexts of a pass that computes logits."""
ABLATIONS = ("zero", "mean")
"""What a reconstruction is compared with, whatever it is."""


class SpliceModel(Protocol):
    """A language model whose activations at one hook point can be read and replaced."""

    def run_with_hooks(
        self,
        tokens: Tensor,
        hook: str | None = None,
        replace: Callable[..., Tensor] | None = None,
        *,
        hook_in: str = "",
    ) -> Tensor:
        """Returns logits `[batch, position, d_vocab]`; `replace` maps `[batch, position, d_in]`,
        and with `hook_in` gets what is there as its second argument."""

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Returns the activations at the hook, `[batch, position, d_in]` float32."""


Replace = Callable[[Tensor, Tensor], Tensor]
"""From the rows at the hook point and those that the SAE reads, to what is put in their place."""


def behaviour(
    model: SpliceModel,
    contexts: Tensor,
    hook: str,
    reconstruct: Callable[[Tensor], Tensor],
    *,
    hook_in: str = "",
    kept: Tensor | None = None,
    norm_limit: float | None = None,
    batch: int = CONTEXTS_AT_ONCE,
    beside: RunEvalsLosses | None = None,
    ablated: dict[str, float] | None = None,
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
        reconstruct: `[rows, d_in]` float32 in the model's own units -> the same shape, or that of
            what is at `hook`.
        hook_in: hook point that `reconstruct` reads in the same pass; `hook` unless given.
        kept: `[n, context]` bool, positions that are spliced and counted; all but BOS unless given.
        norm_limit: rows that are read with a norm above are never spliced, in the model's units.
        batch: contexts per forward pass.
        beside: takes in the same predictions as SAELens counts them.
        ablated: what an earlier call found of the ablations at the same hook and contexts, which
            are then not run again; filled in where it is empty.
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
    hooks = {"hook": hook, "hook_in": hook_in}
    arms: dict[str, Replace] = {"reconstructed": lambda x, x_in: reconstruct(x_in)}
    if not ablated:
        arms |= _ablations(model, contexts, **hooks, kept=kept, limit=norm_limit, batch=batch)
    sums = dict.fromkeys(["ce_original", *(f"{m}_{a}" for a in arms for m in ("ce", "kl"))], 0.0)
    quiet = {name: _quiet(replace, norm_limit) for name, replace in arms.items()}
    for tokens, keep in zip(contexts.split(batch), kept.split(batch), strict=True):
        _add(sums, model, tokens, keep, **hooks, arms=quiet, beside=beside, bos=bos)
        progress(len(tokens))
    sums |= ablated or {}
    _check(sums, hook)
    if ablated is not None:
        ablated |= {name: value for name, value in sums.items() if name.endswith(ABLATIONS)}
    return _figures(sums, predictions=_counted(contexts, kept, bos).sum(), positions=kept.sum())


def _check(sums: dict[str, float], hook: str) -> None:
    broken = [name for name, value in sums.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"{', '.join(broken)} not finite at {hook!r}: check the reconstruction")


def _figures(sums: dict[str, float], *, predictions: Tensor, positions: Tensor) -> dict[str, Any]:
    """Returns cross-entropies by prediction, divergences by position, None without any; scores."""
    counts = {name: int(predictions if name[:2] == "ce" else positions) for name in sums}
    means = {name: sums[name] / n if n else None for name, n in counts.items()}
    return means | _scores(means)


def _ablations(model: SpliceModel, contexts: Tensor, **how: Any) -> dict[str, Replace]:
    mean = _mean_activation(model, contexts, **how)
    return {
        "zero": lambda x, x_in: torch.zeros_like(x),
        "mean": lambda x, x_in: mean.to(x).expand_as(x),
    }


@torch.no_grad()
def _add(
    sums: dict[str, float],
    model: SpliceModel,
    tokens: Tensor,
    keep: Tensor,
    *,
    hook: str,
    hook_in: str,
    arms: Mapping[str, Replace],
    beside: RunEvalsLosses | None,
    bos: int,
) -> None:
    """Add what a batch of contexts loses to each of the arms; only positions `keep` count."""
    original = model.run_with_hooks(tokens)
    read = {"hook_in": hook_in} if hook_in else {}
    counted = _counted(tokens, keep, bos)
    sums["ce_original"] += cross_entropy(original, tokens, counted)
    for arm, replace in arms.items():
        spliced = model.run_with_hooks(tokens, hook, _splice(replace, keep), **read)
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
    *,
    hook: str,
    hook_in: str,
    kept: Tensor,
    limit: float | None,
    batch: int,
) -> Tensor:
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for tokens, keep in zip(contexts.split(batch), kept.split(batch), strict=True):
        x = model.activations(tokens, hook)
        x = x[keep.to(x.device)]
        if limit is not None:
            x_in = model.activations(tokens, hook_in)[keep.to(x.device)] if hook_in else x
            x = x[norms(x_in) <= limit]
        total = total.to(x.device) + x.sum(dim=0, dtype=torch.float64)
        rows += len(x)
    return (total / max(rows, 1)).float()


def _counted(tokens: Tensor, keep: Tensor, bos: int) -> Tensor:
    """Returns the predictions that count: from a kept position, of a token that is not BOS."""
    return keep[:, :-1] & (tokens[:, 1:] != bos)


def _quiet(replace: Replace, limit: float | None) -> Replace:
    """Returns a replacement that leaves rows alone that are read with a norm above a limit."""
    if limit is None:
        return replace

    def quiet(x: Tensor, x_in: Tensor) -> Tensor:
        return torch.where((norms(x_in) > limit)[:, None], x, replace(x, x_in))

    return quiet


def _splice(replace: Replace, keep: Tensor) -> Callable[..., Tensor]:
    """Replaces the rows of `[batch, position, d_in]` at the positions `keep`, no others."""

    def splice(x: Tensor, x_in: Tensor | None = None) -> Tensor:
        where = keep.to(x.device)
        rows = x[where]
        new = replace(rows, rows if x_in is None else x_in[where.to(x_in.device)].to(x.device))
        if new.shape != rows.shape:
            raise ValueError(
                f"reconstruct gives shape {list(new.shape)}; expected {list(rows.shape)}"
            )
        out = x.clone()
        out[where] = new.to(x)
        return out

    return splice
