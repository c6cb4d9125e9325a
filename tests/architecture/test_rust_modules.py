"""Modules of the Rust core depend on each other in one direction, parents and children too."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "rust" / "core" / "src"
LONGEST = 400
BINDING = 600

PATH = re.compile(r"\b(crate|super|self)((?:::\w+)*)(?:::\{([^;]*?)\})?", re.DOTALL)
NAME = re.compile(r"(?:^|[,{]\s*)(\w+)")

Module = tuple[str, ...]


def modules() -> dict[Module, str]:
    """Code of every module by its path; comments and tests are left out."""
    texts = {}
    for path in sorted(SOURCE.rglob("*.rs")):
        text = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests {")[0]
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
        texts[path.relative_to(SOURCE).with_suffix("").parts] = code
    return {name: code for name, code in texts.items() if name[-1] != "tests"}


def exported(code: str) -> dict[str, Module]:
    """The names that the crate's root hands on, by the module that owns them."""
    names = {}
    for module, several, one in re.findall(r"pub use (\w+)::(?:\{([^}]*)\}|(\w+));", code):
        for name in NAME.findall(several) or [one]:
            names[name] = (module,)
    return names


def uses(module: Module, code: str, known: set[Module], root: dict[str, Module]) -> set[Module]:
    """The modules that a module names in its code, itself left out.

    Whoever uses a name of a module uses the deepest module on the way to it.
    """
    found = set()
    for start, path, several in PATH.findall(code):
        if not path and not several:  # `pub(super)`, `self.field`
            continue
        parts = tuple(path.split("::")[1:])
        base = {"crate": (), "super": module[:-1], "self": module}[start]
        for name in NAME.findall(several) if several else [None]:
            full = (*base, *parts) + ((name,) if name else ())
            if full and len(full) == len(base) + 1 and not base and full[0] in root:
                full = root[full[0]]
            while full and full not in known:
                full = full[:-1]
            found.add(full or ("lib",))
    children = re.findall(r"^(?:pub )?use (\w+)::", code, re.MULTILINE)
    found |= {(*module, child) for child in children if (*module, child) in known}
    found |= {(child,) for child in children if module == ("lib",) and (child,) in known}
    return found - {module}


def graph() -> dict[Module, set[Module]]:
    texts = modules()
    root = exported(texts[("lib",)])
    known = set(texts) - {("lib",)}
    return {name: uses(name, code, known, root) for name, code in texts.items()}


def test_the_core_is_found():
    links = graph()
    assert ("selection",) in links[("topk",)]
    assert ("codes", "csr") in links[("codes", "transposed")]
    assert ("threads",) in links[("penalty", "gradient")]


def test_no_module_of_the_core_depends_on_itself():
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join("::".join(module) for module in error.args[1]))


def test_files_and_the_binding_stay_short():
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "rust").rglob("*.rs")
        if "target" not in path.parts
    }
    assert {path: n for path, n in lengths.items() if n > LONGEST} == {}
    assert sum(n for path, n in lengths.items() if "py" in path.parts) <= BINDING
