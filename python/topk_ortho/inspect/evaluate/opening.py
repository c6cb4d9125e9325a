"""An SAE opened beside the activations that it is looked at on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from topk_ortho import formats
from topk_ortho.activations.same_data import other_data
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.formats.load import as_module
from topk_ortho.formats.origin import check_origin
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.inspect.evaluate.asked import Asked, run_config, understand
from topk_ortho.inspect.evaluate.data import Measurable, measurable
from topk_ortho.inspect.left_out import norm_limit
from topk_ortho.machine import hardware
from topk_ortho.sae import SAE


class Opened(NamedTuple):
    """An SAE and its data.

    Attributes:
        stored: the SAE as its files have it.
        module: the same as a module, on `device`, in the units of the model.
        named: what its files say it is of, by `model`, `hook` and `hook_out`.
        asked: the data as it was asked for.
        data: the activations, in the units of the model.
        device: where to measure.
    """

    stored: StoredSAE
    module: SAE
    named: dict[str, str]
    asked: Asked
    data: Measurable
    device: torch.device


def opened(
    sae: Path,
    given: Mapping[str, Any],
    *,
    split: Literal["auto", "eval", "all"] = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    allow_mismatch: bool = False,
    no_transcoder: str = "",
) -> Opened:
    """Returns an SAE and its data.

    Args:
        sae: a run folder, or the folder of an SAE.
        given: settings of the data, by their names as options; those of a run's own data unless
            given.
        split: the part of the data, as `understand` has it.
        device: where to measure.
        allow_pickle: open an SAE of dictionary_learning.
        allow_mismatch: go on even though the SAE names another model or hook point.
        no_transcoder: the command that has no use for a transcoder, if it has none.

    Raises:
        ConfigError: no such SAE, or data that cannot be used or does not fit it.
    """
    stored = formats.read(sae, allow_pickle=allow_pickle)
    if no_transcoder:
        stored.check_no_transcoder(sae, command=no_transcoder)
    module = as_module(stored)
    named = {"model": stored.model, "hook": stored.hook}
    named |= {"hook_out": stored.hook_out} if stored.transcoder else {}
    asked = understand(sae, given, split=split, device=device, named=named)
    _check_held_out(asked)
    check_origin(sae=sae, named=named, given=_given(asked.config), insist=allow_mismatch)
    if asked.config.activations == "language-model":
        stored.check_unprocessed(sae, insist=allow_mismatch)
    where = hardware.choose_device(device)
    limit = None if "max-norm" in given else norm_limit(sae)
    data = measurable(asked.config, split=asked.split, device=str(where), norm_limit=limit)
    check_origin(sae=sae, named=named, given=data.origin, insist=allow_mismatch)
    return Opened(stored, module.to(where), named, asked, data, where)


def _given(config: TrainConfig) -> dict[str, str]:
    """Model and hook point of the activations, before a model is loaded for them."""
    model = config.activations == "language-model"
    names = ("model", "hook", "hook_out")
    return {name: getattr(config, name) for name in names} if model else {}


def _check_held_out(asked: Asked) -> None:
    """Refuse to call a part of a run's data held out once its files have changed.

    Raises:
        ConfigError: the files have changed, and no split was given.
    """
    run = run_config(asked.sae) if asked.held_out else None
    if run is None:
        return
    if changed := other_data(asked.sae, replace(asked.config, model=run.model)):
        raise ConfigError(
            f"{asked.sae} was given, but {changed} is not what it was when the run was trained, "
            "so that no part of the data is known to be held out; restore it, or give --split all."
        )
