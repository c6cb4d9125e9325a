"""The options of a language model, from the command line to the manifest and the forecast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from tests.inspect.conftest import language_model
from tests.system.tiny_run import tiny
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.models.memory import ModelSizes, memory
from topk_ortho.commands import absorption
from topk_ortho.commands.reader import parse
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.machine import hardware
from topk_ortho.training import train
from topk_ortho.training.announce import slow_paths

GIVEN = {"model": "m", "hook": "blocks.0.hook_resid_post", "text": (Path("t.txt"),)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device_map": "auto", "model_device": "cpu"}, "--device-map auto and --model-device cpu"),
        ({"attn": "sdpa", "backend": "transformer-lens"}, "--attn sdpa .*transformer-lens"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(TrainConfig(**GIVEN, **options))  # type: ignore[arg-type]
    words = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", v)]
    rest = ["--model", "m", "--text", "t", "--hook", "h", "--classes", "c"]
    with pytest.raises(ConfigError, match=says):
        absorption.run(["sae", *rest, *words], prog="topk-ortho absorption")


@pytest.mark.parametrize(
    "words",
    [["--dtype", "bfloat16"], ["--backend", "transformers"], ["--attn", "flash_attention_2"],
     ["--model-device", "cpu"], ["--device-map", "auto"]],
)  # fmt: skip
def test_without_a_language_model_they_have_no_effect(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"{words[0]} was given, but it has no effect"):
        parse(words)


def test_a_device_that_is_none_is_named_by_its_option(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(tiny_llama.stories()), encoding="utf-8")
    config = tiny(base=language_model(text, "--model-device", "gpu7"))
    with pytest.raises(ConfigError, match="--model-device gpu7 was given, but auto, cpu or cuda"):
        train(config, tmp_path / "run", progress=False)


def test_a_run_says_what_its_model_ran_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(tiny_llama.stories()), encoding="utf-8")
    options = language_model(text, "--dtype", "bfloat16", "--model-device", "cpu")
    train(tiny(base=options), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    loaded = {"backend": "transformers", "dtype": "bfloat16", "device": "cpu"}
    assert manifest["language_model"] == loaded
    assert "language model: transformers, bfloat16 on cpu\n" in capsys.readouterr().err
    names = {part["name"] for part in manifest["memory_forecast"]["components"]}
    assert {"a pass of the language model", "logits of the language model"} <= names


def test_the_forecast_follows_the_type_of_the_weights() -> None:
    parts = {}
    for dtype in ("float32", "bfloat16"):
        model = LanguageModel.load(
            tiny_llama.shared(), hooks=["blocks.0.hook_resid_post"], dtype=dtype
        )
        sizes = model.sizes(torch.device("cpu"))
        parts[dtype] = [
            c.bytes for c in memory(sizes, context=16, reading=64, splicing=2, scored=4)
        ]
    assert parts["float32"][0] == 2 * parts["bfloat16"][0]
    assert parts["float32"][1] > parts["bfloat16"][1]
    assert not list(
        memory(ModelSizes(8, 8, 8, 4, None), context=2, reading=2, splicing=2, scored=4)
    )


@pytest.mark.parametrize("has", [False, True, None])
def test_narrow_weights_on_a_processor_without_such_products(
    has: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16_products", lambda: has)
    config = TrainConfig(**GIVEN, dtype="bfloat16")  # type: ignore[arg-type]
    found = list(slow_paths(config, torch.device("cpu")))
    assert len(found) == (has is False)
    assert not list(slow_paths(config, torch.device("cuda")))
