"""The walls of the house that `lint-imports` does not see, read from the source itself."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest

from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.formats import dictionary_learning

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "topk_ortho"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RUST_CORE = ROOT / "rust" / "core"

# Third-party packages that take long to import or are optional, and the files that may name them.
CONFINED = {
    "transformer_lens": {"activations/models/lens.py", "integrations/saebench/worker.py"},
    "transformers": {"activations/models/loading.py", "integrations/saebench/worker.py"},
    "pyarrow": {"activations/records.py"},
    "datasets": {"activations/hub.py", "integrations/saebench/worker.py"},
    "matplotlib": {"report/plots.py", "report/canvas.py", "report/charts.py"},
    "jinja2": {"report/page.py"},
    "scipy": {"metrics/matching.py", "statistics/differences.py"},
    "tomli_w": {"config/toml.py"},
    "tyro": set(),
    "sae_lens": {"integrations/saebench/worker.py"},
    "sae_bench": {"integrations/saebench/worker.py"},
    "dictionary_learning": set(),
    "sparsify": set(),
    "submitit": {"studies/launch.py"},
    "wandb": {"training/loggers.py"},
    "trackio": {"training/loggers.py"},
    "tensorboard": set(),  # by way of torch.utils.tensorboard
    "triton": {
        "constraint/penalty/kernels.py",
        "constraint/selection/kernels.py",
        "machine/kernels.py",
    },
    "huggingface_hub": {"integrations/hub.py", "integrations/saebench/worker.py"},
}
# Of these, the ones that no import at the top of a module may name.
LAZY = {
    "transformer_lens",
    "transformers",
    "datasets",
    "pyarrow",
    "matplotlib",
    "submitit",
    "wandb",
    "trackio",
    "jinja2",
    "tomli_w",
    "huggingface_hub",
}
# Folders with fewer than three files, and why.
FEW = {PACKAGE / "inspect"}  # one folder for each way of looking, and what a finished run is
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "eval", "exec", "numpy.load", "np.load"}
# Another package's format is a pickle: tensors alone, and only where the user says so.
PICKLED = "formats/dictionary_learning.py"


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(tree: ast.Module) -> list[tuple[str, bool]]:
    """Every module a file imports, and whether at its top level."""
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            module = node.module or ""
            found.append((module, id(node) in top))
            found += [(f"{module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_the_source_is_found():
    assert len(SOURCES) > 40
    assert PACKAGE / "training" / "step.py" in TREES


def test_the_extension_is_imported_in_one_file_of_a_package():
    where = defaultdict(set)
    for path, tree in TREES.items():
        if any(name == "topk_ortho._core" for name, _ in imports(tree)):
            where[path.parent.name].add(name_of(path))
    assert set(where) == {"sparse", "selection", "penalty", "history"}
    for package, files in where.items():
        assert len(files) == 1, f"{package} imports topk_ortho._core in {sorted(files)}"


@pytest.mark.parametrize("package", CONFINED)
def test_third_party_packages_stay_where_they_belong(package):
    for path, tree in TREES.items():
        for name, top in imports(tree):
            if name.split(".")[0] == package:
                assert name_of(path) in CONFINED[package], f"{name_of(path)} imports {name}"
                assert not (top and package in LAZY), f"{name_of(path)} imports {name} at its top"


def test_tables_are_aligned_and_drawings_written_in_one_place():
    one_place = {"ljust": "terminal.py", "rjust": "terminal.py", "savefig": "report/canvas.py"}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            assert one_place.get(name, name_of(path)) == name_of(path), f"{name_of(path)}: {name}"


def test_configuration_and_command_line_import_no_torch():
    for name in ("__init__.py", "config/__init__.py", "config/train.py", "config/toml.py",
                 "config/rules.py", "config/option.py",
                 *(name_of(p) for p in (PACKAGE / "commands").rglob("*.py")), "train.py", "cli.py",
                 "constraint/__init__.py", "constraint/schedules.py", "report/plots.py",
                 "report/table.py", "report/summary.py", "metrics/health.py"):  # fmt: skip
        tops = {n.split(".")[0] for n, top in imports(TREES[PACKAGE / name]) if top}
        assert not tops & {"torch", "safetensors", "scipy"}, name


def test_no_module_is_called_after_nothing():
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "rust").rglob("*.rs")):
        assert path.stem not in FORBIDDEN_NAMES, path
        assert not FORBIDDEN_NAMES & set(path.relative_to(ROOT).parts[:-1]), path


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_pickle_and_no_remote_code(path):
    tree = TREES[path]
    for name, _ in imports(tree):
        assert name.split(".")[0] not in {"pickle", "cloudpickle", "dill", "joblib", "marshal"}
        assert name not in {"torch.load", "torch.save"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: k.value for k in node.keywords}
        called = dotted(node.func)
        if name_of(path) == PICKLED and called in ("torch.load", "torch.save"):
            only = keywords.get("weights_only")
            safe = isinstance(only, ast.Constant) and only.value is True
            assert safe or called == "torch.save", f"line {node.lineno}: {called}"
        elif called in FORBIDDEN_CALLS:
            allow = keywords.get("allow_pickle")
            safe = called.endswith("np.load") and isinstance(allow, ast.Constant)
            assert safe, f"line {node.lineno}: {called}"
            assert allow.value is False, f"line {node.lineno}: {called}"
        remote = keywords.get("trust_remote_code")
        assert remote is None or (isinstance(remote, ast.Constant) and remote.value is False), (
            f"line {node.lineno}: trust_remote_code"
        )


def test_the_one_pickle_is_refused_by_default():
    tree = TREES[PACKAGE / PICKLED]
    loads = [
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and dotted(n.func) == "torch.load"
    ]
    assert len(loads) == 1
    read = inspect.signature(dictionary_learning.read).parameters["allow_pickle"]
    assert read.default is False
    assert read.kind is read.KEYWORD_ONLY


def test_models_are_loaded_without_remote_code_on_purpose():
    models = PACKAGE / "activations" / "models"
    assert "trust_remote_code=False" in (models / "lens.py").read_text(encoding="utf-8")
    loading = (models / "loading.py").read_text(encoding="utf-8")
    assert '"trust_remote_code": False' in loading
    assert loading.count("from_pretrained(") == loading.count("from_pretrained(**place.files")


def test_the_rust_core_knows_no_python():
    manifest = (RUST_CORE / "Cargo.toml").read_text(encoding="utf-8")
    assert "pyo3" not in manifest
    sources = sorted((RUST_CORE / "src").rglob("*.rs"))
    assert sources
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bpyo3\b|\bnumpy\b", text), path
        assert not re.search(r"\bstd::(fs|net|time|process)\b", text), path
    assert "forbid(unsafe_code)" in (RUST_CORE / "src" / "lib.rs").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(TREES[path])


# A format maps the names of others to ours; one of the arms of a study is called matryoshka.
KIND_OWNERS = ("sae/", "formats/", "studies/arms.py")


def switches_on_an_architecture(tree: ast.Module) -> list[int]:
    """Lines that compare with an architecture's name or class, or look something up by its name."""
    names, classes = set(ARCHITECTURES.names()), {a.__name__ for a in ARCHITECTURES} | {"SAE"}

    def named(node: ast.expr) -> bool:
        parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return any(isinstance(part, ast.Constant) and part.value in names for part in parts)

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            wrong = any(map(named, [node.left, *node.comparators]))
        elif isinstance(node, ast.Dict):
            wrong = any(key is not None and named(key) for key in node.keys)
        elif isinstance(node, ast.Call) and dotted(node.func) in ("isinstance", "issubclass"):
            kinds = node.args[1]
            parts = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
            wrong = bool({dotted(part).split(".")[-1] for part in parts} & classes)
        else:
            wrong = isinstance(node, ast.MatchValue) and named(node.value)
        if wrong:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nobody_asks_which_architecture_it_is(path):
    if not name_of(path).startswith(KIND_OWNERS):
        assert switches_on_an_architecture(TREES[path]) == []


def test_a_switch_on_the_architecture_is_found():
    switches = (
        "if kind == 'topk': pass",
        "x = kind in ('relu', 'jumprelu')",
        "x = isinstance(sae, (int, BatchTopKSAE))",
        "x = {'topk': 2}.get(kind)",
        "match kind:\n case 'topk': pass",
    )
    for text in switches:
        assert switches_on_an_architecture(ast.parse(text)), text
    assert switches_on_an_architecture(ast.parse("x = replace(sae, kind='topk')")) == []


def test_no_function_is_longer_than_a_screen():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{name_of(path)}: {node.name} has {lines} lines"


def test_the_ground_floor_is_small_and_every_folder_a_room():
    assert len(list(PACKAGE.glob("*.py"))) <= 4
    for folder in {path.parent for path in SOURCES} - {PACKAGE, *FEW}:
        assert len(list(folder.glob("*.py"))) >= 3, folder
