"""Loading a language model: the choice of the backend, types of weights, and what is refused."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from tests.activations.models import families
from tests.conftest import environment
from topk_ortho.activations.models import LanguageModel, forward_hooks, loading
from topk_ortho.config import ConfigError

POST = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return LanguageModel.load(tiny_llama.shared(), hooks=[POST])


def test_the_faster_backend_is_taken_where_it_has_the_hook_point(plain: LanguageModel) -> None:
    assert plain.described == {"backend": "transformers", "dtype": "float32", "device": "cpu"}
    other = LanguageModel.load(tiny_llama.shared(), hooks=[POST, "blocks.0.attn.hook_z"])
    assert other.described["backend"] == "transformer-lens"
    assert other.described["why"] == "blocks.0.attn.hook_z is known to it alone"


def test_one_that_lacks_the_hook_point_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--backend transformers .*attn\.hook_z is known to it"):
        LanguageModel.load(
            tiny_llama.shared(), hooks=["blocks.0.attn.hook_z"], backend="transformers"
        )


def test_transformers_alone_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from topk_ortho.activations.models import LanguageModel\n"
        f"m = LanguageModel.load({str(tiny_llama.shared())!r}, hooks=[{POST!r}])\n"
        "import torch\n"
        f"m.activations(torch.ones(1, 4, dtype=torch.int64), {POST!r})\n"
        "m.run_with_hooks(torch.ones(1, 4, dtype=torch.int64))\n"
        "assert 'transformer_lens' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=120)


def test_several_hook_points_come_from_one_pass_up_to_the_last(
    plain: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    model = plain._backend._model  # type: ignore[attr-defined]
    watched = [
        model.model.register_forward_pre_hook(lambda *a: passes.append("model")),
        model.model.layers[1].register_forward_pre_hook(lambda *a: passes.append("layer 1")),
        model.lm_head.register_forward_pre_hook(lambda *a: passes.append("logits")),
    ]
    hooks = ["blocks.0.hook_mlp_out", "blocks.0.hook_resid_pre", POST]
    seen = plain.activations_at(families.tokens(), hooks)
    for handle in watched:
        handle.remove()
    assert passes == ["model"]
    assert list(seen) == hooks
    for hook in hooks:
        assert torch.equal(seen[hook], plain.activations(families.tokens(), hook))


def test_activations_can_be_trained_on(plain: LanguageModel) -> None:
    x = plain.activations(families.tokens(), POST)
    weight = torch.ones(x.shape[-1], requires_grad=True)
    (x * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("end", ["in", "out"])
def test_no_hook_is_left_behind(plain: LanguageModel, end: str) -> None:
    hook = {"in": "blocks.1.hook_resid_pre", "out": POST}[end]

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("in the middle of a pass")

    before = plain.run_with_hooks(families.tokens())
    with pytest.raises(RuntimeError, match="middle of a pass"):
        plain.run_with_hooks(families.tokens(), hook, fail)
    assert torch.equal(before, plain.run_with_hooks(families.tokens()))


@pytest.mark.parametrize("backend", ["transformers", "transformer-lens"])
@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_weights_have_the_type_that_was_asked_for(
    backend: str, dtype: str, tmp_path: Path, plain: LanguageModel
) -> None:
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_llama.shared(), tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    model = LanguageModel.load(folder, hooks=[POST], backend=backend, dtype=dtype)
    assert model.described["dtype"] == "bfloat16"
    x = model.activations(families.tokens(), POST)
    assert x.dtype == torch.float32
    assert torch.equal(x, x.bfloat16().float())
    expected = plain.activations(families.tokens(), POST)
    assert float((x - expected).abs().max() / expected.abs().max()) < 0.05
    spliced = model.run_with_hooks(families.tokens(), POST, lambda x: x)
    assert torch.equal(spliced, model.run_with_hooks(families.tokens()))


def test_the_implementation_of_attention_is_taken() -> None:
    for attn in ("sdpa", "eager"):
        model = LanguageModel.load(tiny_llama.shared(), hooks=[POST], attn=attn)
        assert model._backend._model.config._attn_implementation == attn  # type: ignore


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"hooks": ["blocks.0.attn.hook_z"]}, r"as the model is run by .*attn\.hook_z is known"),
        ({"hooks": [POST], "backend": "transformer-lens"}, r"no effect with --backend transf"),
    ],
)
def test_attention_of_the_other_backend_is_refused(how: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"--attn eager was given.*{says}"):
        LanguageModel.load(tiny_llama.shared(), attn="eager", **how)


@pytest.mark.parametrize(
    ("package", "how", "says"),
    [
        ("accelerate", {"device_map": "auto"}, "--device-map auto was given.*`accelerate`"),
        ("flash_attn", {"attn": "flash-attention-2"}, "--attn flash-attention-2 .*`flash_attn`"),
    ],
)
def test_a_missing_package_is_named(
    package: str, how: dict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = lambda name: None if name == package else importlib.util.find_spec(name)  # noqa: E731
    monkeypatch.setattr(loading, "find_spec", missing)
    with pytest.raises(ConfigError, match=says):
        LanguageModel.load(tiny_llama.shared(), hooks=[POST], **how)


@pytest.mark.parametrize("backend", ["transformers", "transformer-lens"])
def test_a_device_map_places_the_model(backend: str) -> None:
    pytest.importorskip("accelerate")
    model = LanguageModel.load(tiny_llama.shared(), hooks=[POST], backend=backend, device_map="cpu")
    assert model.activations(families.tokens(), POST).shape == (3, 16, tiny_llama.D_MODEL)


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"model\.gguf was given.*topk-ortho\[gguf\]"):
        LanguageModel.load(file)


def test_the_search_for_a_model_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"holds no \.safetensors .*or a GGUF file such as .*a\."):
        loading.find(tmp_path)
    with pytest.raises(ConfigError, match=r"no model folder 'b\.gguf'"):
        loading.find("b.gguf")


def test_a_context_length_is_found_under_any_name() -> None:
    class Config:
        seq_length = 32

    assert forward_hooks._max_context(Config()) == 32
    assert forward_hooks._max_context(object()) == forward_hooks.DEFAULT_CONTEXT
