"""What is left out of training is what was asked for, and is counted by its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from tests.activations.sources import Gaussian
from topk_ortho.activations import prepare, reading
from topk_ortho.activations.documents import Document
from topk_ortho.activations.leaving_out import LeaveOut, special_tokens
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.activations.quiet import QuietSource, quiet_source
from topk_ortho.activations.scaling import ScaledSource
from topk_ortho.activations.text import Tokeniser
from topk_ortho.config import ConfigError, TrainConfig

TEMPLATE = (
    "{% for m in messages %}{{ '<s>' if loop.first else '' }}[{{ m['role'] }}] {{ m['content'] }}"
    "{{ '\\n' }}{% endfor %}"
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("\n\n".join(tiny_llama.stories(60)))
    return tmp_path / "a.txt"


def config(text: Path, **changes: object) -> TrainConfig:
    return TrainConfig(
        activations="language-model", model=str(tiny_llama.shared()), text=(text,),
        hook="blocks.0.hook_resid_post", context=16, **changes,
    )  # fmt: skip


def test_each_position_has_one_reason() -> None:
    tokens = torch.tensor([[1, 5, 2, 6, 1, 7], [1, 2, 8, 9, 3, 2]])
    spoken = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 1]]).bool()
    leave_out = LeaveOut(1, special=(2, 3), positions=2)
    found = leave_out.reasons(tokens, spoken)
    assert {name: where.nonzero().tolist() for name, where in found.items()} == {
        "bos": [[0, 0], [0, 4], [1, 0]],
        "special": [[0, 2], [1, 1], [1, 4], [1, 5]],
        "positions": [[0, 1]],
        "roles": [[0, 3], [1, 2]],
    }
    left_out = torch.stack(list(found.values())).sum(0)
    assert torch.equal(leave_out.kept(tokens, spoken), left_out == 0)
    assert int(left_out.max()) == 1


def test_special_tokens_but_bos() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.shared())
    assert special_tokens(tokenizer, bos=1) == (0, 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_first_positions_are_no_rows(text: Path, streamed: bool, monkeypatch) -> None:
    if streamed:
        monkeypatch.setattr(reading, "WHOLE_BYTES", 0)
        monkeypatch.setattr(reading, "HELD_OUT_ROWS", 100)
    plain, source = (
        open_language_model(config(text, skip_positions=n), device="cpu") for n in (None, 4)
    )
    assert (plain.n_blocks("train") is None) == streamed
    tokens = plain.contexts("eval")
    x, kept = source.model.activations(tokens, source.hook), source.kept("eval")
    assert torch.equal(source.contexts("eval"), tokens)
    assert not kept[:, :4].any() and torch.equal(kept[:, 4:], tokens[:, 4:] != 1)
    rows = torch.cat([source.block(i, "eval").x for i in range(source.n_blocks("eval") or 0)])
    torch.testing.assert_close(rows, x[kept], atol=1e-5, rtol=1e-5)
    got = prepare(config(text, skip_positions=4))
    assert set(got.left_out) == {"bos", "positions", "kept"}
    assert got.left_out["kept"] > 0


def test_what_leaves_nothing_is_refused(text: Path) -> None:
    with pytest.raises(ConfigError, match=r"no token is left to train on.*--skip-positions"):
        open_language_model(config(text, skip_positions=16), device="cpu")


class Sinks(Gaussian):
    """One row in a hundred has 300 times the norm."""

    def where(self, index, split, row):
        return f"row {row} of {split} block {index}"

    def block(self, index, split):
        x = super().block(index, split).x
        x[7::100] *= 300
        return super().block(index, split)._replace(x=x)


def test_loud_rows_are_left_out() -> None:
    source = Sinks(variance=80.0)
    quiet = QuietSource(source, limit=100.0)
    plain = source.block(3, "train").x
    expected = plain[plain.norm(dim=1) <= 100]
    assert torch.equal(quiet.block(3, "train").x, expected) and len(expected) == 990
    assert quiet.where(3, "train", 7) == "row 8 of train block 3"
    assert quiet.kept("eval").sum() == 990 * 40
    assert quiet_source(ScaledSource(quiet, 2.0)) is quiet
    assert quiet_source(ScaledSource(source, 2.0)) is None


def test_the_limit_is_a_multiple_of_the_median() -> None:
    settings = TrainConfig(activations="language-model", model="m", hook="h", max_norm=10.0)
    source = Sinks(variance=80.0)
    got = prepare(settings, language=source)
    x = torch.cat([source.block(i, "train").x for i in range(33)])
    assert got.norm_limit == pytest.approx(10 * float(x.norm(dim=1).double().median()))
    assert got.left_out["norm"] == 330 and got.left_out["norm_limit"] == got.norm_limit
    assert got.scale == pytest.approx((5 / 80) ** 0.5, rel=0.05)
    assert got.loud.variance_share > 0.9, "the share is of all rows"
    given = prepare(settings, language=source, norm_limit=1e9)
    assert given.norm_limit == 1e9 and given.left_out["norm"] == 0
    with pytest.raises(ConfigError, match="--max-norm leaves out all"):
        prepare(settings, language=source, norm_limit=1e-9)


@pytest.fixture
def chatting():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.shared())
    tokenizer.chat_template = TEMPLATE
    return tokenizer


CHAT = [
    {"role": "user", "content": "Who was it?"},
    {"role": "assistant", "content": "It was Tim</s>."},
    {"role": "user", "content": "Tim?"},
    {"role": "assistant", "content": "Tim"},
]


@pytest.mark.parametrize(
    ("roles", "said"),
    [(["assistant"], "It was Tim .Tim"), (["user"], "Who was it?Tim?"), (["system"], "")],
)
def test_tokens_of_roles(chatting, roles: list[str], said: str) -> None:
    tokens = Tokeniser(chatting, roles=roles)([Document("", messages=CHAT)])
    assert tokens.spoken is not None and tokens.ids[-1] == 1
    assert (tokens.ids[:-1] != 1).all(), "BOS stands between chats alone"
    assert chatting.decode(tokens.ids[tokens.spoken]) == said
    assert "user" in chatting.decode(tokens.ids)


def test_a_model_without_a_template_is_refused() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.shared())
    with pytest.raises(ConfigError, match="no chat template"):
        Tokeniser(tokenizer, roles=["assistant"])


def test_chats_are_read_from_records(tmp_path: Path, chatting) -> None:
    from tests.tiny_llama import build

    build(tmp_path / "model")
    chatting.save_pretrained(tmp_path / "model")
    rows = [json.dumps({"messages": CHAT})] * 60
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    settings = config(tmp_path / "a.jsonl", chat_roles=("assistant",))
    object.__setattr__(settings, "model", str(tmp_path / "model"))
    source = open_language_model(settings, device="cpu")
    tokens, kept = source.contexts("train"), source.kept("train")
    assert chatting.decode(tokens[kept]).startswith("It was Tim .TimIt was Tim .Tim")
    assert source.left_out([0])["roles"] > 0


@pytest.mark.fault("records that cannot be used")
def test_chats_that_cannot_be_used(tmp_path: Path, text: Path) -> None:
    with pytest.raises(ConfigError, match=r"--chat-roles was given, but --text .* is plain text"):
        reading.documents_of(config(text, chat_roles=("user",)))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ConfigError, match="a column `messages` was expected"):
        reading.documents_of(config(tmp_path / "a.jsonl", chat_roles=("user",)))
