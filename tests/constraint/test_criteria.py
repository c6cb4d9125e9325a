"""What is written about the criteria is what their records say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from topk_ortho.constraint.criteria import CRITERIA, INPUTS, CoactiveSum, Criterion
from topk_ortho.constraint.criteria.inputs import SelectorInputs

METHOD = Path(__file__).resolve().parents[2] / "docs" / "method.md"


def row(c: Criterion) -> str:
    line = c.line.replace("|", r"\|")
    looks_at = ", ".join(f"`{name}`" for name in INPUTS if name in c.required_inputs)
    cells = (f"`{c.name}`", line, c.form.label, looks_at, f"{c.coefficient:g}")
    return f"| {' | '.join(cells)} |"


def test_the_page_has_every_criterion_as_its_record_says() -> None:
    header = "| criterion | score of (i, j) | path | looks at | coefficient |"
    table = METHOD.read_text(encoding="utf-8").split(header)[1].split("\n\n")[0]
    assert table.splitlines()[2:] == [row(c) for c in CRITERIA]


def test_the_page_names_those_with_a_support_floor() -> None:
    held = [c.name for c in CRITERIA if isinstance(c.form, CoactiveSum) and c.form.min_support]
    first, second, third = (f"`{name}`" for name in held)
    assert f"{first}, {second} and {third} have a minimum support" in " ".join(
        METHOD.read_text(encoding="utf-8").split()
    )


def test_inputs_are_the_fields_of_what_a_criterion_is_given() -> None:
    fields = {field.name for field in dataclasses.fields(SelectorInputs)}
    assert set(INPUTS) == fields - {"codes", "memory_budget", "given"}


@pytest.mark.parametrize("name", CRITERIA.names())
def test_the_form_says_which_inputs_it_is_scored_with(name: str) -> None:
    assert CRITERIA[name.replace("-", "_")].name == name
    assert CRITERIA[name].required_inputs <= set(INPUTS)
