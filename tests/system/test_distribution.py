"""What `make dist` builds, installed into an empty environment and run there.

Torch and the other dependencies are not installed a second time: the environment gets a `.pth` file
that names the folder of those of this one, as `make bench-peers` does. The package comes from the
file alone, which is installed without dependencies before that.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.system.tiny_run import words

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FEW_STEPS = words(
    "--steps 5 --batch-size 64 --sae.d-sae 64 --sae.k 4 --synthetic.d-in 24 --synthetic.roots 4 "
    "--synthetic.children 2 --synthetic.independent 12 --eval-samples 512 --buffer-rows 2048"
)


def call(command: list[str], cwd: Path, *, minutes: int = 5) -> str:
    """Standard output of a command that has to succeed, without this checkout on its path."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment["CARGO_TARGET_DIR"] = str(ROOT / "target")  # other crates are compiled once
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60 * minutes
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `make wheels` builds, by architecture."""
    out = tmp_path_factory.mktemp("wheels")
    call(["make", "wheels", f"DIST={out}"], ROOT, minutes=30)
    return {path.stem.rpartition("2_17_")[2]: path for path in out.glob("*.whl")}


MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of an ELF file


def test_a_wheel_is_of_its_architecture_and_of_every_python(wheels: dict[str, Path]) -> None:
    assert set(wheels) == set(MACHINES)
    for architecture, path in wheels.items():
        assert f"cp311-abi3-manylinux2014_{architecture}.manylinux_2_17_" in path.name
        with ZipFile(path) as wheel:
            names = set(wheel.namelist())
            core = wheel.read("topk_ortho/_core.abi3.so")
        assert int.from_bytes(core[18:20], "little") == MACHINES[architecture]
        assert {
            "topk_ortho/py.typed",
            "topk_ortho/_core.pyi",
            "topk_ortho/report/page.css",
        } <= names
        assert not [name for name in names if name.startswith(("tests/", "benches/"))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist of `make dist`."""
    for program in ("make", "cargo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed, so nothing can be built")
    out = tmp_path_factory.mktemp("dist")
    prefix = Path(sys.prefix)
    # The environment of the tests, as it is, in place of .venv.
    make = ["make", "dist", f"DIST={out}", f"VENV={prefix}", "-o", str(prefix / ".dependencies")]
    call(make, ROOT, minutes=30)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module", params=["wheel", "sdist", "manylinux"])
def python(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the package from one of the files; the
    manylinux wheel is that of this machine's architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if request.param == "manylinux":
        package = request.getfixturevalue("wheels")[platform.machine()]
    else:
        package = request.getfixturevalue("built")[request.param]
    if request.param == "sdist":
        # What pip install does first: the build, here by the maturin of this environment.
        wheel = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(package)]
        call([*wheel, "--wheel-dir", str(folder)], folder, minutes=30)
        (package,) = folder.glob("*.whl")
    call([sys.executable, "-m", "venv", "--without-pip", "env"], folder)
    interpreter = folder / "env" / "bin" / "python"
    install = [*pip, "--python", str(interpreter), "install", "--quiet", "--no-deps", "--no-index"]
    call([*install, str(package)], folder)
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(call([str(interpreter), "-c", purelib], folder).strip())
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return interpreter


def test_the_package_comes_from_the_environment_and_torch_from_the_shared_one(python, tmp_path):
    code = (
        "import sys, topk_ortho, topk_ortho._core as core, torch\n"
        "print(sys.prefix, topk_ortho.__file__, core.__file__, torch.__file__, sep='\\n')"
    )
    prefix, package, core, torch = call([str(python), "-c", code], tmp_path).splitlines()
    assert Path(prefix) == python.parents[1]
    assert package.startswith(prefix)
    assert core.startswith(prefix)
    assert torch.startswith(sysconfig.get_path("purelib"))


def test_it_trains_and_reports(python, tmp_path):
    call([str(python), "-m", "topk_ortho.train", *FEW_STEPS, "--out", "run"], tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["explained_variance"] is not None
    command = str(python.with_name("topk-ortho"))
    assert "absorption" in call([command, "--help"], tmp_path)
    call([command, "report", "run"], tmp_path)
    assert (tmp_path / "run" / "report" / "index.html").is_file()
