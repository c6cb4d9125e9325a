"""sparsify (PyPI: eai-sparsify) itself: what it saves opens here, and ours opens there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stored_saes import D_IN, D_SAE, K, codes, reconstruction, rows, stored
from topk_ortho import formats, load_sae
from topk_ortho.config import ConfigError

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its Triton decoder needs a CUDA device
sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed")
if not hasattr(sparsify, "SparseCoder"):
    pytest.skip("the installed sparsify is another project", allow_module_level=True)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def encoded(theirs: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Their codes as `[n, D_SAE]`, and their reconstruction."""
    values, index, _ = theirs.encode(x)
    return torch.zeros(len(x), D_SAE).scatter(1, index, values), theirs.decode(values, index)


def theirs_of(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = sparsify.SparseCoderConfig(num_latents=D_SAE, k=K, **settings)
    theirs = sparsify.SparseCoder(D_IN, config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return theirs


@torch.no_grad()
def test_ours_opens_there(tmp_path: Path) -> None:
    given, x = stored("topk"), rows()
    formats.write(given, tmp_path / "sae", layout="sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path / "sae")
    acts, x_hat = encoded(theirs, x)
    torch.testing.assert_close(acts, codes(given, x), **CLOSE)
    torch.testing.assert_close(x_hat, reconstruction(given, acts), **CLOSE)
    assert theirs.cfg.normalize_decoder


@torch.no_grad()
def test_theirs_opens_here(tmp_path: Path) -> None:
    theirs, x = theirs_of(), rows()
    theirs.save_to_disk(tmp_path)
    acts, x_hat = encoded(theirs, x)
    ours = load_sae(tmp_path)
    assert (ours.config.kind, ours.config.k) == ("topk", K)
    torch.testing.assert_close(ours.encode(x), acts, **CLOSE)
    torch.testing.assert_close(ours.decode(acts), x_hat, **CLOSE)


@pytest.mark.parametrize("setting", ["transcode", "skip_connection"])
def test_what_computes_something_else_is_refused(setting: str, tmp_path: Path) -> None:
    theirs_of(**{setting: True}).save_to_disk(tmp_path)
    with pytest.raises(ConfigError, match=setting):
        load_sae(tmp_path)


def test_groupmax_is_refused(tmp_path: Path) -> None:
    theirs_of(activation="groupmax").save_to_disk(tmp_path)
    with pytest.raises(ConfigError, match="groupmax"):
        load_sae(tmp_path)
