"""The metrics at the end of a run, on held-out activations (method 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from topk_ortho.activations import Activations, Block, GroundTruth, ShuffleBuffer, Source
from topk_ortho.activations.memory import block_bytes, n_true
from topk_ortho.activations.source import Split
from topk_ortho.activations.synthetic import BLOCK_ROWS
from topk_ortho.machine.forecast import DOUBLE, FLOAT, Component, Shapes, between
from topk_ortho.metrics.behaviour import behaviour
from topk_ortho.metrics.edges import GroundTruthResult
from topk_ortho.metrics.ground_truth import GroundTruthMeter
from topk_ortho.metrics.reconstruction import Reconstruction, decoder_geometry
from topk_ortho.sae import SAE

if TYPE_CHECKING:
    from topk_ortho.activations.models import LanguageModel

CALIBRATION_ROWS = 65_536
EVAL_BATCH = 2048
LEAST_CALIBRATION_ROWS = 8192
CALIBRATION_CELLS = 2**33
"""Encoder outputs that calibration uses: wide dictionaries get by with fewer rows."""
CALIBRATION_WORK = 22 * 10**11
"""Weights times tokens of a language model on a CPU for calibration: 16,000 rows for 135 M."""
CELLS_AT_ONCE = 2**24
"""Elements of `[rows, d_sae]` measured at once: 64 MB of float32."""
GEOMETRY_CELLS = 2**31
"""Cosines of decoder rows measured: above, a sample of the features against all others."""
FEATURE_CELLS = 2**29
"""The same for the table of features, which takes them a second time."""
COSINES_AT_ONCE = 2048
"""Decoder rows of a tile in `decoder_geometry`."""
BEHAVIOUR_CONTEXTS, LEAST_CONTEXTS = 128, 16
BEHAVIOUR_WORK = 6 * 10**11
"""Weights times tokens of a language model on a CPU for behaviour, once: 34 contexts of 128 tokens
for 135 million weights."""


class Evaluation(NamedTuple):
    """The metrics of one SAE.

    Attributes:
        figures: by name, and `counts`: what each rate was counted from, by the same names.
        truth: every edge and true feature, None without ground truth.
    """

    figures: dict[str, Any]
    truth: GroundTruthResult | None


def calibrate(sae: SAE, fresh: ShuffleBuffer, *, model: LanguageModel | None = None) -> None:
    """Have the architecture set what affects codes only outside training (method 5).

    Args:
        sae: trained.
        fresh: a source of activations that the SAE was not trained on.
        model: what has to run for them.
    """
    rows = calibration_rows(sae.d_sae, fresh.batch_size, model=model)
    pieces = rows_at_once(sae.d_sae)
    batches = (fresh.next() for _ in range(rows // fresh.batch_size))
    sae.calibrate(piece for batch in batches for piece in batch.split(pieces))


def calibration_rows(d_sae: int, batch_size: int, *, model: LanguageModel | None = None) -> int:
    """Returns the rows that calibration uses, in whole batches: fewer for a wide dictionary, and
    where a large model has to run for them on a CPU."""
    affordable = CALIBRATION_CELLS // d_sae
    if model is not None and model.device.type == "cpu":
        affordable = min(affordable, CALIBRATION_WORK // model.weights)
    rows = min(CALIBRATION_ROWS, max(LEAST_CALIBRATION_ROWS, affordable))
    return max(1, rows // batch_size) * batch_size


class Meters:
    """The meters of one SAE, fed with rows of activations.

    Args:
        sae: in the units of the activations.
        truth: the features known to be in them, if any.
    """

    def __init__(self, sae: SAE, truth: GroundTruth | None) -> None:
        self.sae = sae
        self.reconstruction = Reconstruction(sae.d_out, sae.d_sae)
        self._truth = None
        if truth is not None:
            self._truth = GroundTruthMeter(
                truth.directions, truth.parent, W_dec=sae.W_dec.cpu(), W_enc=sae.W_enc.cpu()
            )

    @torch.no_grad()
    def add(self, x: Tensor, fired: Tensor | None = None, target: Tensor | None = None) -> Tensor:
        """Take in rows; their reconstruction `[rows, d_out]`.

        Args:
            x: `[rows, d_in]`, few enough to be encoded at once (`rows_at_once`).
            fired: `[rows, n_true]` bool, which true features are on.
            target: `[rows, d_out]`, what is reconstructed; `x` unless given.
        """
        x = x.to(self.sae.W_dec.device)
        acts = self.sae.encode(x)
        x_hat = self.sae.decode(acts)
        self.reconstruction.update(x if target is None else target.to(x), x_hat, acts)
        if self._truth is not None and fired is not None:
            self._truth.update(fired, acts.cpu())
        return x_hat

    @torch.no_grad()
    def result(self, *, geometry: bool = True) -> Evaluation:
        """Returns the metrics over all rows so far; `geometry` is that of the decoder rows."""
        sae = self.sae
        out: dict[str, Any] = dict(self.reconstruction.result())
        if geometry:
            out |= decoder_geometry(sae.W_dec, sample=geometry_sample(sae.d_sae))
        dead = {"numerator": sae.d_sae - out["alive"], "denominator": sae.d_sae}
        measured = None if self._truth is None else self._truth.result()
        if measured is None:
            return Evaluation(out | {"counts": {"dead_features": dead}}, None)
        counts = {"dead_features": dead} | measured.counts()
        return Evaluation(out | measured.summary() | {"counts": counts}, measured)


@torch.no_grad()
def evaluate(
    sae: SAE,
    data: Activations,
    *,
    samples: int,
    contexts: int | None = None,
    geometry: bool = True,
    progress: Callable[[int], object] = lambda rows: None,
    meters: Meters | None = None,
) -> Evaluation:
    """Reconstruction, sparsity, geometry, ground truth and behaviour.

    Args:
        sae: in the units of the data.
        data: its held-out split is measured.
        samples: rows.
        contexts: of a language model, for behaviour; `behaviour_contexts` unless given, 0 for none.
        geometry: whether cosines of decoder rows are measured.
        progress: called with the number of rows of each piece that is done.
        meters: the SAE's, where what they counted is wanted as well.
    """
    meters = meters or Meters(sae, data.source.truth)
    for block in eval_blocks(data.source, samples, rows=rows_at_once(sae.d_sae)):
        meters.add(*block)
        progress(len(block.x))
    figures, measured = meters.result(geometry=geometry)
    if number := scored_contexts(data, contexts):
        figures |= score(sae, data, number, progress=lambda contexts: None)
    return Evaluation(figures, measured)


def behaviour_contexts(model: LanguageModel, context: int) -> int:
    """Returns the contexts of so many tokens that behaviour is measured on, unless it is said.

    128 of them, and fewer, no fewer than 16, of a large model on a CPU, where the five passes over
    them would take longer than all else.
    """
    if model.device.type != "cpu":
        return BEHAVIOUR_CONTEXTS
    affordable = BEHAVIOUR_WORK // (model.weights * context)
    return max(LEAST_CONTEXTS, min(BEHAVIOUR_CONTEXTS, affordable))


def rows_at_once(d_sae: int) -> int:
    """Rows that are encoded at once, so that wide dictionaries do not need more memory."""
    return max(1, min(EVAL_BATCH, CELLS_AT_ONCE // d_sae))


def geometry_sample(d_sae: int) -> int | None:
    """Features whose cosines with all others are measured; None for all of them."""
    return None if d_sae**2 <= GEOMETRY_CELLS else max(1, GEOMETRY_CELLS // d_sae)


def eval_blocks(
    source: Source, samples: int, *, rows: int = EVAL_BATCH, split: Split = "eval"
) -> Iterator[Block]:
    """Blocks of a split, cut into pieces of `rows`, until there are `samples` rows."""
    index, limit, left = 0, source.n_blocks(split), samples
    while left > 0 and (limit is None or index < limit):
        block = source.block(index, split)
        for start in range(0, min(len(block.x), left), rows):
            stop = min(start + rows, start + left)
            piece = block.take(slice(start, stop))
            yield piece
            left -= len(piece.x)
        index += 1


def scored_contexts(data: Activations, asked: int | None = None) -> int:
    """Returns how many contexts of a language model the SAE is put in at: 0 without a model, or
    where something was planted in its activations.

    Args:
        data: what the SAE was trained on.
        asked: how many were asked for; `behaviour_contexts` unless given.
    """
    language = data.language
    if language is None or data.source.truth is not None or asked == 0:
        return 0
    held_out = language.contexts("eval")
    return min(len(held_out), asked or behaviour_contexts(language.model, held_out.shape[1]))


def score(
    sae: SAE, data: Activations, contexts: int, *, progress: Callable[[int], object]
) -> dict[str, Any]:
    """Returns the model's losses with the reconstruction in place of its activations.

    Args:
        sae: in the units of the data.
        data: of a language model.
        contexts: `scored_contexts`.
        progress: called with the number of contexts of each batch that is done.
    """
    language = data.language
    assert language is not None
    tokens, kept = language.contexts("eval")[:contexts], language.kept("eval")[:contexts]
    hook, into = language.hook, language.hook_out or language.hook
    where = (hook, into, data.norm_limit, digest(tokens), digest(kept))
    found = behaviour(
        language.model.remembering,
        tokens,
        into,
        reconstructor(sae, data.scale, out=data.reconstructed.scale),
        hook_in=hook if language.hook_out else "",
        kept=kept,
        norm_limit=data.norm_limit,
        ablated=language.model.ablated(where),
        progress=progress,
    )
    return found | {"behaviour_contexts": contexts}


def digest(x: Tensor) -> bytes:
    """Returns a digest of the elements of a tensor on CPU."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).digest()


def reconstructor(
    sae: SAE, scale: float = 1.0, *, out: float | None = None
) -> Callable[[Tensor], Tensor]:
    """Returns a function that passes `[rows, d_in]` of a model through an SAE, a few at once.

    Args:
        sae: for `scale` times that input.
        scale: that number.
        out: the reconstruction is so many times what it is of; `scale` unless given.
    """
    out = scale if out is None else out
    device = sae.W_dec.device

    def reconstruct(x: Tensor) -> Tensor:
        pieces = (x.to(device, torch.float32) * scale).split(rows_at_once(sae.d_sae))
        x_hat = torch.cat([sae.decode(sae.encode(piece)) for piece in pieces]) / out
        return x_hat.to(x)

    return reconstruct


def memory(s: Shapes, *, encode_copies: int) -> Iterator[Component]:
    """Yields the matching with true features, codes of held-out rows, and cosines of features."""
    d_sae, size, measuring = s.config.sae.d_sae, "--sae.d-sae", ("encoding to measure",)
    cells = n_true(s.config) * d_sae
    if cells:
        yield Component("decoder in float64", 2 * s.matrix, ("matching",), size, "host")
        cosines = (2 * DOUBLE + 3) * cells  # and a copy that is checked
        yield Component("cosines with true features", cosines, ("matching",), size, "host")
    held_out = min(s.config.eval_samples, rows_at_once(d_sae), BLOCK_ROWS)
    codes = FLOAT * held_out * d_sae
    copies = encode_copies + (s.config.eval_samples > held_out)  # those of the piece before
    yield Component("a block of held-out data", block_bytes(s), measuring, "", "host")
    yield Component("codes in the making", copies * codes, measuring, size)
    yield Component("measured codes", codes, between("encoding to measure", "geometry"), size)
    yield Component("which codes are finite", 2 * codes, ("measuring",), size)
    tile = min(COSINES_AT_ONCE, d_sae) ** 2
    yield Component("unit rows", s.matrix, ("geometry",), size)
    yield Component("cosines of a tile", (FLOAT + DOUBLE + 1) * tile, ("geometry",), "")
