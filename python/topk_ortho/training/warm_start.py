"""A run that starts from a trained SAE (`init_from`) in place of a fresh one.

Its configuration takes architecture, `d_sae`, `k` and prefixes from that SAE (`fine_tuning`), and
its state the weights and all that follows from them (`start_from`). The SAE is in the units of the
model; a run scales its activations, and `b_enc`, `b_dec` and thresholds with them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from topk_ortho import formats
from topk_ortho.activations.scaling import sampled
from topk_ortho.config import ConfigError, SAEConfig, TrainConfig
from topk_ortho.formats.load import fill
from topk_ortho.formats.origin import same_hook
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.machine.phases import phase
from topk_ortho.training.state import TrainState

ROWS = 8192
"""Activations that the first firing rates are measured on."""
TAKEN = ("kind", "d_sae", "k", "prefixes")


def fine_tuning(config: TrainConfig, *, given: Collection[str] = ()) -> TrainConfig:
    """Returns the configuration completed from the SAE of `init_from`; unchanged without one.

    Args:
        config: settings of `sae` that are as by default are taken from the SAE.
        given: options that were set explicitly, such as `sae.d-sae`.

    Raises:
        ConfigError: a setting contradicts the SAE, the SAE does not say its `k` and no other was
            given, or it is not the one of `init_sha256`.
    """
    if config.init_from is None:
        return config
    stored, digest = _read(config), _checked_digest(config)
    if config.activations == "language-model":
        stored.check_unprocessed(config.init_from)
    check_kind(config, stored)
    _same_hook(config, stored)
    taken = {name: _taken(config, stored, name, given) for name in TAKEN}
    return replace(config, init_sha256=digest, sae=replace(config.sae, **taken))


def start_from(state: TrainState) -> None:
    """Load the SAE of `init_from` into a fresh state.

    `b_dec` is the SAE's, not the mean of the data. Firing rates, which decide whose row moves, are
    measured on the first activations. The sparsity coefficient is the one at which the SAE is in
    balance, where its architecture knows it, so that L0 does not wander until the coefficient has
    settled; else it starts as in any run. What is calibrated at the end of any run is here too.

    Raises:
        ConfigError: the SAE is gone or another one, or of another width than the data.
    """
    config = state.config
    _checked_digest(config)
    stored = _read(config)
    check_width(config, stored, d_in=state.sae.d_in, d_out=state.sae.d_out)
    target = state.data.target
    out = None if target is None else target.scale
    fill(state.sae, stored.unit_rows().scaled(state.data.scale, out=out))
    state.sae.normalise_decoder_()
    with phase("measuring firing rates"):
        sample, x = sampled(state.data.source, rows=ROWS)
        batches = _batches(state, x)
        _measure_rates(state, batches)
        targets = sample.targets(state.data.source)
        also = () if targets is None else (_batches(state, targets),)
        balanced = state.sae.balanced_coefficient(batches, *also)
    state.sparsity_coefficient = balanced or state.sparsity_coefficient


def check_kind(config: TrainConfig, stored: StoredSAE) -> None:
    """Refuse a transcoder to start an SAE from, and the other way round.

    Raises:
        ConfigError: they are not of one kind.
    """
    if stored.transcoder and not config.hook_out:
        raise ConfigError(
            f"--init-from {config.init_from} was given, but it is a transcoder, and no --hook-out "
            f"was given for it to reconstruct; add --hook-out {stored.hook_out or 'NAME'}."
        )
    if config.hook_out and not stored.transcoder:
        raise ConfigError(
            f"--hook-out {config.hook_out} was given, but the SAE of {config.init_from} is no "
            "transcoder; leave --hook-out or --init-from out."
        )


def check_width(
    config: TrainConfig, stored: StoredSAE, *, d_in: int, d_out: int | None = None
) -> None:
    """Refuse an SAE of another width than the data; `d_out` is `d_in` unless given.

    Raises:
        ConfigError: the widths differ.
    """
    theirs, ours = (stored.d_in, stored.d_out), (d_in, d_in if d_out is None else d_out)
    if theirs != ours:
        side = int(stored.d_in == d_in)
        raise ConfigError(
            f"--init-from {config.init_from} was given, but its SAE "
            f"{'gives' if side else 'takes'} activations of width "
            f"{theirs[side]}, and the data has width {ours[side]}; give the hook point or the "
            "shards that it was trained on."
        )


def _batches(state: TrainState, rows: Tensor) -> tuple[Tensor, ...]:
    return rows[:ROWS].to(state.firing.rate.device).split(state.config.batch_size)


@torch.no_grad()
def _measure_rates(state: TrainState, batches: Sequence[Tensor]) -> None:
    counts = torch.zeros_like(state.firing.rate)
    rows = active = 0
    for x in batches:
        codes = state.sae.training_pass(x).codes
        counts += codes.counts()
        rows, active = rows + codes.batch, active + codes.active
    state.firing.update(counts, batch=rows)
    state.firing.silent.zero_()  # these were no steps
    state.density = active / (rows * state.sae.d_sae)


def _read(config: TrainConfig) -> StoredSAE:
    assert config.init_from is not None
    return formats.read(config.init_from, allow_pickle=config.allow_pickle)


def _checked_digest(config: TrainConfig) -> str:
    """Returns the sha256 of the SAE in `init_from`, which has to be the one of `init_sha256`."""
    assert config.init_from is not None
    digest = formats.digest(config.init_from)
    if config.init_sha256 not in (None, digest):
        raise ConfigError(
            f"--init-from {config.init_from} was given, but the SAE there is not the one that this "
            f"configuration was made for (its sha256 is {digest[:12]}..., expected "
            f"{config.init_sha256[:12]}...); give the folder of that one, or start a new run."
        )
    return digest


def _same_hook(config: TrainConfig, stored: StoredSAE) -> None:
    if config.activations != "language-model":
        return
    for option, does, own, theirs in (
        ("hook", "reads", config.hook, stored.hook),
        ("hook-out", "reconstructs", config.hook_out, stored.hook_out),
    ):
        if theirs and not same_hook(own, theirs):
            raise ConfigError(
                f"--{option} {own} was given, but the SAE of {config.init_from} {does} "
                f"{theirs}; give that hook point."
            )


def _taken(config: TrainConfig, stored: StoredSAE, name: str, given: Collection[str]) -> Any:
    """Returns one setting of the SAE, which the configuration may not contradict."""
    option = name.replace("_", "-")
    own, theirs = getattr(config.sae, name), getattr(stored, name)
    is_given = f"sae.{option}" in given or own != getattr(SAEConfig(), name)
    if name == "k" and theirs is None:
        if is_given:
            return own
        raise ConfigError(
            f"--init-from {config.init_from} was given, but its files do not say how many features "
            "fire on average; add --sae.k, the mean L0 to keep (topk-ortho repair measures it)."
        )
    if name == "prefixes" and not theirs:
        return own
    theirs = float(theirs) if name == "k" else theirs
    if is_given and own != theirs:
        shown = [" ".join(map(str, v)) if isinstance(v, tuple) else v for v in (own, theirs)]
        raise ConfigError(
            f"--sae.{option} {shown[0]} was given, but the SAE of {config.init_from} has "
            f"{shown[1]}; leave the option out."
        )
    return theirs
