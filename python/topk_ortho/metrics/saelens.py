"""The metrics of SAELens' `run_evals` (sae_lens 6, `evals.py`) that are defined differently.

- `mse` is summed over `d_in` there (our `l2`), and per dimension here.
- `explained_variance_legacy` is the mean over tokens of 1 - error / squared distance to the mean of
  the token's batch of prompts; there is none here.
- `relative_reconstruction_bias` is the mean over batches of prompts there, here over all tokens.
- Ablation sets every position to zero there, and every one but BOS here.
- Cross-entropy counts predictions of BOS there, and leaves them out here.

Everything else has the same definition there and other names. `run_evals` leaves out the positions
of the tokenizer's special tokens, which in packed contexts are those of BOS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from topk_ortho.metrics.losses import cross_entropy, kl_divergence

PROMPTS = 16
"""Prompts of a batch, as SAELens' own command has them; two of its metrics depend on it."""


class RunEvalsLosses:
    """Cross-entropy and KL as `run_evals` counts them; each a sum over what was added."""

    def __init__(self) -> None:
        self._ce = dict.fromkeys(("with_sae", "without_sae", "with_ablation"), 0.0)
        self._kl = dict.fromkeys(("with_sae", "with_ablation"), 0.0)
        self._predictions = self._positions = 0

    def add(
        self, arm: str, original: Tensor, spliced: Tensor, *, tokens: Tensor, keep: Tensor
    ) -> None:
        """Take in a batch of one arm.

        Args:
            arm: `with_sae`, or `with_ablation`.
            original: `[batch, position, d_vocab]`, the model's logits.
            spliced: the same with the hook replaced.
            tokens: `[batch, position]` int64.
            keep: `[batch, position]` bool, not a special token.
        """
        counted = keep[:, :-1]
        self._ce[arm] += cross_entropy(spliced, tokens, counted)
        self._kl[arm] += kl_divergence(original, spliced, keep)
        if arm == "with_sae":
            self._ce["without_sae"] += cross_entropy(original, tokens, counted)
            self._predictions += int(counted.sum())
            self._positions += int(keep.sum())

    def result(self) -> dict[str, dict[str, float | None]]:
        """Returns two groups of `run_evals`; a score is None where the ablation changes nothing."""
        kl = {name: total / self._positions for name, total in self._kl.items()}
        ce = {name: total / self._predictions for name, total in self._ce.items()}
        kl_gap = kl["with_ablation"]
        ce_gap = ce["with_ablation"] - ce["without_sae"]
        return {
            "model_behavior_preservation": {
                "kl_div_score": (kl_gap - kl["with_sae"]) / kl_gap if kl_gap else None,
                **{f"kl_div_{name}": value for name, value in kl.items()},
            },
            "model_performance_preservation": {
                "ce_loss_score": (ce["with_ablation"] - ce["with_sae"]) / ce_gap
                if ce_gap
                else None,
                **{f"ce_loss_{name}": value for name, value in ce.items()},
            },
        }


class RunEvalsRows:
    """The metrics of `run_evals` that are taken per batch of prompts, from `x` and `x_hat`."""

    def __init__(self) -> None:
        self._legacy = self._norm_in = self._norm_out = 0.0
        self._biases: list[float] = []
        self._rows = 0

    @torch.no_grad()
    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Take in one batch of prompts.

        Args:
            x: `[rows, d_in]`, the activations of its tokens but the special ones.
            x_hat: `[rows, d_in]`, their reconstruction.
        """
        x, x_hat = x.double(), x_hat.double()
        error = (x - x_hat).square().sum(1)
        distance = (x - x.mean(0)).square().sum(1)
        self._legacy += (1 - error / distance).sum().item()
        self._norm_in += x.norm(dim=1).sum().item()
        self._norm_out += x_hat.norm(dim=1).sum().item()
        bias = x_hat.square().sum(1).mean() / (x * x_hat).sum(1).mean()
        self._biases.append(bias.item())
        self._rows += len(x)

    def result(self, metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
        """Returns three groups of `run_evals`.

        Args:
            metrics: `Reconstruction.result()` over the same rows.
        """
        bias = sum(self._biases) / len(self._biases)  # 0 / 0 where nothing is reconstructed
        legacy = self._legacy / self._rows  # a batch of one row has no variance
        return {
            "reconstruction_quality": {
                "explained_variance": metrics["explained_variance"],
                "explained_variance_legacy": legacy if math.isfinite(legacy) else None,
                "mse": metrics["l2"],
                "cossim": metrics["cosine_similarity"],
            },
            "shrinkage": {
                "l2_norm_in": self._norm_in / self._rows,
                "l2_norm_out": self._norm_out / self._rows,
                "l2_ratio": metrics["l2_ratio"],
                "relative_reconstruction_bias": bias if math.isfinite(bias) else None,
            },
            "sparsity": {"l0": metrics["l0"], "l1": metrics["l1"]},
        }
