"""From a finished run to its most persistent pairs: what they are, where they fire."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from topk_ortho.activations import Activations, prepare
from topk_ortho.activations.quiet import quiet_source
from topk_ortho.checkpoint import store
from topk_ortho.config import ConfigError
from topk_ortho.constraint.history import PairHistory
from topk_ortho.formats.load import load_sae
from topk_ortho.inspect.finished_run import FinishedRun
from topk_ortho.inspect.pairs.contexts import Excerpt, TokenRows
from topk_ortho.inspect.pairs.observation import Observation, observe
from topk_ortho.inspect.pairs.truth import Identity, Relation, identify, relation
from topk_ortho.machine.hardware import choose_device


@dataclass(frozen=True)
class FeatureReport:
    """One feature of some persistent pair.

    Attributes:
        feature: its index.
        rate: share of tokens on which it fires, None where it is not known.
        identity: the true features behind it, None without ground truth.
        contexts: where it fires most strongly, without a language model empty.
    """

    feature: int
    rate: float | None
    identity: Identity | None
    contexts: tuple[Excerpt, ...]


@dataclass(frozen=True)
class PersistentPair:
    """One pair; counts are of held-out tokens, None where these could not be had.

    Attributes:
        ema_low, ema_high: bounds of the moving average of "selected".
        hits: selections since the pair last entered the history; so are `first_seen` (a step)
            and `longest_streak`.
        streak: selections in a row up to the last one.
        cosine: of the two decoder rows in the trained SAE.
        n_both: tokens on which both fire.
        rarer: the feature that fires on fewer tokens.
        n_rarer: tokens on which it fires.
        n_rarer_alone: of these, tokens on which the other one is silent.
        relation: of the matched true features, None without ground truth.
        rarer_alone: contexts in which the rarer fires and the other is silent.
    """

    i: int
    j: int
    ema_low: float
    ema_high: float
    hits: int
    first_seen: int
    last_seen: int
    streak: int
    longest_streak: int
    cosine: float
    n_both: int | None
    rarer: int | None
    n_rarer: int | None
    n_rarer_alone: int | None
    relation: Relation | None
    rarer_alone: tuple[Excerpt, ...]


@dataclass(frozen=True)
class PairAnalysis:
    """The answer of `topk-ortho pairs`.

    Attributes:
        run: the run folder.
        observations: selections that the history has seen.
        decay: β of its moving average.
        table: pairs in the history, `capacity` the most it keeps.
        rates_from: what the firing rates were measured on.
        rows: held-out tokens used, 0 without data.
        missing: why there are no held-out data, None where there are.
    """

    run: str
    criterion: str
    steps: int
    observations: int
    decay: float
    table: int
    capacity: int
    rates_from: str
    rows: int
    missing: str | None
    pairs: tuple[PersistentPair, ...]
    features: tuple[FeatureReport, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists, dicts and numbers."""
        return asdict(self)


def analyse(
    path: str | Path, *, top: int = 20, contexts: int = 3, samples: int | None = None
) -> PairAnalysis:
    """Returns the `top` most persistent pairs of a finished run and what is known of them.

    Args:
        path: a run folder.
        top: how many pairs.
        contexts: excerpts for each feature of a language model's SAE, and for each pair.
        samples: held-out tokens to use, the run's `eval_samples` unless given.

    Raises:
        ConfigError: no finished run there, no history, or numbers that make no sense.
    """
    for option, value in (("--top", top), ("--samples", samples)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} {value} was given, but at least 1 was expected; raise it.")
    if contexts < 0:
        raise ConfigError(f"--contexts {contexts} was given, but 0 or more was expected; raise it.")
    run = FinishedRun.open(Path(path))
    history = _history(run)
    records = history.top(top)
    evidence = _evidence(
        run,
        sorted({*records.i.tolist(), *records.j.tolist()}),
        contexts=contexts,
        samples=samples or run.config.eval_samples,
    )
    rows = zip(*(column.tolist() for column in records), strict=True)
    return PairAnalysis(
        run=str(run.folder.path),
        criterion=run.config.pairs.criterion,
        steps=run.config.steps,
        observations=history.observations,
        decay=history.decay,
        table=len(history),
        capacity=history.capacity,
        rates_from=evidence.rates_from,
        rows=0 if evidence.seen is None else evidence.seen.rows,
        missing=evidence.missing,
        pairs=tuple(evidence.pair(dict(zip(records._fields, row, strict=True))) for row in rows),
        features=tuple(map(evidence.feature, evidence.features)),
    )


@dataclass(frozen=True)
class _Evidence:
    """All that is known of the features besides their history."""

    features: list[int]
    rows: Tensor  # [d_sae, d_in] float64, decoder rows
    seen: Observation | None
    tokens: TokenRows | None
    contexts: int
    identities: dict[int, Identity]
    rates: dict[int, float]
    rates_from: str
    missing: str | None

    def feature(self, feature: int) -> FeatureReport:
        return FeatureReport(
            feature=feature,
            rate=self.rates.get(feature),
            identity=self.identities.get(feature),
            contexts=() if self.seen is None else self._excerpts(self.seen.of(feature)),
        )

    def pair(self, record: dict[str, Any]) -> PersistentPair:
        i, j = record["i"], record["j"]
        counts: dict[str, Any] = dict.fromkeys(("n_both", "rarer", "n_rarer", "n_rarer_alone"))
        excerpts: tuple[Excerpt, ...] = ()
        if self.seen is not None:
            rarer, other = self.seen.rarer_first(i, j)
            fires, silent = self.seen.of(rarer) > 0, self.seen.of(other) == 0
            counts = {
                "n_both": int((fires & ~silent).sum()),
                "rarer": rarer,
                "n_rarer": int(fires.sum()),
                "n_rarer_alone": int((fires & silent).sum()),
            }
            excerpts = self._excerpts(torch.where(silent, self.seen.of(rarer), 0.0))
        known = self.identities
        return PersistentPair(
            **record,
            **counts,
            cosine=float(cosine_similarity(self.rows[i], self.rows[j], dim=0)),
            relation=relation(known[i], known[j]) if known else None,
            rarer_alone=excerpts,
        )

    def _excerpts(self, acts: Tensor) -> tuple[Excerpt, ...]:
        return () if self.tokens is None else self.tokens.excerpts(acts, n=self.contexts)


def _evidence(run: FinishedRun, features: list[int], *, contexts: int, samples: int) -> _Evidence:
    sae = load_sae(run.folder.path)
    data, missing = _data(run)
    seen = tokens = None
    identities: dict[int, Identity] = {}
    if data is not None:
        seen = observe(sae, data, features, samples=samples)
        if data.language is not None:
            tokens = TokenRows(data.language, quiet_source(data.source))
        if data.source.truth is not None:
            identities = identify(sae.W_dec.detach(), data.source.truth, features)
    rates, rates_from = _rates(run, seen, features)
    return _Evidence(
        features=features,
        rows=sae.W_dec.detach().double(),
        seen=seen,
        tokens=tokens,
        contexts=contexts,
        identities=identities,
        rates=rates,
        rates_from=rates_from,
        missing=missing,
    )


def _history(run: FinishedRun) -> PairHistory:
    path = run.folder.path / "history.bin"
    if not path.is_file():
        reason = (
            "criterion = none chooses no pairs"
            if not run.config.constrained
            else "history.enabled = false keeps none"
        )
        raise ConfigError(
            f"{run.folder.path} was given, but it has no history.bin ({reason}), and a run that "
            "remembers its pairs was expected; give another run."
        )
    try:
        return PairHistory.from_bytes(path.read_bytes())
    except ValueError as error:
        raise ConfigError(
            f"{path} was given, but it is not a readable history ({error}); train the run again."
        ) from None


def _data(run: FinishedRun) -> tuple[Activations | None, str | None]:
    """Returns the run's own activations, or why they are not available."""
    try:
        data = prepare(run.config, device=str(choose_device("auto")))
    except ConfigError as error:
        return None, str(error)
    differs = run.data_differs(data)
    if differs is not None:
        return None, f"the data is not what the run was trained on: {differs}"
    return data, None


def _rates(
    run: FinishedRun, seen: Observation | None, features: list[int]
) -> tuple[dict[int, float], str]:
    """Firing rates by feature, and what they were measured on."""
    if seen is not None:
        return {f: seen.rate(f) for f in features}, f"{seen.rows} held-out tokens"
    checkpoint = store.newest(run.folder.checkpoints)
    if checkpoint is None:
        return {}, "nothing: there is no data and no checkpoint"
    rate = checkpoint.tensors["firing.rate"]
    return {f: float(rate[f]) for f in features}, "the last training batches (moving average)"
