"""The end of a run: the SAE exported, measured on held-out activations, and written down."""

from __future__ import annotations

from typing import Any

from topk_ortho.constraint.history.figures import stability_figures
from topk_ortho.formats import saelens
from topk_ortho.machine.phases import phase
from topk_ortho.training import evaluation
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.state import TrainState

OF_SELECTION = (
    "selection_budget", "selection_blocks", "selection_largest_block", "jaccard", "stable_share",
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
        evaluation.calibrate(state.sae, state.buffer.fork())
    with phase("saving the SAE"):
        _export(folder, state)
    rows = config.eval_samples
    with phase("measuring on held-out activations", total=rows) as shown:
        figures, truth = evaluation.evaluate(
            state.sae, state.data, samples=rows, progress=shown.advance
        )
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
        | ({"left_out": dict(state.data.left_out)} if state.data.left_out else {})
        | {name: selected[name] for name in OF_SELECTION if selected.get(name) is not None}
        | figures
    )
    folder.write_json("result.json", result)
    return result


def _export(folder: RunFolder, state: TrainState) -> None:
    """Returns the trained SAE in the units of the model, as SAELens reads it.

    With `x = scale * x_model`, dividing `b_enc`, `b_dec` and the thresholds by the scale keeps
    `W_enc` and the unit rows of `W_dec` and divides the codes by it.
    """
    sae, config, scale = state.sae, state.config, state.data.scale
    thresholds, origin = sae.thresholds(), state.data.origin
    saelens.export(
        folder.sae,
        kind=config.sae.kind,
        W_enc=sae.W_enc.detach().cpu(),
        b_enc=sae.b_enc.detach().cpu() / scale,
        W_dec=sae.W_dec.detach().cpu(),
        b_dec=sae.b_dec.detach().cpu() / scale,
        threshold=None if thresholds is None else thresholds.detach().cpu() / scale,
        k=config.sae.k,
        hook=origin.get("hook", ""),
        model=origin.get("model", ""),
        metadata={
            "context_size": origin.get("context"),
            "prefixes": list(config.sae.prefixes),
        },
    )
