"""Transcoders on disk: this package's folders, and SAELens' layout of those that it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.stored_saes import D_IN, D_SAE, KINDS, codes, reconstruction, rows, stored
from topk_ortho import formats, load_sae
from topk_ortho.config import ConfigError
from topk_ortho.formats.load import as_module
from topk_ortho.formats.stored import StoredSAE, with_centring, without_centring

D_OUT = 9
ARCHITECTURE = {"relu": "transcoder", "topk": "topk_transcoder"}


def transcoder(kind: str) -> StoredSAE:
    """A random one, whose features fire where those of `stored` do."""
    sae, rng = stored(kind), torch.Generator().manual_seed(3)
    W_dec = torch.randn(D_SAE, D_OUT, generator=rng)
    return replace(
        sae,
        transcoder=True,
        hook_out="blocks.3.hook_mlp_out",
        b_enc=without_centring(sae.W_enc, sae.b_enc, sae.b_dec),
        W_dec=W_dec / W_dec.norm(dim=1, keepdim=True),
        b_dec=torch.randn(D_OUT, generator=rng),
    )


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_written_is_read_back(kind: str, tmp_path: Path) -> None:
    given, x = transcoder(kind), rows()
    formats.write(given, tmp_path / "sae")
    got = formats.read(tmp_path / "sae")
    for name in ("kind", "k", "transcoder", "hook", "hook_out", "model", "prefixes"):
        assert getattr(got, name) == getattr(given, name)
    assert (got.d_in, got.d_out) == (D_IN, D_OUT)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(got, name), getattr(given, name))
    sae, acts = load_sae(tmp_path / "sae"), codes(stored(kind), x)
    torch.testing.assert_close(sae.encode(x), acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.decode(acts), reconstruction(given, acts))
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == ARCHITECTURE.get(kind, "jumprelu_transcoder")
    assert (config["d_out"], config["apply_b_dec_to_input"]) == (D_OUT, False)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_units_of_either_side(kind: str) -> None:
    """Input 3 times as large, targets half as large: codes and reconstruction are halved."""
    given, x = transcoder(kind), rows()
    plain, scaled = as_module(given), as_module(given.scaled(3.0, out=0.5))
    acts = plain.encode(x)
    torch.testing.assert_close(scaled.encode(3 * x), 0.5 * acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.decode(0.5 * acts), 0.5 * plain.decode(acts))


@torch.no_grad()
def test_a_module_with_a_centre_of_its_own_has_the_same_codes() -> None:
    from topk_ortho.formats.load import fill

    given, x = transcoder("relu"), rows()
    sae = as_module(given)
    before = sae.encode(x)
    assert sae.b_in is not None
    sae.b_in.fill_(2.0)
    fill(sae, given)
    torch.testing.assert_close(sae.b_enc, with_centring(given.W_enc, given.b_enc, sae.b_in))
    torch.testing.assert_close(sae.encode(x), before, rtol=1e-4, atol=1e-5)


READ_ONLY = {"gemma-scope", "gemma-scope-2"}


@pytest.mark.parametrize("layout", sorted(set(get_args(formats.Layout)) - {"saelens"} - READ_ONLY))
def test_layouts_without_transcoders_refuse_them(layout: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transcoder, which of these only saelens has"):
        formats.write(transcoder("topk"), tmp_path / "sae", layout=layout)


def test_a_decoder_of_another_width_is_no_sae(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="W_dec has shape"):
        formats.write(replace(transcoder("relu"), transcoder=False), tmp_path / "sae")


def test_a_skip_connection_is_refused(tmp_path: Path) -> None:
    folder = formats.write(transcoder("relu"), tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"architecture": "skip_transcoder"}))
    with pytest.raises(ConfigError, match="skip_transcoder"):
        formats.read(folder)
