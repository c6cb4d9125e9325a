"""What the end of a run asks of its language model: contexts to score, rows to calibrate on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_llama
from tests.system.tiny_run import tiny
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.models.loading import load
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.metrics import behaviour as measured
from topk_ortho.training import evaluation, train
from topk_ortho.training.evaluation import behaviour_contexts, calibration_rows

HOOK = "blocks.0.hook_resid_post"


@dataclass
class Sized:
    """A language model of a size."""

    weights: int
    device: torch.device


def sized(weights: int, device: str = "cpu") -> Any:
    return Sized(weights, torch.device(device))


@pytest.fixture
def _as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CALIBRATION_ROWS", 65_536)  # fewer in these tests elsewhere


@pytest.mark.usefixtures("_as_shipped")
@pytest.mark.parametrize(
    ("weights", "device", "contexts", "rows"),
    [
        (260_000, "cpu", 128, 65_536),
        (134_515_008, "cpu", 34, 16_352),
        (2_600_000_000, "cpu", 16, 8_192),
        (2_600_000_000, "cuda", 128, 65_536),
    ],
)
def test_a_large_model_on_a_cpu_runs_less(
    weights: int, device: str, contexts: int, rows: int
) -> None:
    model = sized(weights, device)
    assert behaviour_contexts(model, 128) == contexts
    assert calibration_rows(4608, 32, model=model) == rows
    assert calibration_rows(4608, 32) == 65_536


@pytest.mark.usefixtures("_as_shipped")
def test_a_wide_dictionary_and_a_large_model_are_both_heeded() -> None:
    assert calibration_rows(2**19, 32, model=sized(260_000)) == 16_384
    assert calibration_rows(2**19, 32, model=sized(10**12)) == 8_192
    assert calibration_rows(4608, 10_000, model=sized(10**12)) == 10_000  # one batch at least


@pytest.mark.parametrize("backend", ["transformers", "transformer-lens"])
def test_weights_are_those_of_the_folder(backend: str) -> None:
    from safetensors import safe_open

    folder = tiny_llama.shared()
    with safe_open(folder / "model.safetensors", "pt") as stored:
        weights = sum(stored.get_tensor(name).numel() for name in stored.keys())  # noqa: SIM118
    _, opened, _ = load(folder, backend=backend)
    assert opened.weights == weights


@pytest.fixture
def settings(tmp_path: Path) -> TrainConfig:
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(tiny_llama.stories(400)))
    return tiny(
        "--model", str(tiny_llama.shared()), "--text", str(text), "--context", "16",
        "--hook", HOOK, "--buffer-rows", "600", "--steps", "4", "--sae.d-sae", "48",
    )  # fmt: skip


@pytest.mark.parametrize("asked", [None, 3, 0])
def test_the_score_is_of_as_many_contexts_as_asked_for(
    settings: TrainConfig, tmp_path: Path, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    add = measured._add

    def counted(sums, model, tokens, *rest, **how):
        seen.append(len(tokens))
        return add(sums, model, tokens, *rest, **how)

    monkeypatch.setattr(measured, "_add", counted)
    result = train(replace(settings, eval_contexts=asked), tmp_path / "run", progress=False)
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert ("ce_score" in stored) == (asked != 0)
    assert result.get("behaviour_contexts") == stored.get("behaviour_contexts")
    assert sum(seen) == stored.get("behaviour_contexts", 0)
    assert (sum(seen) == asked) if asked is not None else (3 < sum(seen) <= 128)


def test_a_planted_run_has_no_such_score(settings: TrainConfig) -> None:
    planted = replace(settings.plant, enabled=True)
    with pytest.raises(ConfigError, match="--eval-contexts 3 was given with --plant"):
        check(replace(settings, eval_contexts=3, plant=planted))


def test_saes_of_one_hook_point_run_the_ablations_once(
    settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from topk_ortho.training.side_by_side import train_side_by_side

    passes = {"spliced": 0}
    spliced = LanguageModel.run_with_hooks

    def counted(self, *given, **how):
        passes["spliced"] += 1
        return spliced(self, *given, **how)

    monkeypatch.setattr(LanguageModel, "run_with_hooks", counted)
    settings = replace(settings, eval_contexts=3)
    train(settings, tmp_path / "alone", progress=False)
    assert passes["spliced"] == 4  # original, reconstructed, zero, mean
    passes["spliced"] = 0
    runs = {"a": settings, "b": replace(settings, lr=0.01), "c": replace(settings, lr=0.02)}
    train_side_by_side(runs, tmp_path / "runs", progress=False)
    assert passes["spliced"] == 4 + 2 + 2
