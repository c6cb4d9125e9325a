"""The files of classes in benches/classes, and the script that writes them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_llama
from topk_ortho.activations.text import text_documents
from topk_ortho.inspect.absorption.classes import read_classes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches"))
import token_classes

sys.path.pop(0)

HERE = Path(__file__).resolve()
MODEL = HERE.parents[2] / "models" / "smollm2-135m"
TEXT = HERE.parents[3] / "shared" / "data" / "text" / "english.txt"
FILES = ("first-letters.toml", "meanings.toml")


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def stored(name: str) -> dict[str, Any]:
    return tomllib.loads((token_classes.CLASSES / name).read_text(encoding="utf-8"))


def test_words_are_counted_and_those_that_are_rare_left_out() -> None:
    tokenizer = tokenizer_of(tiny_llama.shared())
    documents = tiny_llama.stories(20)
    known = token_classes.words(tokenizer, documents, least=1)
    ids = [i for some in tokenizer(documents, add_special_tokens=False)["input_ids"] for i in some]
    for word, times in known.items():
        (token,) = tokenizer(f". {word}", add_special_tokens=False)["input_ids"][1:] or [None]
        assert token is None or ids.count(token) == times
    assert list(known.values()) == sorted(known.values(), reverse=True)
    often = token_classes.words(tokenizer, documents, least=30)
    assert often == {word: times for word, times in known.items() if times >= 30}


def test_a_letter_has_its_words_in_either_case() -> None:
    assert token_classes.first_letters({"and": 9, "but": 8, "An": 3}) == {
        "begins with a": ["and", "An"],
        "begins with b": ["but"],
    }


def test_a_verb_in_the_past_is_told_by_its_other_forms() -> None:
    known = dict.fromkeys(
        ["asked", "ask", "asking", "moved", "move", "moving", "red", "need", "speed", "led"], 1
    )
    assert list(token_classes.regular_past(known)) == ["asked", "moved"]
    found = token_classes.meanings(known | {"two": 5, "three": 4})
    assert found == {"past tense": ["asked", "moved", "led"]}, "a class needs three words"


def test_what_is_written_can_be_read_and_the_first_words_are_children(tmp_path: Path) -> None:
    path = tmp_path / "classes.toml"
    path.write_text(token_classes.as_toml({"some word": ["ab", "b", "ba"]}, children=2))
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert table == {
        "edges": ["some word > ab", "some word > b"],
        "classes": {"some word": [" ba"], "ab": [" ab"], "b": [" b"]},
    }
    found = read_classes(path, tokenizer_of(tiny_llama.shared()), d_vocab=63)
    assert found.edges == ((0, 1), (0, 2))


def test_the_files_have_26_letters_and_seven_meanings() -> None:
    letters, meanings = (stored(name) for name in FILES)
    parents = [{edge.split(" > ")[0] for edge in table["edges"]} for table in (letters, meanings)]
    assert len(parents[0]) == 26
    assert parents[1] == {*token_classes.MEANINGS, "past tense"}
    for table in (letters, meanings):
        for edge in table["edges"]:
            parent, child = edge.split(" > ")
            (text,) = table["classes"][child]
            assert text not in table["classes"][parent], "children are listed apart"
            assert parent == f"begins with {child[0].lower()}" or table is meanings


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.is_dir(), reason=f"no {MODEL}: make real-model")
@pytest.mark.skipif(not TEXT.exists(), reason=f"the text is not at {TEXT}")
def test_the_script_writes_these_files_again() -> None:
    made = token_classes.files(tokenizer_of(MODEL), text_documents([TEXT]))
    for name in FILES:
        assert made[name] == (token_classes.CLASSES / name).read_text(encoding="utf-8")
