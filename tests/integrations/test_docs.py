"""The examples of docs/drop-ins.md run as they stand, beside the test data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.integrations.standalone import host

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PAGE = (ROOT / "docs" / "drop-ins.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
EXAMPLES = {
    title: re.findall(r"```python\n(.*?)```", text, re.S)
    for title, text in SECTIONS.items()
    if "```python" in text
}
HOSTS = {
    "SAELens": "sae_lens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
}
# Every penalty that an example made, and whether it acted.
WATCHED = """
from topk_ortho.constraint import orthogonality as module
made = []
class Watched(module.Orthogonality):
    def __init__(self, *given):
        super().__init__(*given)
        made.append(self)
import topk_ortho.integrations as package
for place in (module, package):
    place.Orthogonality = Watched
{example}
(penalty,) = made
assert len(penalty.selection) > 0 and float(penalty.value) > 0, penalty.value
print("acted on", len(penalty.history), "pairs")
"""


def run(example: str, folder: Path) -> None:
    (folder / "data").symlink_to(DATA)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(example=example)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "acted on" in done.stdout


def test_every_host_has_one_example() -> None:
    assert set(EXAMPLES) == {"A loop of your own", "A transcoder", *HOSTS}
    assert all(len(blocks) == 1 for blocks in EXAMPLES.values())


@pytest.mark.parametrize(
    "title", ["A loop of your own", pytest.param("A transcoder", marks=pytest.mark.slow)]
)
def test_a_loop_of_ones_own(title: str, tmp_path: Path) -> None:
    run(EXAMPLES[title][0], tmp_path)


@pytest.mark.parametrize("title", HOSTS)
def test_a_host(title: str, tmp_path: Path) -> None:
    host(HOSTS[title])
    if title != "dictionary_learning" and not DATA.is_dir():
        pytest.skip(f"no {DATA}")
    run(EXAMPLES[title][0], tmp_path)
