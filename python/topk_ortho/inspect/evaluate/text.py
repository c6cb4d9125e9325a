"""The figures of one SAE as text for the terminal, group by group, each with what it is.

The health gate is that of `table.py`: an absorption figure of an unhealthy SAE carries a `*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from topk_ortho.report.table import MIN_CE_SCORE, MIN_EXPLAINED_VARIANCE, health, is_absorption

GROUPS: dict[str, dict[str, str]] = {
    "reconstruction": {
        "explained_variance": "1 - squared error / variance, over all rows",
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
"""What is shown, where it was measured; everything else is in the JSON alone."""

BARS = 30
"""Characters of the longest bar of the histogram."""


def gate(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Whether an absorption figure of this SAE may be read, and on what that rests."""
    reason = health(figures)
    return {
        "healthy": reason is None,
        "reason": reason,
        "limits": {"explained_variance": MIN_EXPLAINED_VARIANCE, "ce_score": MIN_CE_SCORE},
        "invalid": sorted(
            name for name, value in figures.items() if reason and is_absorption(name)
            and value is not None
        ),
    }  # fmt: skip


def figures_text(
    figures: Mapping[str, Any],
    histogram: Mapping[str, Any] | None = None,
    saelens: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Every group that was measured, the histogram, SAELens' own figures, and the health."""
    parts = ["\n".join(group) for group in _groups(figures)]
    if histogram is not None:
        parts.append("\n".join(_histogram(histogram)))
    if saelens is not None:
        lines = ["by SAELens' names and definitions (run_evals)"]
        lines += [_line(k, v) for group in saelens.values() for k, v in group.items()]
        parts.append("\n".join(lines))
    parts.append(health_text(figures))
    return "\n\n".join(parts)


def health_text(figures: Mapping[str, Any]) -> str:
    """One sentence: whether absorption may be read."""
    reason = health(figures)
    if reason is None:
        limits = f"explained variance at least {MIN_EXPLAINED_VARIANCE}"
        if figures.get("ce_score") is not None:
            limits += f", CE score at least {MIN_CE_SCORE}"
        return f"health: good ({limits})."
    return f"health: INVALID, {reason}; an absorption figure (*) of this SAE means nothing."


def _groups(figures: Mapping[str, Any]) -> Iterator[list[str]]:
    sick = health(figures) is not None
    for title, names in GROUPS.items():
        known = [name for name in names if name in figures]
        if known:
            yield [title] + [
                _line(name, figures[name], names[name], marked=sick and is_absorption(name))
                for name in known
            ]


def _line(name: str, value: float | None, words: str = "", *, marked: bool = False) -> str:
    mark = "*" if marked and value is not None else " "
    return f"  {name:<29}{figure(value):>10}{mark} {words}".rstrip()


def figure(value: float | None) -> str:
    """A figure to four significant digits, "-" where it is not defined."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _histogram(histogram: Mapping[str, Any]) -> Iterator[str]:
    """A bar for each half decade, the rarest first, and those that never fired."""
    edges, counts, never = (histogram[key] for key in ("log10_edges", "features", "never"))
    most = max([*counts, never, 1])
    yield "features by firing frequency"
    for label, count in [
        ("never", never),
        *((f"{10 ** low:.1e} to {10 ** high:.1e}", n)
          for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)),
    ]:  # fmt: skip
        yield f"  {label:<20}{count:>8,} {'#' * round(BARS * count / most)}".rstrip()
