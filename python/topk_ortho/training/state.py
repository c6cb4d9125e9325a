"""The state of a run: everything that must survive a restart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations import Activations, ShuffleBuffer
from topk_ortho.activations.divided import DividedBuffer
from topk_ortho.activations.memory import prefetches
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.constraint.criteria import INPUTS
from topk_ortho.constraint.firing import Firing
from topk_ortho.constraint.history import PairHistory
from topk_ortho.constraint.orthogonality import RUNNING, Orthogonality
from topk_ortho.constraint.selection.retry import is_out_of_memory
from topk_ortho.constraint.settings import OrthogonalityConfig
from topk_ortho.distributed.gradients import Bucket
from topk_ortho.distributed.world import ALONE, World
from topk_ortho.machine.transfer import Transfer
from topk_ortho.sae import SAE, build
from topk_ortho.sae.sae import SPARSE_DENSITY
from topk_ortho.training.finite import Unread
from topk_ortho.training.optimizer import Adam

_NOT_OURS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that an intact checkpoint with other contents may raise."""


@dataclass
class TrainState:
    """One run between two steps.

    Attributes:
        step: steps executed.
        sparsity_coefficient: of the sparsity term, 0 for architectures without one.
        density: share of active entries in the codes of the step before.
        transfer: copies to the host that no step waits for.
        unread: the step before, where the host has not read yet whether it was finite.
        world: the processes that train it; every one of them has the same state.
        bucket: the gradients of several processes.
        data: activations, with the scale and variance that were measured once.
    """

    config: TrainConfig
    sae: SAE
    optimizer: Adam
    buffer: ShuffleBuffer
    data: Activations
    firing: Firing
    constraint: Orthogonality | None
    step: int
    sparsity_coefficient: float
    density: float
    transfer: Transfer = field(default_factory=Transfer)
    unread: Unread | None = None
    world: World = ALONE
    bucket: Bucket | None = None

    @classmethod
    def fresh(
        cls,
        config: TrainConfig,
        data: Activations,
        device: torch.device,
        *,
        buffer: ShuffleBuffer | None = None,
        world: World = ALONE,
    ) -> TrainState:
        """Returns step 0 of a run: the same weights and data order for every arm of a seed.

        Args:
            config: what to train.
            data: what to train on.
            device: where.
            buffer: batches that runs side by side share; its own unless given.
            world: the processes that train it.
        """
        out, d_in = data.reconstructed, data.source.d_in
        sae = build(config.sae, d_in=d_in, d_out=data.d_out, seed=config.seed).to(device)
        sae.centre_(mean=data.mean, target=out.mean)
        sae.start(variance=data.variance)
        optimizer = Adam(sae.named_parameters(), betas=(config.beta1, config.beta2))
        return cls(
            config=config,
            sae=sae,
            optimizer=optimizer,
            buffer=shuffled(config, data, device, world) if buffer is None else buffer,
            data=data,
            firing=Firing.zeros(config.sae.d_sae, device),
            constraint=_constraint(config, data),
            step=0,
            density=sae.first_density(config.sae),
            sparsity_coefficient=sae.first_coefficient(out.variance),
            world=world,
            bucket=Bucket(sae.parameters()) if world.shared else None,
        )

    @property
    def sparse(self) -> bool:
        """Returns whether the next step takes the sparse path: few active entries, on CPU."""
        few = self.density < SPARSE_DENSITY and self.firing.rate.device.type == "cpu"
        return few and self.sae.has_sparse_path()

    def close(self) -> None:
        """End the history's thread."""
        if self.constraint is not None:
            self.constraint.close()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of a checkpoint, by name."""
        out = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        out |= {f"adam.{name}": value for name, value in self.optimizer.tensors().items()}
        out |= {f"firing.{name}": getattr(self.firing, name) for name in RUNNING}
        stored = self._stored_constraint()
        out |= {name: value for name, value in stored.items() if isinstance(value, Tensor)}
        return out

    def numbers(self) -> dict[str, Any]:
        """Returns everything else in a checkpoint but the history, as JSON."""
        out: dict[str, Any] = {
            "step": self.step,
            "sparsity_weight": self.sparsity_coefficient,  # its name in the format
            "density": self.density,
            "firing_started": self.firing.started,
            "cursor": self.buffer.state_dict(),
            "scale": self.data.scale,
            "variance": self.data.variance,
            **self._of_the_target(),
        }
        selection = {
            name.removeprefix("selection."): value
            for name, value in self._stored_constraint().items()
            if not isinstance(value, Tensor)
        }
        return out | ({"selection": selection} if selection else {})

    def _of_the_target(self) -> dict[str, float]:
        """Scale and variance of what a transcoder reconstructs."""
        target = self.data.target
        if target is None:
            return {}
        return {"target_scale": target.scale, "target_variance": target.variance}

    def _stored_constraint(self) -> dict[str, Any]:
        """`selection.` tensors and numbers; firing rates and variance are the run's own."""
        return {} if self.constraint is None else self.constraint.state_dict(history=False)

    def settled_history(self) -> PairHistory | None:
        """Returns the pair history with every selection so far in it."""
        return self.constraint.history if self.constraint else None

    def history(self) -> bytes | None:
        """Its bytes."""
        history = self.settled_history()
        return history.to_bytes() if history is not None else None

    def restore(
        self, tensors: dict[str, Tensor], numbers: dict[str, Any], history: bytes | None
    ) -> None:
        """Restore a stored state of the same configuration.

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
                f"({type(error).__name__}: {error}); remove it to resume from the one before."
            ) from error

    def _restore(
        self, tensors: dict[str, Tensor], numbers: dict[str, Any], history: bytes | None
    ) -> None:
        measured = {"scale": self.data.scale, "variance": self.data.variance}
        for name, value in (measured | self._of_the_target()).items():
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
        self.firing.counted = self.unread = None
        self.step = _whole(numbers["step"])
        self.sparsity_coefficient = float(numbers["sparsity_weight"])
        self.density = float(numbers["density"])
        self.buffer.load_state_dict(numbers["cursor"])
        if self.constraint is not None:
            if history is not None:
                self.constraint.start_history(PairHistory.from_bytes(history))
            chosen: dict[str, Any] = numbers.get("selection", {})
            state: dict[str, Any] = {f"selection.{name}": n for name, n in chosen.items()}
            if chosen:
                state |= {n: t for n, t in tensors.items() if n.startswith("selection.")}
            d_sae, device = self.config.sae.d_sae, self.firing.rate.device
            self.constraint.load_state_dict(state, d_sae=d_sae, device=device)


def shuffled(
    config: TrainConfig, data: Activations, device: torch.device, world: World = ALONE
) -> ShuffleBuffer:
    """Returns the batches of a run, or this process's rows of them."""
    seed = config.seed if config.data_seed is None else config.data_seed
    if world.shared:
        return DividedBuffer(
            data.source,
            batch_size=config.batch_size,
            rows=config.buffer_rows,
            seed=seed,
            world=world,
        )
    return ShuffleBuffer(
        data.source,
        batch_size=config.batch_size,
        rows=config.buffer_rows,
        seed=seed,
        prefetch=prefetches(config, gpu=device.type != "cpu"),
    )


def _constraint(config: TrainConfig, data: Activations) -> Orthogonality | None:
    """Returns the constraint of a run, which passes all that a criterion may need."""
    if not config.constrained:
        return None
    settings = OrthogonalityConfig(
        pairs=config.pairs,
        penalty=config.penalty,
        history=config.history,
        seed=config.seed,
        steps=config.steps,
        variance=data.reconstructed.variance,
        decoder="rows",
        unit_codes=True,
        inputs=tuple(INPUTS),
        track_every=config.log_every,
    )
    return Orthogonality(settings)


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is not the number of a step")
    return number
