"""A JumpReLU SAE trains to the L0 it was asked for, and comes back from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import topk_ortho
from tests.system.tiny_run import over, tiny
from topk_ortho.commands.reader import parse
from topk_ortho.formats import saelens
from topk_ortho.sae.jumprelu import JumpReLUSAE
from topk_ortho.training import train

OPTIONS = ["--sae.kind", "jumprelu", "--threads", "1", "--eval-samples", "10000"]


@pytest.mark.parametrize(
    ("steps", "within"), [(600, 0.12), pytest.param(2000, 0.03, marks=pytest.mark.slow)]
)
def test_the_target_is_reached(steps: int, within: float, tmp_path: Path) -> None:
    config = parse(over(OPTIONS, "--steps", str(steps), "--pairs.criterion", "none")).settings
    result = train(config, tmp_path / "run", progress=False)
    assert result["l0"] == pytest.approx(8, rel=within)
    assert result["explained_variance"] > 0.8


def test_a_trained_one_is_loaded_as_it_was(tmp_path: Path) -> None:
    train(tiny("--sae.kind", "jumprelu"), tmp_path / "run", progress=False)
    loaded = topk_ortho.load_sae(tmp_path / "run")
    assert isinstance(loaded, JumpReLUSAE)
    x = torch.randn(500, loaded.d_in, generator=torch.Generator().manual_seed(0))
    pre, threshold = loaded.pre_acts(x), loaded.thresholds()
    clear = (pre - threshold).abs() > 1e-5  # a threshold comes back by its logarithm
    assert clear.float().mean() > 0.99
    code = loaded.encode(x)
    assert torch.equal(code[clear], (pre * (pre > threshold))[clear])
    stored = saelens.read(tmp_path / "run" / "sae")
    torch.testing.assert_close(threshold.detach(), stored["threshold"], rtol=1e-6, atol=0)
    assert threshold.std() > 0
