"""Gemma Scope's published layouts, written here in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from topk_ortho import cli, formats, load_sae
from topk_ortho.config import ConfigError

D_IN, D_SAE = 6, 20


def tensors() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "W_enc": torch.randn(D_IN, D_SAE, generator=rng),
        "b_enc": 0.1 * torch.randn(D_SAE, generator=rng),
        "W_dec": torch.randn(D_SAE, D_IN, generator=rng),
        "b_dec": torch.randn(D_IN, generator=rng),
        "threshold": 1 + torch.rand(D_SAE, generator=rng),
    }


def rows() -> Tensor:
    return 2 * torch.randn(50, D_IN, generator=torch.Generator().manual_seed(1))


def by_the_formula(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction as their tutorial computes them."""
    t = tensors()
    pre = x @ t["W_enc"] + t["b_enc"]
    acts = (pre > t["threshold"]) * torch.relu(pre)
    return acts, acts @ t["W_dec"] + t["b_dec"]


def first(folder: Path, **more: Any) -> Path:
    """A folder of Gemma Scope 1."""
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{k: v.numpy() for k, v in tensors().items()}, **more)
    return folder


def second(folder: Path, architecture: str = "jump_relu", **more: Tensor) -> Path:
    """A folder of Gemma Scope 2."""
    folder.mkdir(parents=True)
    named = {k.replace("W_", "w_"): v for k, v in tensors().items()}
    save_file({**named, **more}, folder / "params.safetensors")
    config = {"architecture": architecture, "model_name": "gemma-v3-1b-pt"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("make", "path", "model", "k"),
    [
        (first, "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_8", "gemma-2-2b", 8),
        (first, "gemma-scope-9b-it-mlp/layer_12/width_16k/average_l0_8", "gemma-2-9b-it", 8),
        (second, "gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_medium", "gemma-3-1b-pt",
         None),
    ],
    ids=["residual stream", "mlp", "second release"],
)  # fmt: skip
def test_codes_and_reconstructions_are_those_of_the_formula(
    make: Any, path: str, model: str, k: float | None, tmp_path: Path
) -> None:
    folder = make(tmp_path / path)
    stored, sae = formats.read(folder), load_sae(folder)
    place = "hook_mlp_out" if "mlp" in path else "hook_resid_post"
    assert (stored.kind, stored.model, stored.k) == ("jumprelu", model, k)
    assert (stored.hook, stored.transcoder) == (f"blocks.12.{place}", False)
    acts, x_hat = by_the_formula(rows())
    assert 0 < int((acts > 0).sum()) < acts.numel()
    with torch.no_grad():
        torch.testing.assert_close(sae.encode(rows()), acts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sae.decode(acts), x_hat, rtol=1e-5, atol=1e-5)


def test_a_transcoder_takes_nothing_off_its_input(tmp_path: Path) -> None:
    folder = first(tmp_path / "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_8")
    stored, sae = formats.read(folder), load_sae(folder)
    assert stored.transcoder
    assert stored.hook == "blocks.3.ln2.hook_normalized"
    assert stored.hook_out == "blocks.3.hook_mlp_out"
    acts, x_hat = by_the_formula(rows())
    with torch.no_grad():
        torch.testing.assert_close(sae.encode(rows()), acts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sae.decode(acts), x_hat, rtol=1e-5, atol=1e-5)


def test_it_is_written_as_saelens(tmp_path: Path) -> None:
    given = formats.read(first(tmp_path / "a"))
    formats.write(given, tmp_path / "b")
    assert formats.detect(tmp_path / "b")[0] == "saelens"
    x = rows()
    with torch.no_grad():
        one, other = load_sae(tmp_path / "a").encode(x), load_sae(tmp_path / "b").encode(x)
    assert torch.equal(one, other)
    assert formats.digest(tmp_path / "a") != formats.digest(tmp_path / "b")


def test_what_computes_something_else_is_refused(tmp_path: Path) -> None:
    ones, twos = np.ones(D_SAE, np.float32), np.full(D_SAE, 2, np.float32)
    assert formats.read(first(tmp_path / "ones", scaling_factor=ones)).kind == "jumprelu"
    cases = [
        (first(tmp_path / "twos", scaling_factor=twos), "scaling_factor"),
        (first(tmp_path / "embedding" / "width_4k"), "embeddings"),
        (first(tmp_path / "more", other=ones), "holds .*other"),
        (second(tmp_path / "relu", architecture="relu"), "architecture = 'relu'"),
        (second(tmp_path / "skip", affine_skip_connection=torch.eye(D_IN)), "skip connection"),
    ]
    for folder, message in cases:
        with pytest.raises(ConfigError, match=message):
            formats.read(folder)
    (tmp_path / "torn").mkdir()
    whole = (tmp_path / "ones" / "params.npz").read_bytes()
    (tmp_path / "torn" / "params.npz").write_bytes(whole[:200])
    with pytest.raises(ConfigError, match="not a readable file of Gemma Scope"):
        formats.read(tmp_path / "torn")


def test_an_atlas_of_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first(tmp_path / "sae")
    Path("data").mkdir()
    np.save("data/a.npy", rows().repeat(10, 1).numpy())
    assert cli.main(["atlas", "sae", "--data", "data", "--json"]) == 0
