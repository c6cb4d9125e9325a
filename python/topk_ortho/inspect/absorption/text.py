"""The output of `topk-ortho absorption`; names from the file are escaped."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from topk_ortho import terminal
from topk_ortho.inspect.absorption.gate import NOT_MEASURABLE, ClassVerdict
from topk_ortho.inspect.absorption.measure import TokenAbsorption
from topk_ortho.inspect.pairs.text import printable
from topk_ortho.metrics.absorption import (
    FEW_EDGES,
    MIN_CHILD_TOKENS,
    AbsorptionEdge,
    AbsorptionResult,
)
from topk_ortho.metrics.health import loud
from topk_ortho.report.typeset import count, metric


def as_text(found: TokenAbsorption) -> str:
    """Classes, edges and the summary, without a newline at the end."""
    names = [printable(verdict.name) for verdict in found.classes]
    rows = zip(names, found.classes, found.features, strict=True)
    lines = [
        f"{terminal.printable(f'{found.sae} at {found.hook} of {found.model}')}: probes and "
        f"matching on {found.tokens['train']} tokens, metrics of {found.tokens['eval']} others",
        "",
        *terminal.aligned([_CLASS_HEADER, *(_class_row(*row) for row in rows)]),
        *(f"{n}: {v.why}" for n, v in zip(names, found.classes, strict=True) if v.why),
        "",
        *terminal.aligned(
            [_EDGE_HEADER, *(_edge_row(names, edge) for edge in found.absorption.edges)]
        ),
        "",
        _summary(found),
        _health(found),
    ]
    return "\n".join(lines)


def beside_each_other(found: Sequence[TokenAbsorption]) -> str:
    """One line for each of several SAEs."""
    return "\n".join(["", *terminal.aligned([_SAE_HEADER, *(_sae_row(one) for one in found)])])


_SAE_HEADER = (
    "SAE", "edges", "F1 of parents", "absorption", "base miss", "excess", "EV", "CE score", "L0",
    "dead",
)  # fmt: skip


def _sae_row(found: TokenAbsorption) -> tuple[str, ...]:
    summary, figures = found.absorption.summary(), found.figures
    mark = "" if found.invalid is None else "*"
    return (
        terminal.printable(found.sae) + mark,
        f"{summary['edges_eligible']} of {summary['edges_total']}",
        metric(found.parents_f1),
        *(metric(summary.get(name)) for name in ("absorption_rate", "base_miss", "excess")),
        *(metric(figures.get(name)) for name in ("explained_variance", "ce_score")),
        metric(figures.get("l0"), ".1f"),
        metric(figures.get("dead_features")),
    )


_CLASS_HEADER = (
    "class", "members", "frequency", "probe F1", "random: largest", "median", "feature", "verdict",
)  # fmt: skip
_EDGE_HEADER = (
    "parent > child", "parent's feature", "F1", "with child", "fires", "without", "fires",
    "recall with", "without", "excess",
)  # fmt: skip


def _class_row(name: str, verdict: ClassVerdict, feature: int | None) -> tuple[str, ...]:
    random = verdict.random_f1
    return (
        name,
        str(verdict.members),
        metric(verdict.frequency, ".4f"),
        metric(verdict.probe_f1),
        metric(max(random) if random else None),
        metric(statistics.median(random) if random else None),
        count(feature),
        verdict.verdict,
    )


def _edge_row(names: Sequence[str], edge: AbsorptionEdge) -> tuple[str, ...]:
    return (
        f"{names[edge.parent]} > {names[edge.child]}",
        count(edge.parent_feature),
        metric(edge.parent_f1),
        str(edge.n_with_child),
        count(edge.fires_with_child),
        str(edge.n_without_child),
        count(edge.fires_without_child),
        metric(edge.recall_with_child),
        metric(edge.recall_without_child),
        metric(edge.excess, "+.3f"),
    )


def _summary(found: TokenAbsorption) -> str:
    summary = found.absorption.summary()
    edges = f"{summary['edges_eligible']} of {summary['edges_total']} edges eligible"
    if not found.measurable:
        return f"absorption: {NOT_MEASURABLE} ({edges})"
    mark = "" if found.invalid is None else "*"
    means = "  ".join(
        f"{name} {metric(summary.get(name))}{mark}"
        for name in ("absorption_rate", "base_miss", "excess")
    )
    said = f"{means}  (mean over edges; {edges})"
    return "\n".join([said, *_rests_on(found.absorption)])


def _rests_on(found: AbsorptionResult) -> list[str]:
    """Returns a sentence where the mean excess rests on few edges, and why edges have none."""
    eligible = [edge for edge in found.edges if edge.eligible]
    thin = sum(edge.n_without_child < MIN_CHILD_TOKENS for edge in eligible)
    used = found.summary()["edges_with_excess"]
    lines = []
    if isinstance(used, int) and used < FEW_EDGES:
        edges = "no edge" if not used else f"{used} edge{'s' if used > 1 else ''} alone"
        lines.append(f"excess rests on {edges}: read the rows above, not the mean")
    if thin:
        edges = "edge has" if thin == 1 else "edges have"
        lines.append(
            f"{thin} {edges} fewer than {MIN_CHILD_TOKENS} tokens of the parent without a child, "
            "and so no base miss and no excess"
        )
    return lines


def _health(found: TokenAbsorption) -> str:
    names = ("explained_variance", "ce_score", "l0", "dead_features")
    means = "  ".join(f"{name} {metric(found.figures.get(name))}" for name in names)
    lines = [means] if found.invalid is None else [means, f"* invalid: {found.invalid}"]
    return "\n".join([*lines, *([said] if (said := loud(found.figures)) else [])])
