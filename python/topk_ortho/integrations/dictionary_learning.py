"""The constraint in dictionary_learning: a subclass of any of its trainers.

Its trainers compute their loss in `loss`, which returns a number but not the codes. These are seen
where they pass: what `encode` returns, or what is given to `decode` where `loss` encodes by itself.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.constraint.every_process import Scope
from topk_ortho.constraint.orthogonality import Orthogonality
from topk_ortho.constraint.settings import OrthogonalityConfig, decided_by
from topk_ortho.integrations.watch import watching
from topk_ortho.sparse.codes import Codes


def with_orthogonality(
    trainer: Any,
    config: OrthogonalityConfig | None = None,
    *,
    process_group: Any = None,
    scope: Scope = "global",
) -> type:
    """Returns a subclass of `trainer` whose loss includes the penalty.

    Its log is unchanged but for `orthogonality_loss`, which is added; its `config` names
    the settings. The number of steps is the trainer's own.

    Args:
        trainer: a trainer class of dictionary_learning, such as `TopKTrainer`.
        config, process_group, scope: of `Orthogonality`.

    Raises:
        ConfigError: not a class with `loss` and `update`.

    Example:
        >>> Trainer = with_orthogonality(TopKTrainer, OrthogonalityConfig())
        >>> trainSAE(data, [{"trainer": Trainer, ...}], steps=10_000)
    """
    if not isinstance(trainer, type) or not {"loss", "update"} <= set(dir(trainer)):
        raise ConfigError(
            f"{trainer!r} was given, but a trainer class of dictionary_learning, with `loss` and "
            "`update`, was expected; pass the class itself, such as TopKTrainer."
        )

    class Constrained(trainer):
        def __init__(self, *arguments: Any, **named: Any):
            super().__init__(*arguments, **named)
            settings = _settings(self, config or OrthogonalityConfig())
            self.orthogonality = Orthogonality(settings, process_group=process_group, scope=scope)
            self.orthogonality_loss: Tensor | float = 0.0
            self.logging_parameters.append("orthogonality_loss")

        def loss(self, x: Tensor, step: int, logging: bool = False, **named: Any) -> Any:
            if logging or not torch.is_grad_enabled():
                return super().loss(x, step=step, logging=logging, **named)
            encoded: list[Any] = []
            decoded: list[Tensor] = []
            with watching(
                self.ae,
                encode=lambda _, result: encoded.append(result),
                decode=lambda arguments, _: decoded.append(arguments[0]),
            ):
                total = super().loss(x, step=step, **named)
            live = self.orthogonality.pair_weights.moves_activations
            acts = _codes(self.ae, encoded, decoded, live=live)
            penalty = self.orthogonality(acts, _decoder(self.ae), step, target=x)
            self.orthogonality_loss = penalty.detach()
            return total + penalty

        @property
        def config(self) -> dict[str, Any]:
            return {**super().config, "orthogonality": asdict(self.orthogonality.config)}

    Constrained.__name__ = Constrained.__qualname__ = f"Orthogonal{trainer.__name__}"
    return Constrained


def _codes(ae: Any, encoded: list[Any], decoded: list[Tensor], *, live: bool) -> Tensor | Codes:
    """The codes of a pass, from where they are cheapest to read; `live`: with their gradient."""
    if not encoded:
        # JumpReLU, whose threshold may become negative and let negative values through.
        return decoded[-1].relu()
    result = encoded[-1]
    if (
        isinstance(result, tuple) and len(result) == 4 and not live
    ):  # TopK: (acts, values, features, pre)
        return Codes.of_top(result[1], result[2], d_sae=ae.dict_size)
    return result[0] if isinstance(result, tuple) else result


def _decoder(ae: Any) -> Tensor:
    """`[dict_size, activation_dim]` where it is a parameter, the transpose where it is a layer."""
    return ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight


def _settings(trainer: Any, config: OrthogonalityConfig) -> OrthogonalityConfig:
    # Matryoshka takes the mean over groups of their weighted errors.
    weights = getattr(trainer, "group_weights", None) or [1.0]
    return decided_by(
        "dictionary_learning",
        replace(config, steps=config.steps or getattr(trainer, "steps", None)),
        decoder="rows" if hasattr(trainer.ae, "W_dec") else "columns",
        error_weight=sum(weights) / len(weights),
    )
