"""The part that all architectures share: weights, decoding, and decoder rows of unit norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from topk_ortho.config import ConfigError, SAEConfig
from topk_ortho.distributed.world import World
from topk_ortho.machine.forecast import Component, Shapes
from topk_ortho.sae.memory import passes
from topk_ortho.sae.prefilter import Prefilter
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.products import Decode, Encode
from topk_ortho.sparse.scale import unit_rows_

Inference = Literal["topk", "relu", "threshold"]
"""Rule for codes outside training: the k largest of a row, all that are positive, or all
that exceed a threshold."""


class Forward(NamedTuple):
    """One training pass over a batch, as `SAE.training_pass` returns it.

    Attributes:
        pre: `[batch, d_sae]` encoder pre-activations; without a gradient on the sparse path, and
            approximate ones in bfloat16 where they were prefiltered.
        code: the code that gradients go through: `[batch, d_sae]`, or on the sparse path `[nnz]`
            in the order of `codes`.
        codes: its active entries, detached.
        x_hat: reconstructions, each `[batch, d_out]`; the last one is the SAE's, Matryoshka puts
            those of its shorter prefixes before.
    """

    pre: Tensor
    code: Tensor
    codes: Codes
    x_hat: tuple[Tensor, ...]


# Below this share of active entries the sparse path is the faster one.
SPARSE_DENSITY = 0.02


class SAE(nn.Module):
    """A sparse autoencoder with unit decoder rows, or a transcoder; a subclass is an architecture.

    With `d_out` it is a transcoder, whose reconstruction is of other activations than it reads. A
    subclass has to define `activate`, and may override what else is its own: the methods and
    class attributes up to `forward`. Nothing outside asks which architecture it is.

    Attributes:
        name: what `--sae.kind` calls it, lower-case words joined by hyphens.
        inference: the rule for codes outside training, which file formats store.
        whole_k: whether k has to be a whole number.
        ranks_features: whether features compete for their place in a code, so that the norms of
            decoder rows matter to which of them win.
        learns_thresholds: whether thresholds are trained like weights.
        fixed_entries: whether `active` names as many entries on every batch, `k` of each row where
            it is whole.
        encode_copies: matrices `[rows, d_sae]` that `encode` holds at once.
        d_in: width of what is read.
        d_out: width of what is reconstructed.
        transcoder: whether that is something else than what is read.
        W_enc: `[d_in, d_sae]`, the decoder's transpose at the start; of a transcoder, at random.
        b_enc: `[d_sae]`.
        W_dec: `[d_sae, d_out]`.
        b_dec: `[d_out]`.
        b_in: `[d_in]`, what a transcoder takes off its input, the mean at the start and not
            trained; None for an SAE, which takes `b_dec` off.
    """

    name: ClassVar[str]
    inference: ClassVar[Inference] = "relu"
    whole_k: ClassVar[bool] = False
    ranks_features: ClassVar[bool] = False
    learns_thresholds: ClassVar[bool] = False
    fixed_entries: ClassVar[bool] = False
    encode_copies: ClassVar[int] = 3
    b_in: Tensor | None

    def __init__(self, config: SAEConfig, *, d_in: int, seed: int, d_out: int | None = None):
        super().__init__()
        self.config = config
        self.d_in, self.d_sae = d_in, config.d_sae
        self.d_out, self.transcoder = d_in if d_out is None else d_out, d_out is not None
        generator = torch.Generator().manual_seed(seed)
        self.W_dec = nn.Parameter(_unit_rows(self.d_sae, self.d_out, generator))
        rows = self.W_dec.detach().clone()
        if self.transcoder:
            rows = _unit_rows(self.d_sae, d_in, generator)
        encoder = rows.T  # a feature's weights lie side by side
        sparse = self.expects_sparse(config)
        self.W_enc = nn.Parameter(encoder if sparse else encoder.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.register_buffer("b_in", torch.zeros(d_in) if self.transcoder else None)

    def extra_repr(self) -> str:
        """Returns the sizes that `repr` shows."""
        width = f", d_out={self.d_out}" if self.transcoder else ""
        k: float | None = self.config.k  # None where the files of a trained SAE do not say
        return f"d_in={self.d_in}{width}, d_sae={self.d_sae}, k={k if k is None else f'{k:g}'}"

    @classmethod
    def check(cls, config: SAEConfig) -> None:
        """Refuse settings that this architecture does not support.

        Raises:
            ConfigError: what was given, what was expected, and what to do.
        """
        if config.bf16_prefilter and cls.prefiltered is SAE.prefiltered:
            raise ConfigError(
                f"--sae.bf16-prefilter was given with --sae.kind {config.kind}, but this "
                "architecture computes all pre-activations in float32; leave --sae.bf16-prefilter "
                "out."
            )

    @classmethod
    def has_sparse_path(cls) -> bool:
        """Returns whether steps with few active entries can do without dense gradients.

        The entries that `active` names have to be those of `activate`, and their codes `pre`.
        """
        return cls.active is not SAE.active

    @classmethod
    def first_l0(cls, config: SAEConfig) -> float:
        """Returns about how many features fire on a row at the first step."""
        return config.k

    @classmethod
    def first_density(cls, config: SAEConfig) -> float:
        """Returns the share of active entries by which the first step is sparse or, at 1, not."""
        return config.k / config.d_sae

    @classmethod
    def expects_sparse(cls, config: SAEConfig) -> bool:
        """Returns whether the target L0 makes the sparse path the faster one."""
        k: float | None = config.k  # None where the files of a trained SAE do not say
        return cls.has_sparse_path() and k is not None and k < SPARSE_DENSITY * config.d_sae

    @property
    def k(self) -> float:
        """Returns the mean L0 that training aims at.

        Raises:
            ConfigError: the files that the SAE was loaded from do not say.
        """
        k: float | None = self.config.k
        if k is None:
            raise ConfigError(
                f"the training pass of this {self.config.kind} SAE was asked for, but it needs k, "
                "which the files that it was loaded from do not say; take sae.encode(x), which "
                "needs none, or train from it with --init-from and --sae.k."
            )
        return k

    @classmethod
    def memory(cls, s: Shapes) -> Iterator[Component]:
        """Yields what weights and a training pass hold, for the forecast of a run."""
        yield from passes(s)

    @classmethod
    def calibration_memory(cls, s: Shapes, *, rows: int, piece: int) -> Iterator[Component]:
        """Yields what `calibrate` holds on `rows` rows, `piece` of them at once."""
        yield from ()

    @property
    def centre(self) -> Tensor:
        """Returns `[d_in]`, what the encoder takes off its input."""
        return self.b_dec if self.b_in is None else self.b_in

    @torch.no_grad()
    def centre_(self, *, mean: Tensor, target: Tensor) -> None:
        """Start at the mean of the data: `mean` `[d_in]` and, of what is reconstructed, `target`
        `[d_out]`."""
        self.b_dec.copy_(target)
        if self.b_in is not None:
            self.b_in.copy_(mean)

    def start(self, *, variance: float) -> None:
        """Adapt a fresh SAE to input of total `variance`, before the first step."""

    def share(self, world: World, *, batch: int) -> None:
        """Have later training passes take some rows of a batch, and other processes the others.

        Args:
            world: the processes.
            batch: rows of all of them together.

        Raises:
            ConfigError: a setting that several processes cannot share.
        """

    def first_coefficient(self, variance: float) -> float:
        """Returns the coefficient of `sparsity` at the first step, on data of which what is
        reconstructed has a total `variance`.

        0 for an architecture without such a term; any other is steered until mean L0 is k.
        """
        return 0.0

    def balanced_coefficient(
        self, batches: Sequence[Tensor], targets: Sequence[Tensor] | None = None
    ) -> float | None:
        """Returns the `sparsity` coefficient that keeps a trained SAE in balance; None if unknown.

        Args:
            batches: each `[batch, d_in]`, in the SAE's units.
            targets: each `[batch, d_out]`, what is reconstructed from them; the same
                unless given.
        """
        return None

    def sparsity(self, out: Forward) -> Tensor:
        """Returns the sparsity term of a pass: L1 norm of the code, mean over the batch."""
        return out.code.sum(1).mean() if out.code.dim() == 2 else out.code.sum() / out.codes.batch

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set what affects codes only outside training, on fresh activations.

        Args:
            batches: each `[rows, d_in]`, few enough rows to be encoded at once; not consumed by
                an architecture that needs no calibration.
        """

    def activate(self, pre: Tensor) -> Tensor:
        """Returns the training code of `pre` `[batch, d_sae]`, never negative."""
        raise NotImplementedError

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `(row, feature)` `[nnz]` of the entries that `activate` keeps, in row order."""
        raise NotImplementedError

    def prefiltered(self, prefilter: Prefilter) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `(row, feature, pre-activation)` `[nnz]`, from an approximate product."""
        raise NotImplementedError

    def inference_code(self, pre: Tensor) -> Tensor:
        """The code of `pre` outside training; the same unless an architecture says otherwise."""
        return self.activate(pre)

    def reconstructions(self, acts: Tensor) -> tuple[Tensor, ...]:
        """Returns the reconstructions that the loss is taken on, the SAE's own last."""
        return (self.decode(acts),)

    def sparse_reconstructions(
        self, value: Tensor, codes: Codes, pre: Tensor
    ) -> tuple[Tensor, ...]:
        """The same from the active entries alone; `value` `[nnz]` carries the gradient."""
        decoded = Decode.apply(value, self.W_dec, codes.crow, codes.row, codes.col)
        return (decoded + self.b_dec,)

    def thresholds(self) -> Tensor | None:
        """Returns `[d_sae]`, thresholds of `pre` outside training; None where there are none."""
        return None

    def load_thresholds_(self, threshold: Tensor) -> None:
        """Copy `thresholds` `[d_sae]` from a trained SAE."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the reconstruction of `x` `[batch, d_in]`, `[batch, d_out]`.

        In eval mode, in which `load_sae` returns an SAE, it is `decode(encode(x))`; in training
        mode it is that of the training pass, whose codes `training_pass(x)` returns beside it.

        Args:
            x: `[batch, d_in]`.

        Raises:
            ConfigError: in training mode, where the pass needs k and the files of a loaded SAE do
                not say it.
        """
        if self.training:
            return self.training_pass(x).x_hat[-1]
        return self.decode(self.encode(x))

    def training_pass(self, x: Tensor, *, sparse: bool = False) -> Forward:
        """Returns pre-activations, codes and reconstructions of `x` `[batch, d_in]` in training.

        Args:
            x: `[batch, d_in]`.
            sparse: take the sparse path, on which gradients go through the active entries alone.

        Raises:
            ConfigError: it needs k, which the files of a loaded SAE do not say.
        """
        if not sparse:
            pre = self.pre_acts(x)
            if pre.is_cuda and self.fixed_entries:
                return self._in_slots(pre)
            acts = self.activate(pre)
            row, col = acts.detach().nonzero(as_tuple=True)
            value = acts.detach()[row, col]
            codes = Codes.from_entries(row, col, value, batch=len(x), d_sae=self.d_sae)
            return Forward(pre, acts, codes, self.reconstructions(acts))
        with torch.no_grad():
            pre, row, col, at = self._sparse_pre_acts(x)
            keep = ~(at <= 0)  # a NaN stays, and stops the run
            if not bool(keep.all()):
                row, col, at = row[keep], col[keep], at[keep]
        value = Encode.apply(x, self.centre, self.W_enc, self.b_enc, at, row, col)
        codes = Codes.from_entries(row, col, value.detach(), batch=len(x), d_sae=self.d_sae)
        return Forward(pre, value, codes, self.sparse_reconstructions(value, codes, pre))

    def _in_slots(self, pre: Tensor) -> Forward:
        """The same on a GPU, from as many entries on every batch: the host need not count them."""
        batch = len(pre)
        row, col = self.active(pre.detach())
        place = row * self.d_sae + col
        value = torch.relu(pre.flatten().gather(0, place))
        acts = torch.zeros_like(pre).flatten().scatter(0, place, value).view_as(pre)
        per_row = int(self.k) if self.whole_k else None
        codes = Codes.in_slots(
            row, col, value.detach(), batch=batch, d_sae=self.d_sae, per_row=per_row
        )
        return Forward(pre, acts, codes, self.reconstructions(acts))

    def pre_acts(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Returns `(x - centre) @ W_enc + b_enc`, `[batch, d_sae]`, or of some `features` only."""
        if features is None:
            return torch.addmm(self.b_enc, x - self.centre, self.W_enc)
        return torch.addmm(self.b_enc[features], x - self.centre, self.W_enc[:, features])

    def encode(self, x: Tensor) -> Tensor:
        """Returns the code of `x` `[batch, d_in]` outside training, `[batch, d_sae]`."""
        return self.inference_code(self.pre_acts(x))

    def decode(self, acts: Tensor) -> Tensor:
        """Returns `acts @ W_dec + b_dec`, `[batch, d_out]`."""
        return torch.addmm(self.b_dec, acts, self.W_dec)

    def _sparse_pre_acts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pre-activations `[batch, d_sae]`; row, feature and value `[nnz]` of the active ones."""
        if self.config.bf16_prefilter:
            prefilter = Prefilter.of(x - self.centre, self.W_enc.T.contiguous(), self.b_enc)
            return prefilter.approximate, *self.prefiltered(prefilter)
        pre = self.pre_acts(x)
        row, col = self.active(pre)
        return pre, row, col, pre[row, col]

    @torch.no_grad()
    def remove_parallel_gradient_(self) -> None:
        """Remove the component along each decoder row from its gradient."""
        grad = self.W_dec.grad
        if grad is not None:
            grad.addcmul_(self.W_dec, (grad * self.W_dec).sum(1, keepdim=True), value=-1)

    @torch.no_grad()
    def normalise_decoder_(self) -> None:
        """Bring decoder rows of any norm back to unit norm; a row of zeros stays."""
        unit_rows_(self.W_dec)


def _unit_rows(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Returns `[n, d]` in directions at random."""
    rows = torch.randn(n, d, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)
