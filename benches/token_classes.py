"""Writes the files of classes in benches/classes: first letters, and groups of words by meaning.

    python benches/token_classes.py --model models/smollm2-135m --text english.txt

A word is a token of the vocabulary that is a blank and ASCII letters, and that the text has often
enough. `first-letters.toml` has a class for each letter with all words that begin with it, in
either case; `meanings.toml` has months, weekdays, numbers, countries, colours, pronouns and verbs
in the past tense. The most frequent words of a class are its children, one token each. The same
vocabulary and text give the same files. Takes about half a minute.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from string import ascii_lowercase
from typing import Any

CLASSES = Path(__file__).with_name("classes")
LEAST = 20
"""Number of times that the text has to have a word."""
CHILDREN = 4
WIDTH = 100
DOCUMENTS = 256
"""Documents that are tokenised at once."""

MEANINGS = {
    "month": "January February March April June July August September October November December",
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty "
    "forty fifty sixty seventy eighty ninety hundred thousand million billion",
    "country": "Afghanistan Argentina Australia Austria Belgium Brazil Britain Canada Chile China "
    "Cuba Denmark Egypt England Ethiopia Finland France Germany Greece Hungary India Indonesia "
    "Iran Iraq Ireland Israel Italy Japan Kenya Korea Laos Lebanon Malaysia Mexico Nigeria Norway "
    "Pakistan Peru Philippines Poland Portugal Russia Scotland Singapore Somalia Spain Sudan "
    "Sweden Switzerland Syria Thailand Turkey Uganda Ukraine Vietnam Wales Zimbabwe",
    "colour": "black blue brown green grey gray orange pink purple red scarlet silver violet white "
    "yellow",
    "pronoun": "I me my mine myself you your yours yourself he him his himself she her hers "
    "herself it its itself we us our ours ourselves they them their theirs themselves",
}
"""Words of each class: months without May, and colours and numbers that mostly are such."""
PAST = (
    "became began broke brought built bought came caught chose did drew drove ate fell felt fought "
    "found flew forgot gave went grew had heard held kept knew led left lost made meant met paid "
    "ran rose said sat saw sold sent shot slept spent spoke stood took taught told thought threw "
    "understood was were woke won wore wrote"
)
"""Irregular verbs in the past tense."""
REGULAR = 3
"""Letters at least of a regular verb without its ending."""

Words = Mapping[str, int]


def words(tokenizer: Any, documents: Iterable[str], *, least: int = LEAST) -> dict[str, int]:
    """Returns the words that a text has at least so often, and how often, most frequent first.

    Args:
        tokenizer: a Hugging Face tokenizer.
        documents: the text.
        least: times.
    """
    times: Counter[int] = Counter()
    rest = iter(documents)
    while some := list(islice(rest, DOCUMENTS)):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            times.update(ids)
    before = tokenizer(".", add_special_tokens=False)["input_ids"]
    start = len(tokenizer.decode(before))
    found: Counter[str] = Counter()
    for token, n in times.items():
        text = tokenizer.decode([*before, token], clean_up_tokenization_spaces=False)[start:]
        if n >= least and text[:1] == " " and text[1:].isascii() and text[1:].isalpha():
            found[text[1:]] += n
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def first_letters(known: Words) -> dict[str, list[str]]:
    """Returns, by letter, all words that begin with it, in the order of `known`."""
    classes: dict[str, list[str]] = {f"begins with {letter}": [] for letter in ascii_lowercase}
    for word in known:
        classes[f"begins with {word[0].lower()}"].append(word)
    return {name: members for name, members in classes.items() if members}


def meanings(known: Words) -> dict[str, list[str]]:
    """Returns, by meaning, its words in the order of `known`; classes of less than 3 are left
    out."""
    lists = {name: set(text.split()) for name, text in MEANINGS.items()}
    lists["past tense"] = set(PAST.split()) | set(regular_past(known))
    classes = {name: [word for word in known if word in of] for name, of in lists.items()}
    return {name: members for name, members in classes.items() if len(members) >= 3}


def regular_past(known: Words) -> Iterator[str]:
    """Yields words such as "asked", where "ask" and "asking" are words too."""
    for word in known:
        stem = word.removesuffix("ed")
        regular = stem != word and len(stem) >= REGULAR and f"{stem}ing" in known
        if regular and (stem in known or f"{stem}e" in known):
            yield word


def as_toml(classes: Mapping[str, list[str]], *, children: int = CHILDREN) -> str:
    """Returns a file of classes: the first words of each are its children."""
    edges = [f"{name} > {word}" for name, members in classes.items() for word in members[:children]]
    single = dict.fromkeys(word for members in classes.values() for word in members[:children])
    parents = {name: members[children:] for name, members in classes.items()}
    lines = [_list("edges", edges), "", "[classes]"]
    lines += [_list(_key(name), _spaced(members)) for name, members in parents.items()]
    lines += [_list(_key(word), _spaced([word])) for word in single]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.isalpha() else json.dumps(name)


def _spaced(members: Iterable[str]) -> list[str]:
    return [f" {word}" for word in members]


def _list(key: str, entries: Iterable[str]) -> str:
    """A key and its list, on one line where it fits."""
    quoted = [json.dumps(entry) for entry in entries]
    whole = f"{key} = [{', '.join(quoted)}]"
    if len(whole) <= WIDTH:
        return whole
    lines, line = [f"{key} = ["], "   "
    for entry in quoted:
        if len(line) + len(entry) + 2 > WIDTH:
            lines, line = [*lines, line], "   "
        line += f" {entry},"
    return "\n".join([*lines, line, "]"])


def files(tokenizer: Any, documents: Iterable[str], *, least: int = LEAST) -> dict[str, str]:
    """Returns the text of each file by its name."""
    known = words(tokenizer, documents, least=least)
    made = {"first-letters.toml": first_letters(known), "meanings.toml": meanings(known)}
    return {name: as_toml(classes) for name, classes in made.items()}


def main() -> None:
    """Writes the files."""
    from transformers import AutoTokenizer

    from topk_ortho.activations.text import text_documents

    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--model", required=True, help="folder or name of the tokenizer")
    options.add_argument("--text", type=Path, nargs="+", required=True)
    options.add_argument("--out", type=Path, default=CLASSES, help="folder")
    given = options.parse_args()
    made = files(AutoTokenizer.from_pretrained(given.model), text_documents(given.text))
    given.out.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (given.out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
