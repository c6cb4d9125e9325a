"""An architecture from outside the package: configured, trained, stored, loaded, and forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.system.tiny_run import tiny
from topk_ortho import load_sae
from topk_ortho.config import ConfigError, SAEConfig
from topk_ortho.config.rules import check
from topk_ortho.sae import ARCHITECTURES, SAE, register_architecture
from topk_ortho.training import train
from topk_ortho.training.memory import forecast


class PerRow(SAE):
    """Every pre-activation above half of its row's largest; afterwards, above a threshold."""

    name = "per-row"
    inference = "threshold"

    def activate(self, pre: Tensor) -> Tensor:
        return torch.relu(pre) * (pre > pre.detach().amax(1, keepdim=True) / 2)

    def inference_code(self, pre: Tensor) -> Tensor:
        return torch.relu(pre) * (pre > self.thresholds())

    def thresholds(self) -> Tensor:
        return getattr(self, "learned", self.b_enc.detach().abs() + 0.1)

    def load_thresholds_(self, threshold: Tensor) -> None:
        self.learned = threshold


@pytest.fixture
def per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ARCHITECTURES, "_records", {a.name: a for a in ARCHITECTURES})
    register_architecture(PerRow)


@pytest.mark.usefixtures("per_row")
def test_it_trains_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    config = tiny("--sae.kind", "per-row", "--steps", "12")
    assert train(config, tmp_path / "run", progress=False)["steps"] == 12
    sae = load_sae(tmp_path / "run")
    assert isinstance(sae, PerRow) and sae.config.k == config.sae.k
    assert 0 < (sae.encode(torch.randn(50, sae.d_in)) > 0).float().mean() < 1
    assert forecast(config, d_in=sae.d_in, device="cpu").peak("host") > 0
    with pytest.raises(ConfigError, match=r"bf16-prefilter was given with --sae.kind per-row"):
        check(tiny("--sae.kind", "per-row", "--sae.bf16-prefilter"))


def test_a_name_that_nobody_registered_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"batch-topx.*perhaps you meant batch-topk"):
        check(tiny("--sae.kind", "batch-topx"))
    with pytest.raises(ConfigError, match="per-row"):
        ARCHITECTURES[SAEConfig(kind="per-row").kind]
