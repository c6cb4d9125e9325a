"""Cross-entropy and KL of a language model's logits, summed over chosen positions."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, tokens: Tensor, counted: Tensor) -> float:
    """Sum of -log p(next token) over `counted` `[batch, position - 1]`; one context at a time."""
    total = 0.0
    for row, ids, on in zip(logits, tokens.to(logits.device), counted, strict=True):
        log_p = row[:-1][on.to(row.device)].float().log_softmax(dim=-1)
        ids = ids[1:][on.to(row.device), None]
        total -= float(log_p.gather(-1, ids).sum(dtype=torch.float64))
    return total


def kl_divergence(original: Tensor, spliced: Tensor, keep: Tensor) -> float:
    """Sum of KL(original || spliced) over `keep` `[batch, position]`; one context at a time."""
    total = 0.0
    for row, other, on in zip(original, spliced, keep.to(original.device), strict=True):
        log_p = row[on].float().log_softmax(dim=-1)
        log_q = other[on].float().log_softmax(dim=-1)
        total += float((log_p.exp() * (log_p - log_q)).sum(dtype=torch.float64))
    return total
