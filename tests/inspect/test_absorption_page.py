"""The commands and the file of docs/absorption.md, run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.inspect.test_token_classes import DATA, sae_folder
from topk_ortho import cli
from topk_ortho.metrics.absorption import AbsorptionEdge

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "absorption.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_lines_of_python_run():
    (source,) = blocks("python")
    on = torch.rand(200, 3) < 0.5
    on[:, 0] |= on[:, 1] | on[:, 2]
    names = {"on": on, "acts": torch.rand(200, 8) * (torch.rand(200, 8) < 0.3)}
    exec(compile(source, "absorption.md", "exec"), names)
    assert len(names["result"].edges) == 2


def test_it_names_every_figure_of_an_edge():
    table = PAGE.split("| field | meaning |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert set(AbsorptionEdge.__dataclass_fields__) <= named


@pytest.mark.skipif(not DATA.exists(), reason=f"the language model is not at {DATA}")
def test_the_command_runs_on_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (classes,), (line,) = blocks("toml"), blocks("sh")
    Path("classes.toml").write_text(classes, encoding="utf-8")
    sae = sae_folder(tmp_path / "sae", 64, healthy=True)
    given = {
        "SAE_OR_RUN": str(sae),
        "DIR": str(DATA / "stories260k"),
        "FILE": str(DATA / "text" / "stories.txt"),
    }
    command = [given.get(word, word) for word in shlex.split(line.replace("\\\n", ""))]
    assert command.pop(0) == "topk-ortho"
    assert cli.main([*command, "--tokens", "20000", "--draws", "3"]) == 0
    assert "pronoun > she" in capsys.readouterr().out
    found = json.loads(Path("absorption.json").read_text(encoding="utf-8"))
    verdicts = {verdict["name"]: verdict["verdict"] for verdict in found["classes"]}
    assert verdicts["pronoun"] == "measurable"
    assert verdicts["she"] == "one member"
    assert found["invalid"] is None
