"""Labels of metrics and arms, on the page, in Markdown and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from topk_ortho.statistics.claims import Better

NONE = "none"
"""The arm without the constraint."""

VARIANT = "variant"
"""What the plan of an ablation calls the arm that it varies."""

DEFAULT = "default"
"""How tables name that arm where nothing is varied."""

DEFAULT_ARMS = (DEFAULT, "row-coactivation", "coactivation")
"""Names of the default arm; folders of bars have that of its criterion."""


@dataclass(frozen=True)
class Label:
    """The names of a metric.

    Attributes:
        name: in a sentence or a heading, in lower case.
        short: in a column of a table.
        decimals: of its means; None for three significant digits.
        better: the direction in which it improves, None where neither does.
    """

    name: str
    short: str
    decimals: int | None = 3
    better: Better | None = None

    @property
    def title(self) -> str:
        """The name with a capital."""
        return self.name[:1].upper() + self.name[1:]


LABELS = {
    "absorption_rate": Label("absorption", "absorption", better="lower"),
    "excess": Label("excess", "excess", better="lower"),
    "base_miss": Label("base miss", "base miss", better="lower"),
    "mcc": Label("MCC", "MCC", better="higher"),
    "f1_parent": Label("parent F1", "parent F1", better="higher"),
    "f1_child": Label("child F1", "child F1", better="higher"),
    "explained_variance": Label("explained variance", "EV", better="higher"),
    "ce_score": Label("CE score", "CE score", 4, better="higher"),
    "kl_score": Label("KL score", "KL score", 4, better="higher"),
    "l0": Label("L0", "L0", 2),
    "dead_features": Label("dead features", "dead", better="lower"),
    "step_ms": Label("step time", "step, ms", 1, better="lower"),
    "steps": Label("training steps", "steps", 0),
    "loss": Label("final loss", "loss", better="lower"),
    "lr": Label("learning rate at the end", "learning rate", None),
    "sparsity_penalty": Label("coefficient of the L1 term", "sparsity penalty", 4),
}
"""By the key of a result or a line of the log."""

HELD_OUT = ("explained_variance", "l0", "dead_features", "excess", "absorption_rate", "base_miss",
            "mcc", "ce_score")  # fmt: skip
"""Metrics on held-out activations that are drawn over the training steps."""

CURVES = {
    "explained_variance": ("Explained variance", "of the batch"),
    "l0": ("L0", "features that fire on an activation"),
    "l2": ("L2 loss", "squared error per activation"),
    "l1": ("Sparsity", "L1 of the activations"),
    "loss": ("Total loss", "what the optimiser sees"),
    "orthogonality": ("Orthogonality loss", "without its coefficient"),
    "pairs_overlapping": ("Pairs that overlap", "share above τ"),
    "pairs_features": ("Features that the pairs reach", "features"),
}
"""Title and axis of what is drawn over the training steps."""

OF_PAIRS = ("orthogonality", "pairs_overlapping", "pairs_features")
"""Those of them that only an arm with the constraint has."""


def short(key: str) -> str:
    """Returns the label of a metric in a column, its key where it has none."""
    return LABELS[key].short if key in LABELS else key
