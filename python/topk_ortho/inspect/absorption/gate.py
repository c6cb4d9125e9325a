"""The gate of classes that a model represents: each one's probe against random classes'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean
from typing import Final, Literal

import torch
from torch import Tensor

from topk_ortho.activations.source import Split
from topk_ortho.inspect.absorption.classes import Member, TokenClasses, on
from topk_ortho.inspect.absorption.random_classes import RandomClasses
from topk_ortho.metrics.edges import MIN_CHILD_TOKENS
from topk_ortho.metrics.probe import LinearProbe, beats

HALVES: tuple[Split, Split] = ("train", "eval")
NOT_MEASURABLE: Final = "not measurable on this model"
Verdict = Literal["measurable", "one member", "not measurable on this model"]


@dataclass(frozen=True)
class ClassVerdict:
    """The verdict of the gate on one class.

    Attributes:
        members: sequences of tokens in the class that the text holds.
        frequency: share of the tokens on which it is on.
        verdict: `one member` is not tested: a class of one token is that token.
        why: the reason where it is not measurable, else empty.
        probe_f1: of its probe on held-out tokens, None where it has too few tokens.
        random_f1: the same of each random class, as many as there were draws.
        random_frequency: mean share of the tokens on which the random classes are on.
    """

    name: str
    members: int
    frequency: float
    verdict: Verdict = NOT_MEASURABLE
    why: str = ""
    probe_f1: float | None = None
    random_f1: tuple[float, ...] = ()
    random_frequency: float | None = None

    @property
    def counts(self) -> bool:
        """Returns whether the class may be the parent of an edge."""
        return self.verdict == "measurable"

    @property
    def counts_as_child(self) -> bool:
        """Returns whether it may be the child of one."""
        return self.verdict != NOT_MEASURABLE


@dataclass(frozen=True)
class ProbedText:
    """Both halves of a text with a probe on their activations.

    Attributes:
        contexts: by half, `[n, context]` int64; probes are fit on `train` and scored on `eval`.
        bos: the token that no row of the probe belongs to.
        kept: by half, `[n, context]` bool, the positions that are rows; all but BOS where None.
    """

    contexts: dict[Split, Tensor]
    bos: int
    probe: LinearProbe
    kept: dict[Split, Tensor] | None = None

    def on(self, members: frozenset[Member], split: Split) -> Tensor:
        """Returns `[rows]` bool: whether a class is on, at the positions that are rows."""
        contexts = self.contexts[split]
        kept = contexts != self.bos if self.kept is None else self.kept[split]
        return on(contexts, members)[kept]


def judge(
    classes: TokenClasses, text: ProbedText, *, draws: int, seed: int
) -> Iterator[ClassVerdict]:
    """Yields the verdict on each class, in order, as it becomes known."""
    every = torch.cat([text.contexts[half] for half in HALVES])
    random = RandomClasses(every, bos=text.bos)
    for index, (name, members) in enumerate(zip(classes.names, classes.members, strict=True)):
        generator = torch.Generator().manual_seed(seed + index)
        yield _judge(name, members, text, random, draws=draws, generator=generator)


def _judge(
    name: str,
    members: frozenset[Member],
    text: ProbedText,
    random: RandomClasses,
    *,
    draws: int,
    generator: torch.Generator,
) -> ClassVerdict:
    there = random.present(members)
    masks = [text.on(members, half) for half in HALVES]
    judged = ClassVerdict(name, len(there), float(torch.cat(masks).double().mean()))
    fewest = min(int(mask.sum()) for mask in masks)
    if fewest < MIN_CHILD_TOKENS:
        why = f"on for {fewest} tokens of one half, and {MIN_CHILD_TOKENS} are needed"
        return replace(judged, why=why)
    judged = replace(judged, probe_f1=text.probe.f1(*masks))
    if len(there) == 1:
        return replace(judged, verdict="one member")
    others = [*islice(random.draws(there, generator), draws)]
    if any(len(other) < len(there) for other in others):
        return replace(judged, why="the text has too few other tokens to draw random classes from")
    return _against(judged, [[text.on(other, half) for half in HALVES] for other in others], text)


def _against(
    judged: ClassVerdict, others: Sequence[Sequence[Tensor]], text: ProbedText
) -> ClassVerdict:
    """The verdict beside random classes, each given by where it is on in both halves."""
    f1 = judged.probe_f1
    assert f1 is not None
    judged = replace(
        judged,
        random_f1=tuple(text.probe.f1(*masks) for masks in others),
        random_frequency=fmean(float(torch.cat([*masks]).double().mean()) for masks in others),
    )
    if beats(f1, judged.random_f1):
        return replace(judged, verdict="measurable")
    as_good = sum(other >= f1 for other in judged.random_f1)
    why = f"{as_good} of {len(others)} random classes have a probe that is as good"
    return replace(judged, why=why)
