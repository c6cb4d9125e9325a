"""SAELens itself: what it saves opens here, what is written here opens there, same codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.formats.test_transcoders import D_OUT, transcoder
from tests.stored_saes import D_IN, D_SAE, KINDS, K, codes, reconstruction, rows, stored
from topk_ortho import formats, load_sae

sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed")
saes = pytest.importorskip("sae_lens.saes", reason="SAELens is not installed")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def randomised(sae: Any, *, norm: float) -> Any:
    """With random weights in which every setting matters."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
            if name == "threshold":
                parameter.abs_()
        sae.W_dec.copy_(torch.randn(D_SAE, D_IN, generator=rng) * norm)
        sae.W_dec[::2] *= 2
    return sae


@torch.no_grad()
def assert_same(theirs: Any, folder: Path) -> None:
    ours, x = load_sae(folder), rows()
    acts = theirs.encode(x)
    assert 0 < int((acts > 0).sum()) < acts.numel()
    torch.testing.assert_close(ours.encode(x), acts, **CLOSE)
    torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(acts), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_ours_opens_there(kind: str, tmp_path: Path) -> None:
    given, x = stored(kind, unit=False), rows()
    theirs = sae_lens.SAE.load_from_disk(formats.write(given, tmp_path / "sae"))
    acts = theirs.encode(x)
    torch.testing.assert_close(acts, codes(given, x), **CLOSE)
    torch.testing.assert_close(theirs.decode(acts), reconstruction(given, acts), **CLOSE)
    assert theirs.cfg.metadata.hook_name == given.hook


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", ["Standard", "TopK", "JumpReLU"])
def test_theirs_opens_here(name: str, centred: bool, tmp_path: Path) -> None:
    config = getattr(saes, f"{name}SAEConfig")
    extra = {"k": K} if name == "TopK" else {}
    theirs = getattr(saes, f"{name}SAE")(
        config(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=centred, **extra)
    )
    randomised(theirs, norm=1.0).save_model(tmp_path)
    assert_same(theirs, tmp_path)


def test_topk_ranked_by_decoder_norms_opens_here(tmp_path: Path) -> None:
    config = saes.TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, rescale_acts_by_decoder_norm=True)
    theirs = randomised(saes.TopKSAE(config), norm=1.5)
    theirs.save_model(tmp_path)
    assert_same(theirs, tmp_path)


TRAINED = {
    "TopK": ("topk", {"k": K}),
    "BatchTopK": ("batch-topk", {"k": K}),
    "MatryoshkaBatchTopK": ("matryoshka", {"k": K, "matryoshka_widths": [4, 12, D_SAE]}),
    "JumpReLU": ("jumprelu", {}),
    "Standard": ("relu", {}),
}


def trained(name: str, **more: Any) -> Any:
    """A training SAE with random weights, and a threshold where BatchTopK keeps one."""
    config = getattr(saes, f"{name}TrainingSAEConfig")
    sae = getattr(saes, f"{name}TrainingSAE")(
        config(d_in=D_IN, d_sae=D_SAE, **TRAINED[name][1], **more)
    )
    randomised(sae, norm=1.0)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.75)
    return sae


@pytest.mark.parametrize("name", TRAINED)
def test_the_end_of_their_training_opens_here(name: str, tmp_path: Path) -> None:
    trained(name).save_inference_model(tmp_path)
    assert_same(sae_lens.SAE.load_from_disk(tmp_path), tmp_path)
    expected = "batch-topk" if name == "MatryoshkaBatchTopK" else TRAINED[name][0]
    assert load_sae(tmp_path).config.kind == expected


@pytest.mark.parametrize("name", ["TopK", "BatchTopK", "MatryoshkaBatchTopK", "Standard"])
def test_a_checkpoint_of_their_training_opens_here(name: str, tmp_path: Path) -> None:
    sae = trained(name)
    sae.save_inference_model(tmp_path / "end")
    sae.save_model(tmp_path / "checkpoint")
    ours = load_sae(tmp_path / "checkpoint")
    assert ours.config.kind == TRAINED[name][0]
    assert_same(sae_lens.SAE.load_from_disk(tmp_path / "end"), tmp_path / "checkpoint")


def test_what_they_saved_of_ours_with_other_weights_opens_here(tmp_path: Path) -> None:
    theirs = sae_lens.SAE.load_from_disk(formats.write(stored("topk"), tmp_path / "ours"))
    with torch.no_grad():
        theirs.b_enc += 0.1
    theirs.save_model(tmp_path / "theirs")
    assert_same(theirs, tmp_path / "theirs")


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"topk"}))
@torch.no_grad()
def test_our_transcoders_open_there(kind: str, tmp_path: Path) -> None:
    given = transcoder(kind)
    theirs = sae_lens.SAE.load_from_disk(formats.write(given, tmp_path / "sae"))
    assert theirs.d_out == D_OUT != D_IN
    assert theirs.cfg.metadata.hook_name_out == given.hook_out
    assert_same(theirs, tmp_path / "sae")
    theirs.save_model(tmp_path / "theirs")
    assert_same(theirs, tmp_path / "theirs")


@pytest.mark.parametrize("name", ["Transcoder", "JumpReLUTranscoder"])
def test_their_transcoders_open_here(name: str, tmp_path: Path) -> None:
    module = pytest.importorskip("sae_lens.saes.transcoder")
    config = getattr(module, f"{name}Config")(
        d_in=D_IN, d_sae=D_SAE, d_out=D_OUT, apply_b_dec_to_input=False
    )
    theirs, rng = getattr(module, name)(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    theirs.save_model(tmp_path)
    assert_same(theirs, tmp_path)
    assert formats.read(tmp_path).transcoder
