"""Both backends give the same numbers, for each family that the backend transformers knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.activations.models import families
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.models.layouts import LAYOUTS
from topk_ortho.activations.models.remembering import Remembering
from topk_ortho.config import ConfigError

POST = "blocks.1.hook_resid_post"


def off(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).abs().max() / y.abs().max())


def test_every_known_family_is_compared() -> None:
    assert families.SETTINGS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("kind", families.SETTINGS)
def test_both_backends_give_the_same_numbers(kind: str, tmp_path: Path) -> None:
    folder = families.build(tmp_path / kind, kind)
    plain = LanguageModel.load(folder, hooks=[POST])
    lens = LanguageModel.load(folder, backend="transformer-lens")
    assert (plain.described["backend"], lens.described["backend"]) == (
        "transformers",
        "transformer-lens",
    )
    for name in ("bos", "max_context", "d_vocab"):
        assert getattr(plain, name) == getattr(lens, name), name
    ends = {hook.rpartition(".")[2] for hook in plain.hooks}
    of_lens = {h for h in lens.hooks if h.count(".") == 2 and h.rpartition(".")[2] in ends}
    assert set(plain.hooks) == of_lens
    tokens = families.tokens()
    assert off(plain.run_with_hooks(tokens), lens.run_with_hooks(tokens)) < 1e-5
    seen, expected = (m.activations_at(tokens, plain.hooks) for m in (plain, lens))
    for hook in plain.hooks:
        assert off(seen[hook], expected[hook]) < 1e-5, hook
        spliced = [m.run_with_hooks(tokens, hook, lambda x: x / 2 + 1) for m in (plain, lens)]
        assert off(*spliced) < 1e-5, hook


@pytest.mark.parametrize("backend", ["transformers", "transformer-lens"])
def test_what_replaces_the_residual_inside_a_block_is_also_added_to(
    backend: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = families.build(tmp_path / "llama", "llama")
    tokens, hook = families.tokens(), "blocks.1.hook_resid_mid"
    model = LanguageModel.load(folder, backend=backend)
    spliced = model.run_with_hooks(tokens, hook, lambda x: x / 2 + 1)
    middle = model.activations(tokens, hook) / 2 + 1
    plain = AutoModelForCausalLM.from_pretrained(folder)
    block = plain.model.layers[1]
    with torch.no_grad():
        after = middle + block.mlp(block.post_attention_layernorm(middle))
        expected = plain.lm_head(plain.model.norm(after))
    assert off(spliced, expected) < 1e-5


def test_blocks_that_are_wired_in_another_way_are_left_to_the_bridge(tmp_path: Path) -> None:
    folder = families.build(tmp_path / "neox", "gpt_neox", use_parallel_residual=False)
    model = LanguageModel.load(folder, hooks=[POST])
    assert model.described["backend"] == "transformer-lens"
    assert "of type gpt_neox" in model.described["why"]
    with pytest.raises(ConfigError, match=r"--backend transformers was given .* leave it out"):
        LanguageModel.load(folder, hooks=[POST], backend="transformers")


@pytest.mark.parametrize("kind", families.SETTINGS)
def test_a_pass_that_begins_where_it_differs_gives_the_same_bits(kind: str, tmp_path: Path) -> None:
    model = LanguageModel.load(families.build(tmp_path / kind, kind), hooks=[POST])
    tokens, others = families.tokens(), families.tokens().flip(0)
    again = model.remembering
    for hook in (None, *model.hooks):
        for factor in (2.0, 3.0, 2.0):
            how = [] if hook is None else [hook, lambda x, by=factor: x / by + 1]
            for read in (tokens, others):
                assert torch.equal(
                    again.run_with_hooks(read, *how), model.run_with_hooks(read, *how)
                )
    assert torch.equal(model.run_with_hooks(tokens), again.run_with_hooks(tokens))


def test_a_pass_that_begins_later_runs_only_the_blocks_from_there(tmp_path: Path) -> None:
    model = LanguageModel.load(families.build(tmp_path / "llama", "llama"), hooks=[POST])
    blocks = model._backend._layers
    run: list[int] = []
    for number, block in enumerate(blocks):
        block.mlp.register_forward_hook(lambda *_, number=number: run.append(number))
    tokens, every = families.tokens(), list(range(len(blocks)))

    def ran(*how) -> list[int]:
        run.clear()
        model.remembering.run_with_hooks(tokens, *how)
        return list(run)

    assert ran() == every and ran() == []
    assert ran(POST, torch.zeros_like) == every
    assert ran(POST, torch.ones_like) == every[1:]
    run.clear()
    model.run_with_hooks(tokens)
    assert run == every, "blocks that do nothing were left behind"


def test_only_so_much_is_kept_of_passes(tmp_path: Path) -> None:
    model = LanguageModel.load(families.build(tmp_path / "llama", "llama"), hooks=[POST])
    tokens = families.tokens()
    for most, kept in ((0, 0), (1, 1), (2**20, 2)):
        again = Remembering(model, most_bytes=most)
        for read in (tokens, tokens.flip(0)):
            assert torch.equal(again.run_with_hooks(read), model.run_with_hooks(read))
        one = tokens.numel() * model._backend.d_model * 4
        assert again.nbytes == kept * one
