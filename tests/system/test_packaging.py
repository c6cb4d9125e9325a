"""One wheel serves every Python from 3.11 on, and works where only numpy is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = range(15, 11, -1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built as `pip install .` does."""
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed, so no wheel can be built")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "maturin", "build", "--out", str(out),
               "--interpreter", sys.executable]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if "No module named maturin" in done.stderr:
        pytest.skip("maturin is not installed, so no wheel can be built")
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = out.iterdir()
    return built


def interpreters() -> list[Path]:
    """Pythons of another version, 3.12 or later, on PATH and in pyenv's folders."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in VERSIONS:
        on_path = shutil.which(f"python3.{minor}")
        candidates = [*sorted(pyenv.glob(f"3.{minor}.*/bin/python3")), *filter(None, [on_path])]
        found += [Path(c) for c in candidates]
    return [python for python in found if python.resolve() != Path(sys.executable).resolve()]


@pytest.fixture(scope="module")
def later() -> Path:
    """A Python of another version that starts."""
    check = "import sys; print(sys.version_info >= (3, 12) and sys.implementation.name)"
    for python in interpreters():
        done = subprocess.run([python, "-c", check], capture_output=True, text=True, timeout=60)
        if done.stdout.strip() == "cpython":
            return python
    pytest.skip("no other CPython from 3.12 on was found on PATH or in pyenv's versions")


@pytest.fixture(scope="module")
def numpy_alone(later: Path, tmp_path_factory) -> Path:
    """A folder with numpy for that Python and nothing else."""
    folder = tmp_path_factory.mktemp("numpy")
    command = [later, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--no-deps",
               "--target", str(folder), "numpy"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("numpy could not be installed for the other Python in two minutes")
    if done.returncode:
        said = (done.stderr.strip() or "pip failed").splitlines()[-1]
        pytest.skip(f"numpy could not be installed for the other Python ({said})")
    return folder


def test_it_is_one_abi3_wheel(wheel):
    assert "-cp311-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [n for n in names if n.endswith((".so", ".pyd", ".dylib"))] in (
        ["topk_ortho/_core.abi3.so"],
        ["topk_ortho/_core.pyd"],
    )


def test_it_holds_the_whole_package_and_nothing_else(wheel):
    source = ROOT / "python"
    modules = {str(p.relative_to(source)) for p in source.rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    page = {f"topk_ortho/report/page.{ending}" for ending in ("css", "html.j2", "js")}
    assert modules | page <= names
    assert "topk_ortho/_core.pyi" in names
    others = {n for n in names - modules if ".dist-info/" not in n and "/_core." not in n}
    pins = "topk_ortho/integrations/saebench/requirements.txt"
    assert others <= {"LICENSE", "topk_ortho/py.typed", pins, *page}


def test_it_names_its_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "topk-ortho=topk_ortho.cli:main" in archive.read(name).decode().replace(" ", "")


WORKS = """
import sys
import numpy as np
import topk_ortho
from topk_ortho import _core
from topk_ortho.constraint.history import PairHistory
import topk_ortho.config

assert topk_ortho.__file__.startswith(sys.argv[1]), topk_ortho.__file__
m = np.array([3, 1, 2], dtype=np.float32)
i, j, score = _core.top_products(m, 2)
assert (i.tolist(), j.tolist(), score.tolist()) == ([0, 0], [2, 1], [6.0, 3.0])
history = PairHistory(capacity=10, decay=0.9)
history.observe(0, i, j)
again = PairHistory.from_bytes(history.to_bytes())
assert len(again) == 2 and again.ema(i, j).tolist() == history.ema(i, j).tolist()
assert "torch" not in sys.modules
print("works", *sys.version_info[:2])
"""


@pytest.mark.slow
def test_it_works_under_a_later_python_with_numpy_alone(wheel, later, numpy_alone, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(numpy_alone)]),
    }
    done = subprocess.run(
        [later, "-c", WORKS, str(tmp_path / "site")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("works 3 "), done.stderr
    assert done.stdout.split()[2] != str(sys.version_info[1])
