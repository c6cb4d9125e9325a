"""Everything that must survive a restart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations import Activations, ShuffleBuffer
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.constraint.firing import Firing
from topk_ortho.constraint.history import PairHistory
from topk_ortho.constraint.selection import PairSelection
from topk_ortho.constraint.selection.retry import is_out_of_memory
from topk_ortho.sae import SAE, build
from topk_ortho.sae.sae import SPARSE_DENSITY
from topk_ortho.training.constraint import Constraint
from topk_ortho.training.optimizer import Adam

_NOT_OURS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""All that a whole checkpoint with something else in it may raise."""
RUNNING = ("rate", "silent", "threshold", "energy")  # tensors of `Firing`


@dataclass
class TrainState:
    """One run between two steps.

    Attributes:
        step: steps executed.
        sparsity_coefficient: of the sparsity term, 0 for architectures without one.
        density: share of active entries in the codes of the step before.
        data: activations, with the scale and variance that were measured once.
    """

    config: TrainConfig
    sae: SAE
    optimizer: Adam
    buffer: ShuffleBuffer
    data: Activations
    firing: Firing
    constraint: Constraint | None
    step: int
    sparsity_coefficient: float
    density: float

    @classmethod
    def fresh(cls, config: TrainConfig, data: Activations, device: torch.device) -> TrainState:
        """Step 0 of a run: the same weights and data order for every arm of a seed."""
        sae = build(config.sae, d_in=data.source.d_in, seed=config.seed).to(device)
        with torch.no_grad():
            sae.b_dec.copy_(data.mean)
        sae.start(variance=data.variance)
        optimizer = Adam(sae.named_parameters(), betas=(config.beta1, config.beta2))
        return cls(
            config=config,
            sae=sae,
            optimizer=optimizer,
            buffer=ShuffleBuffer(
                data.source,
                batch_size=config.batch_size,
                rows=config.buffer_rows,
                seed=config.seed,
            ),
            data=data,
            firing=Firing.zeros(config.sae.d_sae, device),
            constraint=Constraint(config, variance=data.variance) if config.constrained else None,
            step=0,
            density=sae.first_density(config.sae),
            sparsity_coefficient=sae.first_coefficient(data.variance),
        )

    @property
    def sparse(self) -> bool:
        """Whether the next step takes the sparse path: few active entries, on CPU."""
        few = self.density < SPARSE_DENSITY and self.firing.rate.device.type == "cpu"
        return few and self.sae.has_sparse_path()

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint, by name."""
        out = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        out |= {f"adam.{name}": value for name, value in self.optimizer.tensors().items()}
        out |= {f"firing.{name}": getattr(self.firing, name) for name in RUNNING}
        if self.constraint is not None and self.constraint.selection is not None:
            selection = self.constraint.selection
            out |= {f"selection.{key}": getattr(selection, key) for key in ("i", "j", "score")}
            if self.constraint.ema is not None:
                out["selection.ema"] = self.constraint.ema
        return out

    def numbers(self) -> dict[str, Any]:
        """Everything else of a checkpoint but the history, as JSON."""
        out: dict[str, Any] = {
            "step": self.step,
            "sparsity_weight": self.sparsity_coefficient,  # its name in the format
            "density": self.density,
            "firing_started": self.firing.started,
            "cursor": self.buffer.state_dict(),
            "scale": self.data.scale,
            "variance": self.data.variance,
        }
        if self.constraint is not None and self.constraint.selection is not None:
            s = self.constraint.selection
            out["selection"] = {
                "selected_at": self.constraint.selected_at,
                "requested": s.requested,
                "positive": s.positive,
                "unsupported": s.unsupported,
                "path": s.path,
                "repeats": s.repeats,
                "blocks": s.blocks,
                "largest_block": s.largest_block,
            }
        return out

    def settled_history(self) -> PairHistory | None:
        """The pair history with every selection so far in it."""
        return self.constraint.settled_history() if self.constraint else None

    def history(self) -> bytes | None:
        """Its bytes."""
        history = self.settled_history()
        return history.to_bytes() if history is not None else None

    def restore(
        self, tensors: dict[str, Tensor], numbers: dict[str, Any], history: bytes | None
    ) -> None:
        """Go to a stored state of the same configuration.

        Raises:
            ConfigError: the checkpoint has other parts or shapes, or was trained on other data.
        """
        try:
            self._restore(tensors, numbers, history)
        except ConfigError:
            raise
        except _NOT_OURS as error:
            if is_out_of_memory(error):
                raise
            raise ConfigError(
                "the checkpoint is whole, but it does not hold the state of this configuration "
                f"({type(error).__name__}: {error}); remove it to go on from the one before."
            ) from error

    def _restore(
        self, tensors: dict[str, Tensor], numbers: dict[str, Any], history: bytes | None
    ) -> None:
        for name, value in (("scale", self.data.scale), ("variance", self.data.variance)):
            if not math.isclose(value, numbers[name], rel_tol=1e-6):
                raise ConfigError(
                    f"the data has {name} {value:.6g}, but the checkpoint's data had "
                    f"{numbers[name]:.6g}; resume with the files, model and text of the run."
                )
        names = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        for name, value in names.items():
            stored = tensors.get(name)
            if stored is None or stored.shape != value.shape:
                raise ConfigError(
                    f"the checkpoint's {name} is {None if stored is None else list(stored.shape)}, "
                    f"but {list(value.shape)} was expected; resume with the run's own config.toml."
                )
        self.sae.load_state_dict({name[4:]: tensors[name] for name in names})
        moments = {k.removeprefix("adam."): v for k, v in tensors.items() if k.startswith("adam.")}
        self.optimizer.load(moments)
        for name in RUNNING:
            getattr(self.firing, name).copy_(tensors[f"firing.{name}"])
        self.firing.started = numbers["firing_started"]
        self.step = _whole(numbers["step"])
        self.sparsity_coefficient = float(numbers["sparsity_weight"])
        self.density = float(numbers["density"])
        self.buffer.load_state_dict(numbers["cursor"])
        if self.constraint is not None:
            self._restore_constraint(self.constraint, tensors, numbers, history)

    def _restore_constraint(
        self,
        constraint: Constraint,
        tensors: dict[str, Tensor],
        numbers: dict[str, Any],
        history: bytes | None,
    ) -> None:
        if history is not None:
            constraint.start_history(PairHistory.from_bytes(history))
        if "selection" in numbers:
            stored = dict(numbers["selection"])
            constraint.selected_at = _whole(stored.pop("selected_at"))
            device = self.firing.rate.device
            i, j, score = (tensors[f"selection.{key}"].to(device) for key in ("i", "j", "score"))
            features, d_sae = torch.cat([i, j]), self.config.sae.d_sae
            if len(features) and not 0 <= int(features.min()) <= int(features.max()) < d_sae:
                raise ValueError(f"pairs of other features than the {d_sae}")
            constraint.selection = PairSelection(i, j, score, **stored)
            ema = tensors.get("selection.ema")
            constraint.ema = None if ema is None else ema.to(device)


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no number of a step")
    return number
