"""The metrics of an SAE before and after a repair, on the same held-out activations."""

from __future__ import annotations

from typing import Any

import torch

from topk_ortho.activations import Activations
from topk_ortho.formats.load import as_module
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.metrics.suppression import MeanActivation, Suppression
from topk_ortho.sae import SAE
from topk_ortho.training.evaluation import eval_blocks, evaluate, rows_at_once


def figures(
    stored: StoredSAE, data: Activations, *, samples: int, device: torch.device
) -> dict[str, Any]:
    """Returns the metrics of `result.json` that need no training, and `suppressed_pairs`.

    Args:
        stored: in the units of the model.
        data: scaled; the SAE is scaled with it.
        samples: held-out activations.
        device: where the SAE runs.
    """
    sae = as_module(stored.scaled(data.scale)).to(device)
    out = dict(evaluate(sae, data, samples=samples).figures)
    out.pop("counts")
    return out | {"suppressed_pairs": suppressed_pairs(sae, data, samples=samples)}


@torch.no_grad()
def suppressed_pairs(sae: SAE, data: Activations, *, samples: int) -> int:
    """Returns how many pairs are suppressed (`metrics/suppression.py`)."""
    rows, device = rows_at_once(sae.d_sae), sae.W_dec.device
    mean = MeanActivation(sae.d_sae, device)
    for block in eval_blocks(data.source, samples, rows=rows):
        mean.update(sae.encode(block.x.to(device)))
    meter = Suppression(sae.W_dec.detach(), sae.b_dec.detach(), mean.result())
    for block in eval_blocks(data.source, samples, rows=rows):
        x = block.x.to(device)
        meter.update(x, sae.encode(x))
    return len(meter.pairs())


@torch.no_grad()
def mean_l0(stored: StoredSAE, data: Activations, *, samples: int) -> float:
    """Returns the mean L0 on held-out activations, rounded to three digits."""
    sae = as_module(stored.scaled(data.scale))
    active = seen = 0
    for block in eval_blocks(data.source, samples, rows=rows_at_once(sae.d_sae)):
        active += int((sae.encode(block.x.cpu()) > 0).sum())
        seen += len(block.x)
    return float(f"{active / max(seen, 1):.3g}")
