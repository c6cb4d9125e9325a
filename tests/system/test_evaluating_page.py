"""Every command of docs/evaluating.md, on tiny data; SAEBench where its environment is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny_llama
from tests.system.tiny_run import tiny
from topk_ortho.cli import main
from topk_ortho.formats import saelens
from topk_ortho.training import train

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]
SAEBENCH = ROOT / ".venv-saebench" / "bin" / "python"
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for the page's RUN, SAE, MODEL, FILE and DIR."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "text.txt").write_text("\n\n".join(tiny_llama.stories()), encoding="utf-8")
    (folder / "shards").mkdir()
    rng = torch.Generator().manual_seed(0)
    np.save(folder / "shards" / "x.npy", torch.randn(300, 32, generator=rng).numpy())
    axes = torch.eye(32)
    weights = {"W_enc": torch.cat([axes, -axes], 1), "W_dec": torch.cat([axes, -axes])}
    saelens.export(folder / "sae", kind="relu", **weights, b_enc=torch.zeros(64), k=16, hook="",
                   b_dec=torch.zeros(32), threshold=None, model="")  # fmt: skip
    train(tiny("--synthetic.d-in", "32", "--steps", "20"), folder / "run", progress=False)
    return {
        "RUN": str(folder / "run"),
        "SAE": str(folder / "sae"),
        "MODEL": str(tiny_llama.shared()),
        "FILE": str(folder / "text.txt"),
        "DIR": str(folder / "shards"),
        "blocks.3.hook_resid_post": HOOK,
    }


def test_the_page_has_its_commands():
    assert len(COMMANDS) == 7
    assert [c for c in COMMANDS if not c.startswith("topk-ortho evaluate ")] == ["make saebench"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("topk-ortho")])
def test_a_command_of_the_page(command, places, tmp_path, monkeypatch, capsys):
    arguments = [places.get(word, word) for word in shlex.split(command)[1:]]
    if "saebench" in arguments:
        if not SAEBENCH.is_file():
            pytest.skip("no .venv-saebench; `make saebench` builds it")
        arguments += ["--saebench-python", str(SAEBENCH), "--core-batches", "1", "1"]
        arguments[arguments.index("--evals") + 1] = "core"  # the others wait for the network
        arguments += ["--context", "32"]
    elif "--text" in arguments:
        arguments += ["--context", "32"]
    elif "synthetic" in arguments:
        arguments += ["--synthetic.d-in", "32", "--eval-samples", "512"]
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0
    assert "health:" in capsys.readouterr().out
    if "--out" in arguments:
        assert (tmp_path / "metrics.json").is_file()


def test_make_knows_the_environment():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "saebench: .venv-saebench/.ready" in makefile
