"""Tables of records that any package may add to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from topk_ortho.config import ConfigError, registry
from topk_ortho.config.registry import OneOf, Registry

HOME = "a_home_of_records"


@dataclass(frozen=True)
class Colour:
    name: str


@pytest.fixture
def colours(monkeypatch) -> Registry[Colour]:
    """A registry whose home registers two records when it is imported."""
    colours = Registry[Colour]("colour", home=HOME)

    def imported(name: str) -> ModuleType:
        assert name == HOME
        colours.register(Colour("light-blue"))
        colours.register(Colour("red"))
        return ModuleType(name)

    monkeypatch.setattr(registry, "import_module", imported)
    return colours


def test_the_home_is_imported_at_the_first_look_up_alone(colours):
    assert not colours._records
    assert colours.names() == ("light-blue", "red")
    assert "red" in colours
    assert [record.name for record in colours] == ["light-blue", "red"]


def test_hyphens_and_underscores_are_the_same(colours):
    assert colours["light_blue"] is colours["light-blue"]


def test_a_name_that_is_not_there_is_answered_with_the_nearest(colours):
    with pytest.raises(ConfigError, match=r"colour='light-blu' was given, but one of light-blue, "
                       r"red was expected \(perhaps you meant light-blue\)"):  # fmt: skip
        colours["light-blu"]


@pytest.mark.parametrize("name", ["Red", "dark_red", "", "-red", "a b"])
def test_names_are_words_joined_by_hyphens(name, colours):
    with pytest.raises(ValueError, match="lower-case words"):
        colours.register(Colour(name))


def test_a_name_is_given_once(colours):
    assert colours.names()
    with pytest.raises(ValueError, match="there is one of that name"):
        colours.register(Colour("red"))


def test_an_installed_package_adds_its_own(colours, monkeypatch):
    entry = SimpleNamespace(load=lambda: colours.register(Colour("green")))
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == HOME else [])
    assert colours.names() == ("light-blue", "red", "green")


def test_a_home_that_cannot_be_imported_says_so_every_time(monkeypatch):
    monkeypatch.setitem(sys.modules, HOME, None)
    colours = Registry[Colour]("colour", home=HOME)
    for _ in range(2):
        with pytest.raises(ImportError):
            colours.names()


def test_an_option_lists_the_names_and_its_own_words(colours):
    assert OneOf(colours, besides=("none",)).names() == ("none", "light-blue", "red")


def test_names_that_are_listed_without_their_home_are_those_that_it_registers():
    from topk_ortho import sae

    assert [kind.name for kind in sae.ARCHITECTURES] == list(sae.ARCHITECTURES.own)
