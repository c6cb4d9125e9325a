"""The inputs that a selection may use; each criterion names those that it needs (`INPUTS`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from topk_ortho.constraint.criteria.cosine import Cosine
from topk_ortho.sparse.codes import Codes


@dataclass(frozen=True)
class SelectorInputs:
    """One batch as a criterion sees it.

    Attributes:
        codes: the batch's codes.
        memory_budget: bytes for temporaries.
        W_dec: `[d_sae, d_in]`.
        W_enc: `[d_in, d_sae]`.
        x: `[batch, d_in]`, activations minus `b_dec`.
        pre: `[batch, d_sae]`, encoder pre-activations.
        gradient: `dL_rec/df`, `[batch, d_sae]`, or `[nnz]` in the order of the codes' entries.
        threshold: `[d_sae]`, each feature's firing threshold θ.
        energy: `[d_sae]`, moving average of `Σ_b g_bi²`.
        given: `[k, 2]` int64, the list of pairs that the selector was given.
    """

    codes: Codes
    memory_budget: int
    W_dec: Tensor | None = None
    W_enc: Tensor | None = None
    x: Tensor | None = None
    pre: Tensor | None = None
    gradient: Tensor | None = None
    threshold: Tensor | None = None
    energy: Tensor | None = None
    given: Tensor | None = None

    def need(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """Returns one of the tensors, detached.

        Raises:
            ValueError: it is missing, or has another shape (None stands for any size).
        """
        tensor = getattr(self, name)
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        if tensor is None:
            raise ValueError(
                f"no {name} was given, but this criterion needs it; pass {name}=... of shape "
                f"[{wanted}]."
            )
        fits = tensor.dim() == len(shape) and all(
            size is None or size == given for size, given in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{name} of shape {list(tensor.shape)} was given, but [{wanted}] was expected; "
                "transpose it if its sides are swapped."
            )
        return tensor.detach()

    @cached_property
    def decoder(self) -> Cosine:
        """Returns the cosines of decoder rows."""
        W_dec = self.need("W_dec", (self.codes.d_sae, None))
        return Cosine(W_dec, memory_budget=self.memory_budget)

    @cached_property
    def encoder(self) -> Cosine:
        """Returns the cosines of encoder columns."""
        W_enc = self.need("W_enc", (None, self.codes.d_sae))
        return Cosine(W_enc.T, memory_budget=self.memory_budget)

    @cached_property
    def entry_gradient(self) -> Tensor:
        """Returns the `[nnz]` gradient on the active entries."""
        codes = self.codes
        if self.gradient is not None and self.gradient.dim() == 1:
            return self.need("gradient", (codes.nnz,))
        return self.need("gradient", (codes.batch, codes.d_sae))[codes.row, codes.col]
