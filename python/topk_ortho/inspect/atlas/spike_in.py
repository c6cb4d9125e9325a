"""How good the rules are on the user's own activations, where some features of them are known.

Hierarchies are planted in the activations, and confounds beside them (`activations/confounds.py`);
an SAE like the one that is looked at is trained on them briefly, and the rules look at it. What of
the planted hierarchies they find there, and how much of what they find is planted, stands beside
the edges of the user's SAE, in place of a p-value that nobody knows how to compute.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from topk_ortho.activations import prepare
from topk_ortho.activations.confounds import ConfoundedSource
from topk_ortho.activations.plant import PlantedSource
from topk_ortho.activations.scaling import ScaledSource, first_rows, total_variance
from topk_ortho.config import ConfigError, PairsConfig, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.formats.load import load_sae
from topk_ortho.inspect.atlas.measure import Atlas, look
from topk_ortho.inspect.evaluate.data import Measurable
from topk_ortho.inspect.evaluate.opening import Opened
from topk_ortho.training import train


def spike_in(found: Opened, seen: Atlas, *, steps: int, samples: int) -> dict[str, Any]:
    """Returns precision and recall of the rules on planted features, by tier.

    Args:
        found: the SAE that was looked at, and its data.
        seen: what was found on it; its L0 is the trained SAE's target, and its settings are used.
        steps: of the training.
        samples: activations to look at.

    Raises:
        ConfigError: data in which features are known already.
    """
    if found.data.source.truth is not None:
        raise ConfigError(
            "--spike-in was given, but the features of this data are known, and precision and "
            "recall are in the table of the known truth; leave --spike-in out."
        )
    config = _training(found, l0=seen.figures["l0"], steps=steps)
    plain = replace(config, plant=replace(config.plant, enabled=False))
    prepared = prepare(plain, device=str(found.device))
    variance = prepared.variance
    planted = PlantedSource(prepared.source, config.plant, variance=variance, seed=config.seed)
    magnitude = config.plant.magnitude * variance**0.5
    source = ConfoundedSource(planted, magnitude=magnitude, seed=config.seed)
    x = first_rows(source)
    data = replace(
        prepared, source=source, variance=total_variance(x), mean=x.double().mean(0).float()
    )
    with TemporaryDirectory() as folder:
        run = train(config, Path(folder) / "run", data=data, progress=False)
        sae = load_sae(Path(folder) / "run").to(found.device)
    held_out = Measurable(ScaledSource(source, 1 / prepared.scale), None, ("eval",))
    result = look(
        found._replace(module=sae, data=held_out), "spike-in", samples=samples,
        least_z=seen.settings["least_z"], neighbours=None,
    )  # fmt: skip
    assert result.truth is not None
    return {
        "steps": steps,
        "rows": result.rows,
        "explained_variance": result.figures["explained_variance"],
        "l0": result.figures["l0"],
        "excess": run.get("excess"),
        "tiers": result.truth["tiers"],
    }


def _training(found: Opened, *, l0: float, steps: int) -> TrainConfig:
    config, module = found.asked.config, found.module
    k: float = max(1.0, l0)
    if type(module).whole_k:
        k = float(round(k))
    sae = replace(config.sae, kind=module.config.kind, d_sae=module.d_sae, k=k)
    if module.config.prefixes:
        sae = replace(sae, prefixes=module.config.prefixes)
    return check(replace(
        config, sae=sae, steps=steps, pairs=PairsConfig(criterion="none"), with_baseline=False,
        log_to=(), plant=replace(config.plant, enabled=True), device=str(found.device),
    ))  # fmt: skip
