"""A criterion's name is looked up in the registry, and decides nothing anywhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.test_architecture import PACKAGE, TREES, name_of
from topk_ortho.constraint.criteria import CRITERIA

NOT_CRITERIA = {
    "metrics/matching.py": "`correlation` is how a class and a feature are matched",
    "studies/bars.py": "`coactivation` is the name of an arm",
}
NAMES = frozenset(CRITERIA.names())  # `none` is no criterion but a run without the constraint
HOME = PACKAGE / "constraint" / "criteria"


def strings(node: ast.AST) -> set[str]:
    """What a literal, or a literal collection, says."""
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is str}


def switches(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Lines that compare something with a criterion's name, match it, or look up a table by it."""
    for node in ast.walk(tree):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = list(node.args) if node.func.attr in ("startswith", "endswith") else []
        said = set().union(*map(strings, asked)) & NAMES
        if said:
            yield node.lineno if hasattr(node, "lineno") else 0, said


def test_nothing_else_switches_on_a_criterions_name() -> None:
    found = {
        f"{name_of(path)}:{line}": said
        for path, tree in TREES.items()
        if HOME not in path.parents and name_of(path) not in NOT_CRITERIA
        for line, said in switches(tree)
    }
    assert not found


def test_a_switch_would_be_seen() -> None:
    for code in (
        'if c == "ortsae": pass',
        'x = c in ("none", "random")',
        'c.startswith("gradient")',
        'match c:\n case "magnitude": pass',
    ):
        assert list(switches(ast.parse(code))), code
    assert not list(switches(ast.parse('c == "none" or c.startswith("pairs.")')))
