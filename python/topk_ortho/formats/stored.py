"""A trained SAE from disk, whatever layout it came in, and the changes that keep its codes.

Codes are `relu(pre) * (pre > threshold)`, `relu(pre)`, or the relu of the k largest of `pre`, with
`pre = (x - b_dec) @ W_enc + b_enc`; the reconstruction is `codes @ W_dec + b_dec`. A transcoder
takes nothing off, `pre = x @ W_enc + b_enc`, and reconstructs other activations. What other layouts
store differently is brought to this form in float64 and rounded once.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.config.registry import ARCHITECTURES

EVEN = 0.01
"""Decoder norms that differ by no more than this share count as equal: bfloat16 rounds by .004."""


@dataclass(frozen=True)
class StoredSAE:
    """One SAE in the units of its model.

    Attributes:
        layout: `saelens`, `dictionary-learning` or `sparsify`, where it came from.
        kind: one of our architectures.
        k: features that fire on a row: exactly for `topk`, on average for the others; None where
            the layout does not say.
        W_enc: `[d_in, d_sae]`.
        b_enc: `[d_sae]`.
        W_dec: `[d_sae, d_out]`.
        b_dec: `[d_out]`.
        threshold: `[d_sae]` for `jumprelu`, `batch-topk` and `matryoshka`, otherwise None.
        prefixes: of `matryoshka`, empty where they are not known.
        hook: hook point as TransformerLens names it, empty where it is not known.
        model: the model's name, empty where it is not known.
        context: tokens of a context, None where it is not known.
        prepend_bos: whether contexts begin with BOS, None where it is not known.
        processing: settings by which its activations differ from those of a model here, such as
            `model_from_pretrained_kwargs.center_writing_weights = True`.
        settings: the configuration file as it was read.
        transcoder: whether it reconstructs other activations than it reads.
        hook_out: their hook point, empty where it is not known.
    """

    layout: str
    kind: str
    k: float | None
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    prefixes: tuple[int, ...] = ()
    hook: str = ""
    model: str = ""
    context: int | None = None
    prepend_bos: bool | None = None
    processing: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    transcoder: bool = False
    hook_out: str = ""

    @property
    def d_in(self) -> int:
        return len(self.W_enc)

    @property
    def d_out(self) -> int:
        return len(self.b_dec)

    @property
    def d_sae(self) -> int:
        return len(self.b_enc)

    @property
    def dtype(self) -> str:
        """Of the stored weights, such as `float32`."""
        return str(self.W_enc.dtype).removeprefix("torch.")

    def check_unprocessed(self, where: object, *, insist: bool = False) -> None:
        """Refuse a model's unprocessed activations where the SAE expects processed ones.

        Args:
            where: the SAE's folder, for the message.
            insist: warn in place of refusing.

        Raises:
            ConfigError: its metadata says so; the message names every such setting.
        """
        if not self.processing:
            return
        said = (
            f"the SAE of {where} says {', '.join(self.processing)}, but a language model's "
            "activations are not processed like that here, and would differ"
        )
        if not insist:
            raise ConfigError(f"{said}; store them as it expects them, and give them with --data.")
        warnings.warn(f"{said}; it is measured on them anyway.", stacklevel=2)

    def check_no_transcoder(self, where: object, *, command: str) -> None:
        """Refuse a transcoder where only an SAE can be used.

        Args:
            where: its folder, for the message.
            command: what refuses it.

        Raises:
            ConfigError: it is one.
        """
        if self.transcoder:
            raise ConfigError(
                f"{where} was given, but it is a transcoder, which reconstructs "
                f"{self.hook_out or 'other activations'} from {self.hook or 'what it reads'}, and "
                f"{command} takes SAEs alone; measure it with topk-ortho evaluate."
            )

    def scaled(self, scale: float, *, out: float | None = None) -> StoredSAE:
        """Returns the SAE of activations `scale` times as large; its codes are scaled with what it
        reconstructs, which becomes `out` times as large, unless given the same."""
        ratio, scale = (1.0, scale) if out is None else (out / scale, out)

        def times(tensor: torch.Tensor) -> torch.Tensor:
            return _rounded(tensor.double() * scale, tensor)

        return replace(
            self,
            W_enc=self.W_enc if ratio == 1 else _rounded(self.W_enc.double() * ratio, self.W_enc),
            b_enc=times(self.b_enc),
            b_dec=times(self.b_dec),
            threshold=None if self.threshold is None else times(self.threshold),
        )

    def unit_rows(self) -> StoredSAE:
        """Returns the SAE with unit decoder rows: the norm goes into `pre` and threshold.

        Every feature fires where it fired, with the same reconstruction, unless the k largest are
        kept and the norms differ.

        Raises:
            ConfigError: then the k largest would be others.
        """
        norm = self.W_dec.double().norm(dim=1)
        norm = torch.where(norm > 0, norm, 1.0)
        if ARCHITECTURES[self.kind].ranks_features:
            least, most = float(norm.min()), float(norm.max())
            if most > least * (1 + EVEN):
                raise ConfigError(
                    f"the decoder rows of this {self.kind} SAE have norms from {least:.4g} to "
                    f"{most:.4g}, but training keeps unit rows, and the k largest pre-activations "
                    "would be others with them; train it with unit decoder rows."
                )
        tensors = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec}
        if self.threshold is not None:
            tensors["threshold"] = self.threshold
        unit = folded_norms(tensors, norm)
        return replace(
            self,
            W_enc=unit["W_enc"],
            b_enc=unit["b_enc"],
            W_dec=unit["W_dec"],
            threshold=unit.get("threshold"),
        )


def folded_norms(tensors: Mapping[str, Tensor], norm: Tensor) -> dict[str, Tensor]:
    """`W_enc`, `b_enc` and `threshold` times the decoder's `norm` `[d_sae]`, `W_dec` divided by it.

    A tensor that is not there is left out, and others are left alone.
    """
    times = {"W_enc": norm, "b_enc": norm, "threshold": norm, "W_dec": 1 / norm[:, None]}
    return {
        name: _rounded(tensors[name].double() * factor, tensors[name])
        for name, factor in times.items()
        if name in tensors
    }


def of_one_dtype(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All in the widest dtype among them."""
    widest = functools.reduce(torch.promote_types, (t.dtype for t in tensors.values()))
    return {name: tensor.to(widest) for name, tensor in tensors.items()}


def without_centring(W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
    """Returns `b_enc` of an encoder that does not take `b_dec` off, from one that does."""
    return _rounded(b_enc.double() - b_dec.double() @ W_enc.double(), b_enc)


def with_centring(W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
    """Returns `b_enc` of an encoder that takes `b_dec` off, from one that does not."""
    return _rounded(b_enc.double() + b_dec.double() @ W_enc.double(), b_enc)


def learned(threshold: Tensor) -> bool:
    """Returns whether each feature has its own threshold, as in JumpReLU; BatchTopK shares one."""
    return bool((threshold != threshold[0]).any())


def _rounded(value: Tensor, like: Tensor) -> Tensor:
    """In the dtype of what it was computed from, and at least in float32."""
    return value.to(torch.promote_types(like.dtype, torch.float32))
