"""The metrics of one SAE as text for the terminal, group by group, each with what it is.

An absorption metric of an unhealthy SAE carries a `*` (`topk_ortho.metrics.health`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from topk_ortho.metrics.health import (
    MIN_CE_SCORE,
    MIN_EXPLAINED_VARIANCE,
    health,
    is_absorption,
    loud,
)
from topk_ortho.report.typeset import metric
from topk_ortho.statistics import finite
from topk_ortho.terminal import aligned

GROUPS: dict[str, dict[str, str]] = {
    "reconstruction": {
        "explained_variance": "1 - squared error / variance, over all rows",
        "explained_variance_quiet_rows": "the same without the loudest 1 % of the rows",
        "variance_share_top_rows": "share of the variance in the loudest 1 % of the rows",
        "score_share_top_rows": "share of all f_i f_j, summed over pairs, in those rows",
        "mse": "squared error per dimension",
        "l2": "squared error summed over d_in",
        "cosine_similarity": "of x and x_hat, mean over rows",
        "l2_ratio": "|x_hat| / |x|, mean over rows",
        "relative_reconstruction_bias": "E|x_hat|^2 / E<x, x_hat>; below 1 it shrinks",
    },
    "sparsity": {
        "l0": "features that fire, mean over rows",
        "l1": "sum of the code, mean over rows",
        "dead_features": "share that never fired here",
        "dense_features": "share that fired on more than 10 % of the rows",
    },
    "decoder": {
        "c_dec": "mean |cosine| of two rows",
        "mean_max_cos": "mean over features of the largest cosine",
    },
    "model behaviour": {
        "ce_score": "cross-entropy, 0 is zero ablation and 1 the model itself",
        "kl_score": "the same of KL",
        "ce_score_mean": "against mean ablation, the harder one",
        "kl_score_mean": "the same of KL",
        "ce_original": "nats per token",
        "ce_reconstructed": "with x_hat in place of x",
        "ce_zero": "with 0",
        "ce_mean": "with the mean",
        "kl_reconstructed": "nats per token, from the model itself",
        "kl_zero": "with 0",
        "kl_mean": "with the mean",
    },
    "ground truth": {
        "absorption_rate": "P(parent's feature silent | child on)",
        "absorption_rate_fired": "the same, given that the child's feature fires",
        "base_miss": "P(parent's feature silent | parent on, no child on)",
        "excess": "absorption_rate - base_miss",
        "partial": "1 - E[f_parent | child on] / E[f_parent | parent alone]",
        "decoder_leak": "cosine of the child's row and the parent's direction",
        "encoder_hole": "cosine of the parent's encoder and the child's direction",
        "parents_found": "share of parents matched with a cosine above 0.8",
        "mcc": "mean cosine of the assignment",
        "uniqueness": "share of features that are some direction's nearest",
        "f1_parent": "matched features as detectors of true ones with children",
        "f1_child": "of those with a parent",
        "f1_independent": "of those with neither",
    },
}
"""Metrics that are shown, where measured; everything else is in the JSON alone."""

BARS = 30
"""Characters of the longest bar of the histogram."""


def metrics_text(
    metrics: Mapping[str, Any],
    histogram: Mapping[str, Any] | None = None,
    saelens: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Returns every group that was measured, the histogram, SAELens' own metrics, and the health.

    Args:
        metrics: by name; what is unavailable is shown as a dash.
        histogram: `log10_edges`, `features` in each bin between them, and `never`.
        saelens: groups of SAELens' metrics.
    """
    parts = list(_groups(metrics))
    if histogram is not None:
        parts.append(_histogram(histogram))
    if saelens is not None:
        rows = [_row(k, v) for group in saelens.values() for k, v in group.items()]
        parts.append(_titled("by SAELens' names and definitions (run_evals)", rows))
    parts.append(health_text(metrics))
    return "\n\n".join(parts)


def health_text(metrics: Mapping[str, Any]) -> str:
    """Returns whether absorption may be read, and whether few rows make most of the variance."""
    said = loud(metrics)
    return _verdict(metrics) + (f"\n{said}." if said else "")


def _verdict(metrics: Mapping[str, Any]) -> str:
    reason = health(metrics)
    if reason is None:
        limits = f"explained variance at least {MIN_EXPLAINED_VARIANCE}"
        if finite(metrics.get("ce_score")) is not None:
            limits += f", CE score at least {MIN_CE_SCORE}"
        return f"health: good ({limits})."
    return f"health: INVALID, {reason}; an absorption metric (*) of this SAE means nothing."


def _groups(metrics: Mapping[str, Any]) -> Iterator[str]:
    sick = health(metrics) is not None
    for title, names in GROUPS.items():
        known = [name for name in names if name in metrics]
        if known:
            yield _titled(title, [
                _row(name, metrics[name], names[name], marked=sick and is_absorption(name))
                for name in known
            ])  # fmt: skip


def _titled(title: str, rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([title, *aligned(rows, sides="<><", rule=False, indent=2)])


def _row(name: str, value: Any, words: str = "", *, marked: bool = False) -> tuple[str, str, str]:
    known = finite(value) is not None
    form = "," if isinstance(value, int) else ".4g"
    return name, f"{metric(value, form)}{'*' if marked and known else ' '}", words


def _histogram(histogram: Mapping[str, Any]) -> str:
    """Returns a bar for each half decade, the rarest first, and those that never fired."""
    edges, counts = histogram.get("log10_edges") or [], histogram.get("features") or []
    rows = [("never", histogram.get("never")), *(
        (f"{10 ** low:.1e} to {10 ** high:.1e}", n)
        for low, high, n in zip(edges[:-1], edges[1:], counts, strict=False)
    )]  # fmt: skip
    most = max([finite(n) or 0 for _, n in rows] + [1])
    cells = [
        (label, metric(n, ",.0f"), "#" * round(BARS * (finite(n) or 0) / most)) for label, n in rows
    ]
    return _titled("features by firing frequency", cells)
