"""The constraint in sparsify (`eai-sparsify` on PyPI): its trainer's SAEs and transcoders.

Its trainer takes the loss from what an SAE's forward pass returns, where `fvu` is the squared error
in variances of the data. The penalty travels with `fvu` as a gradient alone: the number that is
logged, and that decides which checkpoint is the best, stays bit for bit what it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.config.penalty import pair_weight
from topk_ortho.constraint.every_process import Scope
from topk_ortho.constraint.orthogonality import Orthogonality
from topk_ortho.constraint.settings import OrthogonalityConfig, decided_by
from topk_ortho.integrations.watch import watching
from topk_ortho.sparse.codes import Codes


def attach(trainer: Any, config: OrthogonalityConfig | None = None) -> dict[str, Orthogonality]:
    """Add the penalty to the loss of every SAE of a trainer, before its `fit`.

    Steps, gradient accumulation and micro-batches are the trainer's own. In several processes pairs
    are those of all rows, except with `distribute_modules`, where each process has SAEs of its own.

    Args:
        trainer: a `sparsify.Trainer`, with `loss_fn="fvu"`.
        config: the settings.

    Returns:
        The penalty of each SAE, by its name in `trainer.saes`: selection, firing rates, history.

    Raises:
        ConfigError: not such a trainer, another loss, or the constraint is there already.

    Example:
        >>> trainer = Trainer(TrainConfig(SaeConfig(k=16)), dataset, model)
        >>> attach(trainer, OrthogonalityConfig())
        >>> trainer.fit()
    """
    if not hasattr(trainer, "saes") or not hasattr(trainer, "global_step"):
        raise ConfigError(
            f"a {type(trainer).__name__} was given, but a sparsify.Trainer was expected; attach to "
            "the trainer, which knows the number of steps, and not to one of its SAEs."
        )
    if trainer.cfg.loss_fn != "fvu":
        raise ConfigError(
            f"loss_fn={trainer.cfg.loss_fn!r} was given, but the penalty counts in variances of "
            'the data, as "fvu" does; train with loss_fn="fvu".'
        )
    if any("forward" in vars(sae) for sae in trainer.saes.values()):
        raise ConfigError(
            "a trainer was given whose SAEs have the constraint already; attach it once."
        )
    given = config or OrthogonalityConfig()
    return {name: _attach(sae, trainer, given) for name, sae in trainer.saes.items()}


def _attach(sae: Any, trainer: Any, config: OrthogonalityConfig) -> Orthogonality:
    cfg = trainer.cfg
    scope: Scope = "local" if getattr(cfg, "distribute_modules", False) else "global"
    orthogonality = Orthogonality(_settings(trainer, config), scope=scope)
    without = sae.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        seen: list[Any] = []
        with watching(sae, encode=lambda _, result: seen.append(result)):
            out = without(*arguments, **named)
        top = seen[-1]
        acts = Codes.of_top(top.top_acts, top.top_indices, d_sae=sae.num_latents)
        step = trainer.global_step // cfg.grad_acc_steps
        penalty = orthogonality(acts, sae.W_dec, step)
        return out._replace(fvu=out.fvu + (penalty - penalty.detach()))

    sae.forward = forward
    return orthogonality


def _settings(trainer: Any, config: OrthogonalityConfig) -> OrthogonalityConfig:
    cfg = trainer.cfg
    if (weight := pair_weight(config.pairs, config.penalty)) != "one":
        raise ConfigError(
            f"criterion {config.pairs.criterion} with pair weight {weight} was given, but weights "
            "by activity are in units of the data, and sparsify's loss is in units of a variance "
            "that it does not pass on; take another criterion, or dictionary_learning or SAELens."
        )
    batches = len(trainer.dataset) // cfg.batch_size
    return decided_by(
        "sparsify",
        replace(config, steps=config.steps or max(1, batches // cfg.grad_acc_steps)),
        decoder="rows",
        unit_codes=cfg.sae.normalize_decoder and not cfg.sae.transcode,
        micro_batches=cfg.grad_acc_steps * cfg.micro_acc_steps,
        variance=1.0,
        # The chunks of a batch add up to its fvu, and are divided by their number after that.
        error_weight=1 / cfg.micro_acc_steps,
    )
