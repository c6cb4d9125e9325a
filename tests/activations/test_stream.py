"""Blocks of a stream of tokens are those of the whole text, in any order and from any process."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny_llama
from topk_ortho.activations import stream as streams
from topk_ortho.activations.contexts import StreamedText, TooShort
from topk_ortho.activations.documents import Files
from topk_ortho.activations.leaving_out import LeaveOut
from topk_ortho.activations.stream import TokenStream
from topk_ortho.activations.text import Tokeniser, pack_contexts, text_documents
from topk_ortho.config import ConfigError

SIZE, CONTEXT = 60, 16


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama.shared())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("\n\n".join(tiny_llama.stories(300)))
    return tmp_path / "a.txt"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHARACTERS_PER_CALL", 500)
    monkeypatch.setattr(streams, "KEPT_EVERY", 4)


def opened(text: Path, tokenizer, size: int = SIZE) -> TokenStream:
    return TokenStream(Files([text]), Tokeniser(tokenizer), size=size)


def every_token(text: Path, tokenizer) -> list[int]:
    ids: list[int] = []
    for document in text_documents([text]):
        ids += [*tokenizer(document, add_special_tokens=False)["input_ids"], 1]
    return ids


def test_blocks_are_the_text(text: Path, tokenizer) -> None:
    stream, expected = opened(text, tokenizer), every_token(text, tokenizer)
    found = []
    while (tokens := stream.block(len(found))) is not None:
        found.append(tokens.ids.tolist())
    assert stream.length == len(found) == len(expected) // SIZE
    assert [*itertools.chain(*found)] == expected[: SIZE * len(found)]


@pytest.mark.parametrize("size", [1, 60, 700, 4000])
def test_any_block_can_be_read_at_any_time(text: Path, tokenizer, size: int) -> None:
    stream, expected = opened(text, tokenizer, size), every_token(text, tokenizer)
    blocks = len(expected) // size
    order = np.random.default_rng(0).integers(0, blocks, 12).tolist()
    for index in [0, 3, 4, 3, *order, blocks - 1, 0]:
        index = min(index, blocks - 1)
        tokens = stream.block(index)
        assert tokens is not None
        assert tokens.ids.tolist() == expected[index * size : (index + 1) * size]


def test_a_later_process_reads_on(text: Path, tokenizer) -> None:
    first = opened(text, tokenizer)
    expected = [first.block(i) for i in range(231)]
    state = json.loads(json.dumps(first.state(227)))
    assert 0 <= 227 - state["block"] < 4
    later = opened(text, tokenizer)
    later.load_state(state)
    asked: list[object] = []
    read = later._documents.read
    later._documents.read = lambda place=None: (asked.append(place), read(place))[1]
    for index in (227, 228, 230):
        assert np.array_equal(later.block(index).ids, expected[index].ids)
    assert asked and asked[0] is not None, "it began with the first document"


@pytest.mark.fault("a checkpoint with a position that is none")
def test_a_position_that_is_none(text: Path, tokenizer) -> None:
    for wrong in ({"block": -1, "skip": 0}, {"block": 0, "skip": "x"}):
        with pytest.raises(ValueError, match="not a position in a text"):
            opened(text, tokenizer).load_state({"place": None, "length": None, **wrong})


def test_no_more_is_tokenised_than_is_needed(text: Path, tokenizer) -> None:
    stream = opened(text, tokenizer)
    seen: list[int] = []
    tokenise = stream._tokenise
    stream._tokenise = lambda documents: (seen.append(len(documents)), tokenise(documents))[1]
    stream.block(0)
    stream._thread.submit(int).result()
    assert len(seen) <= 2


def test_a_block_that_is_asked_for_again_is_not_read_again(text: Path, tokenizer) -> None:
    stream = opened(text, tokenizer)
    begun: list[int] = []
    begin = stream._begin
    stream._begin = lambda number: (begun.append(number), begin(number))[1]
    for index in (0, 0, 1, 1, 1, 2):
        stream.block(index)
    assert begun == [0]


@pytest.mark.fault("a file that is not text")
def test_an_error_of_the_thread_reaches_the_reader(text: Path, tokenizer) -> None:
    with text.open("ab") as file:
        file.write(b"\n\nbad \xff")
    stream = opened(text, tokenizer)
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        any(stream.block(index) is None for index in range(10**6))


def test_one_thread_tokenises(text: Path, tokenizer) -> None:
    before = threading.active_count()
    stream = opened(text, tokenizer)
    for index in (9, 0, 5, 1):
        stream.block(index)
    assert threading.active_count() <= before + 1


def contexts(text: Path, tokenizer, **how) -> StreamedText:
    stream = TokenStream(Files([text]), Tokeniser(tokenizer), size=32 * (CONTEXT - 1))
    how = {"held_out": 100, "leave_out": LeaveOut(1), **how}
    return StreamedText(stream, context=CONTEXT, bos=1, **how)


def test_the_first_contexts_are_held_out(text: Path, tokenizer) -> None:
    blocks = contexts(text, tokenizer)
    whole = pack_contexts(tokenizer, text_documents([text]), CONTEXT)
    held_out = blocks.read("eval")
    assert len(held_out.tokens) == 128 and blocks.n_blocks("eval") == 4
    assert torch.equal(held_out.tokens, whole[:128])
    assert torch.equal(held_out.kept, whole[:128] != 1)
    assert blocks.n_blocks("train") is None
    assert torch.equal(blocks.block(2, "train").tokens, whole[128 + 64 : 128 + 96])


def test_it_begins_again_at_the_end(text: Path, tokenizer) -> None:
    blocks = contexts(text, tokenizer)
    length = next(i for i in range(1000) if blocks.over(i))
    assert torch.equal(blocks.block(length + 1, "train").tokens, blocks.block(1, "train").tokens)
    again = contexts(text, tokenizer)
    last = again.block(3 * length - 1, "train").tokens  # the end is met on the way
    assert torch.equal(last, blocks.block(length - 1, "train").tokens)


def test_it_begins_again_after_so_many_tokens(text: Path, tokenizer) -> None:
    blocks = contexts(text, tokenizer, most_tokens=3 * 32 * (CONTEXT - 1))
    assert [blocks.over(i) for i in (0, 2, 3)] == [False, False, True]
    assert torch.equal(blocks.block(4, "train").tokens, blocks.block(1, "train").tokens)


def test_just_enough_contexts_are_read(text: Path, tokenizer) -> None:
    found = contexts(text, tokenizer).read("train", rows=50)
    assert int(found.kept.sum()) >= 50 > int(found.kept[:-1].sum())


def test_a_short_text_is_no_stream(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "a.txt").write_text("a few words")
    with pytest.raises(TooShort):
        contexts(tmp_path / "a.txt", tokenizer)
