"""The constraint in SAELens (6 or later): its training SAEs, whatever trains them.

A training SAE computes its whole loss in `training_forward_pass`, term by term in a dictionary that
its trainer logs; here it gets one more term. Runner, trainer and configuration are unchanged.
"""

from __future__ import annotations

from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.constraint.every_process import Scope
from topk_ortho.constraint.orthogonality import Orthogonality
from topk_ortho.constraint.settings import OrthogonalityConfig, decided_by

LOSS_NAME = "orthogonality_loss"


def attach(
    sae: Any,
    config: OrthogonalityConfig | None = None,
    *,
    process_group: Any = None,
    scope: Scope = "global",
) -> Orthogonality:
    """Add the penalty to the losses of `sae`, as `losses["orthogonality_loss"]`.

    Args:
        sae: any `TrainingSAE` that decodes non-negative codes with `W_dec` `[d_sae, d_in]`.
        config: the settings; SAELens does not pass the number of steps, so `steps` should be given.
        process_group, scope: of `Orthogonality`, for a loop in several processes.

    Returns:
        The penalty, also at `sae.orthogonality`: selection, firing rates, history.

    Raises:
        ConfigError: not a training SAE, or one that has the constraint already.

    Example:
        >>> sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=64, d_sae=512, k=8))
        >>> attach(sae, OrthogonalityConfig(steps=10_000))
        >>> LanguageModelSAETrainingRunner(cfg, override_sae=sae).run()
    """
    if not hasattr(sae, "training_forward_pass") or not hasattr(sae, "W_dec"):
        raise ConfigError(
            f"a {type(sae).__name__} was given, but a training SAE of SAELens (6 or later) was "
            "expected; make one, such as TopKTrainingSAE, and pass it to the runner as "
            "override_sae."
        )
    if hasattr(sae, "orthogonality"):
        raise ConfigError(
            "an SAE was given that has the constraint already; attach it once, before training."
        )
    orthogonality = Orthogonality(
        _settings(sae.cfg, config or OrthogonalityConfig()),
        process_group=process_group,
        scope=scope,
    )
    without = sae.training_forward_pass

    def training_forward_pass(step_input: Any) -> Any:
        output = without(step_input)
        penalty = orthogonality(
            output.feature_acts, sae.W_dec, step_input.n_training_steps, target=output.sae_in
        )
        output.losses[LOSS_NAME] = penalty
        output.loss = output.loss + penalty
        return output

    sae.training_forward_pass = training_forward_pass
    sae.orthogonality = orthogonality
    return orthogonality


def _settings(cfg: Any, config: OrthogonalityConfig) -> OrthogonalityConfig:
    # The reconstruction loss adds up the errors of all widths (Matryoshka).
    widths = getattr(cfg, "matryoshka_widths", None) or [cfg.d_sae]
    # Their codes have the norms of the decoder rows in them, and decoding takes them out.
    rescaled = getattr(cfg, "rescale_acts_by_decoder_norm", False)
    return decided_by(
        "SAELens", config, decoder="rows", unit_codes=rescaled, error_weight=float(len(widths))
    )
