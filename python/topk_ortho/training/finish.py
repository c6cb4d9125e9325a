"""The end of a run: the SAE exported, measured on held-out activations, and written down."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from topk_ortho.constraint.history.figures import stability_figures
from topk_ortho.formats import saelens
from topk_ortho.formats.stored import without_centring
from topk_ortho.machine.phases import phase
from topk_ortho.metrics.features import feature_table
from topk_ortho.sae import SAE
from topk_ortho.training import evaluation
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.state import TrainState

OF_SELECTION = (
    "selection_budget", "selection_blocks", "selection_largest_block", "jaccard", "stable_share",
    "pairs_overlapping", "pairs_features", "living_features",
)  # fmt: skip
"""Entries of the last selection that a result keeps."""


def finish(
    folder: RunFolder, state: TrainState, *, spent: dict[str, Any], selected: dict[str, Any]
) -> dict[str, Any]:
    """Calibrate, export and measure the SAE of a state that was trained to its end.

    Args:
        folder: everything is written there, `result.json` last.
        state: its threshold becomes the calibrated one.
        spent: the time that its steps took, by the names of `result.json`.
        selected: the latest selection, by the names of the log.

    Returns:
        The contents of `result.json`.
    """
    config = state.config
    if state.step == 0:
        raise RuntimeError("0 steps executed, but a run has to train; see --steps.")
    with phase("calibrating thresholds"):
        language = state.data.language
        model = None if language is None else language.model
        needed = evaluation.calibration_rows(config.sae.d_sae, config.batch_size, model=model)
        fresh = state.buffer.fork(rows=None if model is None else needed)  # a model costs time
        evaluation.calibrate(state.sae, fresh, model=model)
    with phase("saving the SAE"):
        _export(folder, state)
    rows = config.eval_samples
    meters = evaluation.Meters(state.sae, state.data.source.truth)
    with phase("measuring on held-out activations", total=rows) as shown:
        figures, truth = evaluation.evaluate(
            state.sae, state.data, samples=rows, contexts=0, progress=shown.advance, meters=meters
        )
    if contexts := evaluation.scored_contexts(state.data, config.eval_contexts):
        with phase("measuring the model's losses", total=contexts, unit="contexts") as shown:
            figures |= evaluation.score(state.sae, state.data, contexts, progress=shown.advance)
    folder.write_bytes("features.json", _features(state, meters))
    if truth is not None:
        folder.write_json("ground_truth.json", truth.table())
    history = state.settled_history()
    if history is not None:
        folder.write_bytes("history.bin", history.to_bytes())
        folder.write_json("stability.json", stability_figures(history))
    result = (
        {"steps": state.step}
        | spent
        | {
            "seed": config.seed,
            "criterion": config.pairs.criterion,
            "coefficient": config.coefficient() if config.constrained else 0.0,
            "variance": state.data.variance,
            "scale": state.data.scale,
        }
        | _of_the_target(state)
        | ({"left_out": dict(state.data.left_out)} if state.data.left_out else {})
        | {name: selected[name] for name in OF_SELECTION if selected.get(name) is not None}
        | figures
    )
    folder.write_json("result.json", result)
    return result


def _export(folder: RunFolder, state: TrainState) -> None:
    """Returns the trained SAE in the units of the model, as SAELens reads it.

    With `x = scale * x_model`, dividing `b_enc`, `b_dec` and the thresholds by the scale keeps
    `W_enc` and the unit rows of `W_dec` and divides the codes by it. Of a transcoder, it is the
    scale of its targets, and `W_enc` is multiplied by what the scale of its input is more.
    """
    sae, config, origin = state.sae, state.config, state.data.origin
    scale, out = state.data.scale, state.data.reconstructed.scale
    thresholds = sae.thresholds()
    W_enc, b_enc = _encoder(sae, scale, out)
    saelens.export(
        folder.sae,
        kind=config.sae.kind,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=sae.W_dec.detach().cpu(),
        b_dec=sae.b_dec.detach().cpu() / out,
        threshold=None if thresholds is None else thresholds.detach().cpu() / out,
        k=config.sae.k,
        hook=origin.get("hook", ""),
        model=origin.get("model", ""),
        metadata={
            "context_size": origin.get("context"),
            "prefixes": list(config.sae.prefixes),
            **({"hook_name_out": origin.get("hook_out", "")} if sae.transcoder else {}),
        },
        transcoder=sae.transcoder,
    )


def _encoder(sae: SAE, scale: float, out: float) -> tuple[Tensor, Tensor]:
    """Returns the encoder in the units of the model; a transcoder's takes nothing off its input."""
    W_enc, b_enc = sae.W_enc.detach().cpu(), sae.b_enc.detach().cpu()
    if sae.b_in is not None:
        b_enc = without_centring(W_enc, b_enc, sae.b_in.cpu())
        W_enc = (W_enc.double() * (scale / out)).float()
    return W_enc, b_enc / out


def _features(state: TrainState, meters: evaluation.Meters) -> bytes:
    """Returns `features.json`: a line for every feature, as lists."""
    sae, truth = state.sae, state.data.source.truth
    seen = meters.reconstruction
    table = feature_table(
        sae.W_enc.detach(),
        sae.W_dec.detach(),
        fired=seen.fired,
        rows=seen.rows,
        directions=None if truth is None else truth.directions,
        sample=max(1, evaluation.FEATURE_CELLS // sae.d_sae),
    )
    return (json.dumps(table, separators=(",", ":")) + "\n").encode()


def _of_the_target(state: TrainState) -> dict[str, float]:
    target = state.data.target
    if target is None:
        return {}
    return {"target_variance": target.variance, "target_scale": target.scale}
