"""From SAEs, a language model, a text and a file of classes to their absorption.

The text is cut in two halves. On the first, probes are fit and features are matched; on the second,
probes are scored, absorption is counted and the SAE's health is measured, so that no metric is of
the tokens that it was chosen on. Activations of both halves are kept, and once more as the
probes take them: `8 * tokens * d_in` bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from topk_ortho import formats
from topk_ortho.activations.language_model import CPU_TOKENS
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.source import Split
from topk_ortho.activations.text import pack_contexts, text_documents, text_name
from topk_ortho.config import ConfigError
from topk_ortho.formats.load import as_module
from topk_ortho.formats.origin import check_origin
from topk_ortho.inspect.absorption.classes import TokenClasses, read_classes
from topk_ortho.inspect.absorption.gate import HALVES, ClassVerdict, ProbedText, judge
from topk_ortho.inspect.left_out import LeftOut, left_out_by
from topk_ortho.machine.hardware import choose_device
from topk_ortho.metrics.absorption import (
    AbsorptionMeter,
    AbsorptionResult,
    LabelMatcher,
    Matching,
)
from topk_ortho.metrics.behaviour import behaviour
from topk_ortho.metrics.health import health
from topk_ortho.metrics.loud_rows import norms
from topk_ortho.metrics.probe import LinearProbe
from topk_ortho.metrics.reconstruction import Reconstruction
from topk_ortho.sae import SAE
from topk_ortho.training.evaluation import behaviour_contexts, reconstructor, rows_at_once

Score = Literal["f1", "correlation"]


@dataclass(frozen=True)
class TokenAbsorption:
    """The result of `topk-ortho absorption`.

    Attributes:
        sae: the folder; `model`, `hook` and `classes_file` as they were given.
        tokens: by half, tokens that are not BOS.
        draws, seed: number of random classes that each class has to beat, and their seed.
        classes: the gate's verdict on each class.
        features: the matched feature of each class, None for none.
        absorption: every edge, and the summary over those that are eligible.
        figures: metrics: explained variance, L0, dead features, CE score, ... on the second half.
        invalid: why absorption of this SAE means nothing, None where it may be read.
    """

    sae: str
    model: str
    hook: str
    classes_file: str
    tokens: dict[str, int]
    draws: int
    classes: tuple[ClassVerdict, ...]
    features: tuple[int | None, ...]
    absorption: AbsorptionResult
    figures: dict[str, Any]
    invalid: str | None

    @property
    def parents_f1(self) -> float | None:
        """Returns the mean F1 of the features matched to parents that passed the gate, each parent
        once; None where none passed."""
        f1 = {edge.parent: edge.parent_f1 for edge in self.absorption.edges
              if self.classes[edge.parent].counts and edge.parent_f1 is not None}  # fmt: skip
        return fmean(f1.values()) if f1 else None

    @property
    def measurable(self) -> bool:
        """Returns whether some edge could be measured."""
        return any(edge.eligible for edge in self.absorption.edges)

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists, dicts, numbers and None; edges carry the names of their classes."""
        names = [verdict.name for verdict in self.classes]
        out = asdict(self) | {"absorption": self.absorption.as_json()}
        for edge in out["absorption"]["edges"]:
            edge |= {"parent_name": names[edge["parent"]], "child_name": names[edge["child"]]}
        return out | {"measurable": self.measurable, "parents_f1": self.parents_f1}


def measure(
    saes: Sequence[Path],
    *,
    model: str,
    text: Sequence[Path],
    hook: str,
    classes: Path,
    context: int = 128,
    tokens: int = 200_000,
    draws: int = 19,
    match: Score = "f1",
    eval_contexts: int | None = None,
    seed: int = 0,
    device: str = "auto",
    loading: Mapping[str, str] | None = None,
    allow_pickle: bool = False,
    allow_mismatch: bool = False,
) -> Iterator[TokenAbsorption]:
    """Yields the absorption of each SAE; the language model and the probes run once for all.

    Args:
        saes: run folders, or folders with an SAE, of one hook point.
        model, device, loading: name or folder, where all runs, more for `LanguageModel.load`.
        text, hook: text files, and the hook point that the SAEs were trained on.
        classes: TOML or JSON file of classes and edges.
        context, tokens: tokens of a context, BOS included, and of the text, half to fit and match.
        draws, seed: number of random classes that each class has to beat, and their seed.
        match, eval_contexts: score that matches features; contexts of the CE score, 0 for none.
        allow_pickle, allow_mismatch: open an SAE of dictionary_learning, of another model or hook.

    Raises:
        ConfigError: a file, model or SAE that cannot be used.
    """
    where = choose_device(device)
    opened = [_module(sae, model, hook, allow_pickle, allow_mismatch).to(where) for sae in saes]
    how = {"device": where, "hooks": [hook], **(loading or {})}
    lm, halves = _read(model, text, context=context, tokens=tokens, how=how)
    _check_widths(opened, saes, lm, halves["train"], hook)
    known = read_classes(classes, lm.tokenizer, d_vocab=lm.d_vocab)
    seen: _Seen | None = None
    for path, sae in zip(saes, opened, strict=True):
        left_out = left_out_by(path, lm)
        if seen is None or seen.left_out != left_out:
            seen = _seen(lm, halves, hook, sae, left_out, known, draws=draws, seed=seed)
        matching = _match(sae, seen.x["train"], seen.labels["train"], score=match)
        measured, figures = _count(sae, seen, known, matching)
        figures |= _behaviour(lm, halves["eval"], hook, sae, seen, asked=eval_contexts)
        yield TokenAbsorption(
            sae=str(path),
            model=model,
            hook=hook,
            classes_file=str(classes),
            tokens={half: len(seen.x[half]) for half in HALVES},
            draws=draws,
            classes=seen.judged,
            features=tuple(None if f < 0 else f for f in matching.feature.tolist()),
            absorption=measured,
            figures=figures,
            invalid=health(figures),
        )


@dataclass(frozen=True)
class _Seen:
    """What is computed once for all SAEs that leave out the same: by half, activations
    `[rows, d_in]`, which positions they are of, and labels `[rows, n_classes]`; the verdicts; and
    what the model loses by the ablations that the CE score is counted from."""

    left_out: LeftOut
    x: dict[Split, Tensor]
    kept: dict[Split, Tensor]
    labels: dict[Split, Tensor]
    judged: tuple[ClassVerdict, ...]
    ablated: dict[str, float] = field(default_factory=dict)


def _seen(
    model: LanguageModel,
    halves: dict[Split, Tensor],
    hook: str,
    sae: SAE,
    left_out: LeftOut,
    classes: TokenClasses,
    *,
    draws: int,
    seed: int,
) -> _Seen:
    x, kept = _rows(model, halves, hook, sae, left_out=left_out)
    probed = ProbedText(halves, model.bos, LinearProbe(x["train"], x["eval"]), kept)
    labels = {half: _labels(classes, probed, half) for half in HALVES}
    judged = _judged(classes, probed, draws=draws, seed=seed)
    return _Seen(left_out, x, kept, labels, judged)


def _judged(
    classes: TokenClasses, text: ProbedText, *, draws: int, seed: int
) -> tuple[ClassVerdict, ...]:
    verdicts = judge(classes, text, draws=draws, seed=seed)
    return tuple(tqdm(verdicts, total=len(classes.names), desc="probes", disable=None))


def _module(sae: Path, model: str, hook: str, allow_pickle: bool, insist: bool) -> SAE:
    """Returns a stored SAE, unless it is of another model, hook point or kind of activations.

    Raises:
        ConfigError: it is such an SAE; a warning where a mismatch is insisted on.
    """
    stored = formats.read(sae, allow_pickle=allow_pickle)
    stored.check_no_transcoder(sae, command="topk-ortho absorption")
    named = {"model": stored.model, "hook": stored.hook}
    check_origin(sae=sae, named=named, given={"model": model, "hook": hook}, insist=insist)
    stored.check_unprocessed(sae, insist=insist)
    return as_module(stored)


def _read(
    model: str, text: Sequence[Path], *, context: int, tokens: int, how: dict[str, Any]
) -> tuple[LanguageModel, dict[Split, Tensor]]:
    """The language model, and the contexts of both halves of the text."""
    documents = text_documents(text)
    documents = chain([next(documents, "")], documents)  # a missing file is reported before loading
    lm = LanguageModel.load(model, **how)
    name = text_name(text)
    contexts = pack_contexts(lm.tokenizer, documents, context, max_tokens=tokens, name=name)
    return lm, _halves(contexts, lm, name)


def _check_widths(
    opened: Sequence[SAE], saes: Sequence[Path], model: LanguageModel, contexts: Tensor, hook: str
) -> None:
    width = model.width(hook, contexts)
    for sae, path in zip(opened, saes, strict=True):
        if sae.d_in != width:
            raise ConfigError(
                f"--hook {hook} of {model.name!r} has width {width}, but the SAE {path} has "
                f"d_in {sae.d_in}; give the model and hook point that it was trained on."
            )


def _halves(contexts: Tensor, model: LanguageModel, text: str) -> dict[Split, Tensor]:
    if len(contexts) < 2 or contexts.shape[1] > model.max_context:
        raise ConfigError(
            f"{text} was given, but it gives contexts of shape {list(contexts.shape)}, and at "
            f"least 2, of at most {model.max_context} tokens, were expected; add text, or lower "
            "--context."
        )
    cut = len(contexts) // 2
    return {"train": contexts[:cut], "eval": contexts[cut:]}


def _behaviour(
    model: LanguageModel, contexts: Tensor, hook: str, sae: SAE, seen: _Seen, *, asked: int | None
) -> dict[str, float | None]:
    if asked == 0:
        return {}
    some = slice(asked or behaviour_contexts(model, contexts.shape[1]))
    return behaviour(
        model.remembering,
        contexts[some],
        hook,
        reconstructor(sae),
        kept=seen.kept["eval"][some],
        ablated=seen.ablated,
    )


def _rows(
    model: LanguageModel, halves: dict[Split, Tensor], hook: str, sae: SAE, *, left_out: LeftOut
) -> tuple[dict[Split, Tensor], dict[Split, Tensor]]:
    """By half, the activations, and which positions they are of."""
    x: dict[Split, Tensor] = {}
    kept: dict[Split, Tensor] = {}
    for half, contexts in halves.items():
        x[half], kept[half] = _activations(model, contexts, hook, sae, left_out=left_out)
    return x, kept


@torch.no_grad()
def _activations(
    model: LanguageModel, contexts: Tensor, hook: str, sae: SAE, *, left_out: LeftOut
) -> tuple[Tensor, Tensor]:
    """`[rows, d_in]` float32 at the positions that are not left out, on the SAE's device, and
    `[n, context]` bool, which these are."""
    parts, kept = [], []
    for tokens in contexts.split(max(1, CPU_TOKENS // contexts.shape[1])):
        x = model.activations(tokens, hook)
        keep = left_out.positions.kept(tokens)
        if left_out.norm_limit is not None:
            keep &= (norms(x.flatten(0, 1)).view(tokens.shape) <= left_out.norm_limit).cpu()
        kept.append(keep)
        parts.append(x[keep.to(x.device)].to(sae.W_dec.device))
    return torch.cat(parts), torch.cat(kept)


def _labels(classes: TokenClasses, text: ProbedText, half: Split) -> Tensor:
    """`[rows, n_classes]` bool."""
    return torch.stack([text.on(members, half) for members in classes.members], dim=1)


@torch.no_grad()
def _match(sae: SAE, x: Tensor, labels: Tensor, *, score: Score) -> Matching:
    matcher = LabelMatcher(labels.shape[1], sae.d_sae)
    rows = rows_at_once(sae.d_sae)
    for part, on in zip(x.split(rows), labels.split(rows), strict=True):
        matcher.update(sae.encode(part), on)
    return matcher.result(score=score)


@torch.no_grad()
def _count(
    sae: SAE, seen: _Seen, classes: TokenClasses, matching: Matching
) -> tuple[AbsorptionResult, dict[str, Any]]:
    """Returns absorption, and the metrics of the reconstruction."""
    verdicts = seen.judged
    measurable = [verdicts[p].counts and verdicts[c].counts_as_child for p, c in classes.edges]
    meter = AbsorptionMeter(classes.edges, matching, measurable=measurable)
    reconstruction = Reconstruction(sae.d_in, sae.d_sae)
    rows = rows_at_once(sae.d_sae)
    for part, on in zip(seen.x["eval"].split(rows), seen.labels["eval"].split(rows), strict=True):
        acts = sae.encode(part)
        meter.update(acts, on)
        reconstruction.update(part, sae.decode(acts), acts)
    return meter.result(), reconstruction.result()
