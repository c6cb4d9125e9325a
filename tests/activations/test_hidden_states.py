"""Folders of hidden states as vLLM writes them: a file for each request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from topk_ortho.activations.files import FilesSource
from topk_ortho.config import ConfigError

LAYERS, WIDTH = 3, 4


def requests(folder: Path, *lengths: int, by_layer: bool = False, dtype=torch.bfloat16) -> Path:
    """Element [token, layer, j] of request n is 100 n + token + layer / 4 + j / 16."""
    for n, length in enumerate(lengths):
        token = 100 * n + torch.arange(length)[:, None, None]
        states = token + torch.arange(LAYERS)[:, None] / 4 + torch.arange(WIDTH) / 16
        states = states.transpose(0, 1) if by_layer else states
        content = {
            "hidden_states": states.to(dtype).contiguous(),
            "token_ids": torch.arange(length),
        }
        save_file(content, folder / f"cmpl-{n}.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_one_layer_is_read(tmp_path: Path, layer: int, by_layer: bool, dtype) -> None:
    source = FilesSource(
        requests(tmp_path, 7, 5, 9, by_layer=by_layer, dtype=dtype), layer=layer, rows_per_block=2
    )
    assert (source.rows, source.d_in) == (21, WIDTH)
    places = [(i, s) for s in ("train", "eval") for i in range(source.n_blocks(s))]
    x = torch.cat([source.block(*place).x for place in places])
    token = torch.cat([100 * n + torch.arange(length) for n, length in enumerate((7, 5, 9))])
    expected = token[:, None] + layer / 4 + torch.arange(WIDTH) / 16
    assert torch.equal(x, expected.to(dtype).float())


def test_as_many_tokens_as_layers_are_read_as_vllm_writes_them(tmp_path: Path) -> None:
    x = FilesSource(requests(tmp_path, LAYERS, LAYERS), layer=1).block(0, "train").x
    assert x[:, 0].tolist() == [0.25]


def test_a_single_layer_needs_no_option(tmp_path: Path) -> None:
    for n in range(2):
        states = torch.randn(6, 1, WIDTH)
        save_file({"hidden_states": states, "token_ids": torch.arange(6)},
                  tmp_path / f"{n}.safetensors")  # fmt: skip
    assert FilesSource(tmp_path).rows == 12


def test_rows_without_layers_are_taken_as_they_are(tmp_path: Path) -> None:
    save_file({"hidden_states": torch.randn(6, WIDTH), "token_ids": torch.arange(6)},
              tmp_path / "0.safetensors")  # fmt: skip
    assert FilesSource(tmp_path).rows == 6


@pytest.mark.fault("hidden states of several layers")
def test_what_is_refused(tmp_path: Path) -> None:
    requests(tmp_path, 7, 5)
    with pytest.raises(ConfigError, match=r"hidden states of 3 layers.*add --data-layer 0 to 2"):
        FilesSource(tmp_path)
    with pytest.raises(ConfigError, match=r"--data-layer 3 was given, but .* has 3 layers"):
        FilesSource(tmp_path, layer=3)
    save_file({"hidden_states": torch.randn(4, 3, WIDTH), "token_ids": torch.arange(9)},
              tmp_path / "x.safetensors")  # fmt: skip
    with pytest.raises(ConfigError, match=r"shape \[4, 3, 4\] and 9 token ids"):
        FilesSource(tmp_path, layer=0)
