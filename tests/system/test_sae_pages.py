"""Every command and script on the pages about SAE formats and repair, at tiny sizes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from tests.conftest import environment
from tests.integrations.hub_server import serving
from tests.system.tiny_run import SYNTHETIC, over
from topk_ortho import cli, formats
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.train import main as train

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("sae-formats.md", "repair.md")
TINY = ["--steps", "8", "--batch-size", "32", "--buffer-rows", "512", "--eval-samples", "600"]
SAE = ["--sae.d-sae", "64", "--sae.k", "4"]


def blocks(page: str, language: str) -> Iterator[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Every command line of a page, continued lines joined and remarks left out."""
    lines: list[str] = []
    for block in blocks(page, "sh"):
        joined = block.replace("\\\n", " ")
        lines += [line.split("#")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line]


def saes() -> None:
    """What the pages take as there: a finished run, and an SAE that someone else trained."""
    assert train(["--pairs.criterion", "none", "--out", "runs/plain", *SAE, *tiny([])]) == 0
    rng = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(64, 32, generator=rng), dim=1)
    theirs = StoredSAE("saelens", "batch-topk", 4, W_dec.T.contiguous(),
                       torch.zeros(64), W_dec, torch.zeros(32), torch.full((64,), 1.0))  # fmt: skip
    formats.write(theirs, "their-sae")


def tiny(words: list[str]) -> list[str]:
    return over(TINY, *(["--context", "32"] if "--model" in words else SYNTHETIC))


def run(line: str, hub: str) -> int:
    """One command line of a page, made tiny."""
    program, *words = shlex.split(line)
    if program == "python" and words[0].startswith("benches/"):
        few = [*words[1:], "--seeds", "2", "--", *SAE, *tiny([])]
        command = [sys.executable, str(DOCS.parent / words[0]), *few]
        return subprocess.run(command, env=environment(), timeout=240).returncode
    if program == "python":
        assert words[:2] == ["-m", "topk_ortho.train"]
        fresh = [] if "--init-from" in words else SAE
        return train(over(words[2:], *fresh, *tiny(words)))
    assert program == "topk-ortho"
    if words[0] in ("push", "pull"):  # the client reads its address once, when it is imported
        command = [sys.executable, "-m", "topk_ortho.cli", *words]
        environ = {**environment(), "HF_ENDPOINT": hub, "HF_TOKEN": "hf_stand_in"}
        return subprocess.run(command, env=environ, timeout=240).returncode
    return cli.main(over(words, *tiny(words)))


@pytest.mark.parametrize(
    ("page", "count"), [("sae-formats.md", 2), pytest.param("repair.md", 8, marks=pytest.mark.slow)]
)
def test_every_command_runs(
    page: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saes()
    Path("text.txt").write_text("\n\n".join(tiny_llama.stories(400)), encoding="utf-8")
    lines = commands(page)
    assert len(lines) == count
    with serving() as hub:
        for line in lines:
            line = line.replace("MODEL", str(tiny_llama.shared())).replace("TEXT", "text.txt")
            line = line.replace("blocks.3.", "blocks.1.")
            if line.startswith("topk-ortho pull"):
                line = line.replace("their-sae", "pulled")
            assert run(line, hub.url) == 0, line
    if page == "repair.md":  # one of a language model
        records = [json.loads(p.read_text()) for p in Path("runs").glob("*/repair.json")]
        assert sorted("ce_score" in r["before"] for r in records) == [False, False, False, True]
        for record in records:
            assert set(record["before"]) == set(record["after"])
            assert "excess" in record["before"] or "ce_score" in record["difference"]


@pytest.mark.parametrize("page", PAGES)
def test_every_script_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saes()
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})
