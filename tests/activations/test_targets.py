"""Targets beside activations: two hook points of one pass, row by row on every way to a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import tiny_llama
from tests.activations.sources import Numbered
from topk_ortho.activations import ShuffleBuffer, prepare
from topk_ortho.activations.harvest import HarvestedSource, harvest_folder
from topk_ortho.activations.kept import KeptSource
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.activations.quiet import QuietSource
from topk_ortho.activations.scaling import ScaledSource, sampled
from topk_ortho.activations.source import Block, Split
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash
from topk_ortho.metrics.behaviour import behaviour

MID, OUT = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n\n".join(tiny_llama.stories(60)), encoding="utf-8")
    model = str(tiny_llama.shared())
    return check(TrainConfig(model=model, text=(path,), hook=MID, hook_out=OUT, context=16))


@pytest.fixture(scope="module")
def model(config: TrainConfig) -> LanguageModel:
    return LanguageModel.load(config.model, hooks=[MID, OUT])


def mlp(x: Tensor) -> Tensor:
    """What block 1 makes of its residual stream before the MLP's norm."""
    from transformers import LlamaForCausalLM

    layer = LlamaForCausalLM.from_pretrained(tiny_llama.shared()).model.layers[1]
    with torch.no_grad():
        return layer.mlp(layer.post_attention_layernorm(x))


class Doubled(Numbered):
    """The target of a row is twice the row."""

    def block(self, index: int, split: Split) -> Block:
        x = super().block(index, split).x
        return Block(x, None, torch.cat([2 * x, 3 * x], 1))


def test_targets_are_shuffled_with_their_rows() -> None:
    for prefetch in (False, True):
        buffer = ShuffleBuffer(
            Doubled(10, 14, 9, 20), batch_size=4, rows=30, seed=1, prefetch=prefetch
        )
        for _ in range(20):
            x, target = buffer.next_batch()
            assert target is not None
            assert torch.equal(target, torch.cat([2 * x, 3 * x], 1))
        buffer.close()
    plain = ShuffleBuffer(Numbered(10, 14, 9, 20), batch_size=4, rows=30, seed=1)
    again = ShuffleBuffer(Doubled(10, 14, 9, 20), batch_size=4, rows=30, seed=1)
    assert torch.equal(plain.next(), again.next())
    assert plain.next_batch().target is None


def test_sources_around_others_keep_targets() -> None:
    inner = Doubled(8, 8)
    block = ScaledSource(inner, 10.0, target=100.0).block(1, "train")
    assert block.target is not None
    assert torch.equal(block.target[:, :3], 20 * block.x)
    kept = KeptSource(inner).block(1, "train")
    assert kept.target is not None
    quiet = QuietSource(inner, limit=4.0).block(0, "train")
    assert quiet.target is not None
    assert torch.equal(quiet.target[:, :3], 2 * quiet.x)
    assert len(quiet.x) == 5
    sample, x = sampled(inner, 12)
    targets = sample.targets(inner)
    assert targets is not None
    assert torch.equal(targets[:, :3], 2 * x)
    assert sample.targets(Numbered(8, 8)) is None


def test_a_source_reads_both_hook_points(config: TrainConfig) -> None:
    source = open_language_model(config, device="cpu")
    block = source.block(0, "train")
    assert block.target is not None
    torch.testing.assert_close(block.target, mlp(block.x), rtol=1e-4, atol=1e-5)
    again = source.block(0, "train")
    assert again.target is not None and torch.equal(again.target, block.target)


def test_each_side_has_its_own_unit(config: TrainConfig) -> None:
    data = prepare(config)
    assert data.target is not None and data.reconstructed is data.target
    assert data.origin["hook_out"] == OUT
    assert (data.variance, data.target.variance) == (pytest.approx(5), pytest.approx(5))
    assert data.target.scale != pytest.approx(data.scale, rel=0.01)
    block = data.source.block(0, "train")
    assert block.target is not None
    torch.testing.assert_close(
        block.target / data.target.scale, mlp(block.x / data.scale), rtol=1e-3, atol=1e-4
    )


def test_a_harvested_folder_has_both(config: TrainConfig, tmp_path: Path) -> None:
    source = open_language_model(config, device="cpu")
    folder = harvest_folder(tmp_path, config)
    for open_source in (lambda: source, pytest.fail):
        harvested = HarvestedSource(folder, open_source)
        for got, expected in zip(
            harvested.block(1, "train"), source.block(1, "train"), strict=True
        ):
            assert (got is None and expected is None) or torch.equal(got, expected)
        assert harvested.hook_out == OUT
    plain = check(TrainConfig(model=config.model, text=config.text, hook=MID, context=16))
    assert harvest_folder(tmp_path, plain) != folder


@pytest.mark.parametrize("backend", ["transformers", "transformer-lens"])
def test_a_replacement_sees_what_was_read_in_the_same_pass(
    config: TrainConfig, backend: str
) -> None:
    model = LanguageModel.load(config.model, hooks=[MID, OUT], backend=backend)
    tokens = torch.tensor([[1, 5, 9, 7], [1, 8, 4, 20]])
    plain = model.run_with_hooks(tokens)
    seen = []

    def exact(x: Tensor, x_in: Tensor) -> Tensor:
        seen.append((x, x_in))
        return mlp(x_in)

    got = model.run_with_hooks(tokens, OUT, exact, hook_in=MID)
    torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-4)
    at = model.activations_at(tokens, [MID, OUT])
    torch.testing.assert_close(seen[0][0], at[OUT])
    torch.testing.assert_close(seen[0][1], at[MID])
    zero = model.run_with_hooks(tokens, OUT, lambda x, x_in: torch.zeros_like(x), hook_in=MID)
    torch.testing.assert_close(zero, model.run_with_hooks(tokens, OUT, torch.zeros_like))
    with pytest.raises(ConfigError, match="comes before --hook"):
        model.check_order(OUT, MID, tokens)


def test_the_true_mlp_preserves_the_model(model: LanguageModel) -> None:
    """Its CE score is 1; with a limit below every norm nothing is replaced at all."""
    tokens = torch.randint(3, 40, (6, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 1
    got = behaviour(model, tokens, OUT, mlp, hook_in=MID)
    assert got["ce_score"] == pytest.approx(1, abs=1e-3)
    assert got["ce_zero"] != pytest.approx(got["ce_original"], abs=1e-3)
    left = behaviour(model, tokens, OUT, torch.zeros_like, hook_in=MID, norm_limit=0.0)
    assert left["ce_reconstructed"] == pytest.approx(left["ce_original"], abs=1e-6)


REFUSED = [
    ({"hook_out": MID}, "--hook is the same"),
    ({"hook_out": OUT, "plant": {"enabled": True}}, "--hook-out .* was given with --plant"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_contradict_each_other(settings: dict, message: str) -> None:
    from topk_ortho.config.toml import from_table

    table = {"model": "m", "text": ["t"], "hook": MID, **settings}
    with pytest.raises(ConfigError, match=message):
        check(from_table(table))


def test_a_run_without_it_keeps_its_hash() -> None:
    """Of the configuration as it was before there was the option."""
    config = TrainConfig(model="m", text=(Path("t"),), hook=MID)
    assert config_hash(config) != config_hash(
        TrainConfig(model="m", text=(Path("t"),), hook=MID, hook_out=OUT)
    )


def test_hook_points_in_the_wrong_order_are_refused_before_training(config: TrainConfig) -> None:
    turned = TrainConfig(model=config.model, text=config.text, hook=OUT, hook_out=MID, context=16)
    with pytest.raises(ConfigError, match=f"--hook-out {MID} was given, but it comes before"):
        open_language_model(turned, device="cpu")
