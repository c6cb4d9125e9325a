"""The figures at the end of a run, on held-out activations (method 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topk_ortho.activations import Activations, Block, ShuffleBuffer, Source
from topk_ortho.metrics.behaviour import behaviour
from topk_ortho.metrics.ground_truth import GroundTruthMeter
from topk_ortho.metrics.reconstruction import Reconstruction, decoder_geometry
from topk_ortho.sae import SAE
from topk_ortho.sae.batch_topk import BatchTopKSAE

if TYPE_CHECKING:
    from topk_ortho.activations.language_model import LanguageModelSource

CALIBRATION_ROWS = 65_536
EVAL_BATCH = 2048
BEHAVIOUR_CONTEXTS = 128


@torch.no_grad()
def calibrate_threshold(sae: SAE, fresh: ShuffleBuffer) -> None:
    """Set the inference threshold of BatchTopK so that mean L0 on fresh data is k (method 5)."""
    if not isinstance(sae, BatchTopKSAE):
        return
    device = sae.threshold.device
    batches = max(1, CALIBRATION_ROWS // fresh.batch_size)
    wanted = max(1, round(sae.config.k * batches * fresh.batch_size))
    largest = []
    for _ in range(batches):
        pre = torch.relu(sae.pre_acts(fresh.next().to(device))).flatten()
        share = min(pre.numel(), max(2, round(4 * sae.config.k * fresh.batch_size)))
        largest.append(pre.topk(share, sorted=False).values)
    ordered = torch.cat(largest).sort(descending=True).values
    wanted = min(wanted, ordered.numel() - 1)
    sae.threshold.copy_((ordered[wanted - 1] + ordered[wanted]) / 2)


@torch.no_grad()
def evaluate(sae: SAE, data: Activations, *, samples: int) -> dict[str, Any]:
    """Reconstruction, sparsity, geometry, ground truth and behaviour as one flat dict."""
    device = sae.W_dec.device
    reconstruction = Reconstruction(sae.d_in, sae.d_sae)
    truth = data.source.truth
    meter = None
    if truth is not None:
        meter = GroundTruthMeter(
            truth.directions, truth.parent, W_dec=sae.W_dec.cpu(), W_enc=sae.W_enc.cpu()
        )
    for block in eval_blocks(data.source, samples):
        x = block.x.to(device)
        acts = sae.encode(x)
        reconstruction.update(x, sae.decode(acts), acts)
        if meter is not None and block.fired is not None:
            meter.update(block.fired, acts.cpu())
    out = reconstruction.result() | decoder_geometry(sae.W_dec)
    if meter is not None:
        out |= meter.result().summary()
    if data.language is not None and truth is None:
        out |= _behaviour(sae, data.language, data.scale)
    return out


def eval_blocks(source: Source, samples: int) -> Iterator[Block]:
    """Held-out blocks, cut into pieces of `EVAL_BATCH`, until there are `samples` rows."""
    index, limit, left = 0, source.n_blocks("eval"), samples
    while left > 0 and (limit is None or index < limit):
        block = source.block(index, "eval")
        for start in range(0, min(len(block.x), left), EVAL_BATCH):
            stop = min(start + EVAL_BATCH, start + left)
            fired = None if block.fired is None else block.fired[start:stop]
            piece = Block(block.x[start:stop], fired)
            yield piece
            left -= len(piece.x)
        index += 1


def _behaviour(sae: SAE, language: LanguageModelSource, scale: float) -> dict[str, float | None]:
    device = sae.W_dec.device

    def reconstruct(x: Tensor) -> Tensor:
        x_hat = sae.decode(sae.encode(x.to(device, torch.float32) * scale)) / scale
        return x_hat.to(x)

    contexts = language.contexts("eval")[:BEHAVIOUR_CONTEXTS]
    return behaviour(language.model, contexts, language.hook, reconstruct)
