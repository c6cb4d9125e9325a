"""The page as a whole: its order, what it leaves out, and that nothing from outside gets loose."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.report.conftest import FEATURES
from tests.report.folders import FIGURES, log, run_folder
from topk_ortho.config import ConfigError
from topk_ortho.report import write
from topk_ortho.report.canvas import ROLES
from topk_ortho.report.collect import collect
from topk_ortho.report.drawings import Sketch
from topk_ortho.report.features import read_features
from topk_ortho.report.page import sections
from topk_ortho.report.write import write_report

ORDER = ["found", "table", "tradeoffs", "health", "features", "tau", "fraction", "schedule",
         "stability", "final", "run", "training", "memory"]  # fmt: skip


class Outline(HTMLParser):
    """Tags, addresses and text of a page; attributes that a browser would act on."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


def section_names(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', html)


def test_every_section_in_its_order(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert section_names(html) == ORDER
    assert re.findall(r'href="#(\w+)"', html) == ORDER


def test_one_file_that_asks_for_nothing(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 2e6
    outline = Outline(html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in html  # no other script, and none from elsewhere
    assert outline.tags.count("script") == 1
    assert not {"img", "iframe", "object", "embed", "form", "image"} & set(outline.tags)
    for name, value in outline.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "action"):
            assert (value or "").startswith(("#", "data:")), (name, value)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html


def test_ids_are_unique_and_every_reference_has_one(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    ids = Outline(html).ids
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert {a or b for a, b in used} <= set(ids)


def test_colours_are_variables_that_the_page_defines_light_and_dark(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    style, body = html.split("</style>")
    assert not set(re.findall(r"#[0-9a-f]{6}", body)), "a colour that dark mode does not reach"
    for role in set(re.findall(r"var\(--(\w+)\)", body)) | set(ROLES.values()):
        assert style.count(f"--{role}:") == 3, role  # light, dark, print


def test_tables_and_drawings_have_their_names(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    outline = Outline(html)
    assert outline.tags.count("table") == outline.tags.count("caption") > 3
    drawings = re.findall(r'role="img" aria-label="([^"]+)"', html)
    assert len(drawings) == outline.tags.count("svg") > 10
    assert all(len(label) > 20 for label in drawings)
    assert outline.tags.count("h1") == 1


def test_the_drawings_lie_beside_it_as_png_and_svg(page: Path) -> None:
    files = sorted((page.parent / "plots").iterdir())
    pngs = [file for file in files if file.suffix == ".png"]
    assert [file.stem for file in files if file.suffix == ".svg"] == [f.stem for f in pngs]
    assert {"memory_usage", "training_loss", "training_pairs_features", "final_excess"} <= {
        file.stem for file in pngs
    }
    for file in files:
        if file.suffix == ".svg":
            root = ElementTree.fromstring(file.read_bytes())
            assert root.tag.endswith("svg")
            assert root[0].get("fill") == "#ffffff"
        else:
            assert struct.unpack(">II", file.read_bytes()[16:24])[0] == 920


def test_features_have_a_table_and_two_histograms(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    section = html[html.index('<section id="features">') : html.index('<section id="tau">')]
    assert section.count('<table class="sortable">') == 2  # the arm that is spoken of, and none
    assert '<th scope="row">1</th><td>0, dead</td>' in section
    assert "Cosines of decoder rows" in section and "1 of 4 dead" in section
    drawn = {file.stem for file in (page.parent / "plots").iterdir()}
    assert any(name.endswith("features_rates") for name in drawn)
    assert any(name.endswith("features_cosines") for name in drawn)


@pytest.mark.parametrize(
    "change",
    [{"fired": "many"}, {"fired": [1.5]}, {"rows": 0}, {"cosine": [1.0]}, {"cosine": ["<b>"] * 4}],
)
def test_a_damaged_table_of_features_is_left_out(change: dict, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "features.json").write_text(json.dumps(FEATURES))
    assert read_features(folder) is not None
    (folder / "features.json").write_text(json.dumps(FEATURES | change))
    assert read_features(folder) is None
    (folder / "features.json").write_text("{")
    assert read_features(folder) is None
    assert "features" not in section_names(write_report([folder]).read_text(encoding="utf-8"))


def test_many_features_are_cut_to_those_that_fire_most(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    many = {"rows": 5000, "fired": list(range(3000))}
    (folder / "features.json").write_text(json.dumps(many))
    html = write_report([folder]).read_text(encoding="utf-8")
    assert html.count('<th scope="row">') < 1100
    assert "The 1,000 that fire most of 3,000" in html


@pytest.mark.fault("markup and control characters in a report")
def test_strings_from_outside_stay_strings(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    outline = Outline(html)
    assert "b" not in outline.tags
    assert "alert(1)" in outline.text
    for character in "\x00\x1b\u202e":
        assert character not in html
    assert "\\u202e" in outline.text
    assert "failed: </script>" in outline.text


def test_nothing_but_unavailable_figures(tmp_path: Path) -> None:
    nothing = dict.fromkeys(FIGURES) | {"explained_variance": float("nan")}
    for arm in ("none", "coactivation"):
        run_folder(tmp_path / arm, criterion=arm, figures=nothing, lines=[{"step": 50}])
    (comparison,) = collect([tmp_path])
    found = sections([comparison], history=lambda folder: None)
    assert [section.name for section in found] == ["found", "table", "health", "final", "run"]
    html = write_report([tmp_path], tmp_path / "out").read_text(encoding="utf-8")
    assert "unavailable" in html
    assert ">nan<" not in html.lower()


def test_a_run_that_has_only_begun_is_shown_with_its_reason(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", figures={}, lines=log()[-1:])
    html = write_report([tmp_path / "run"]).read_text(encoding="utf-8")
    assert "not finished: step 200 of 200" in html
    assert section_names(html) == ["found", "stability", "final", "run", "training", "memory"]
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    run_folder(
        tmp_path / "bars", figures={"explained_variance": 0.9}, lines=[{"step": 50, "loss": 1.0}]
    )
    pages = [write_report([tmp_path / "bars"], tmp_path / name) for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    for file in (tmp_path / "a" / "plots").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "plots" / file.name).read_bytes(), file.name


@pytest.mark.fault("a page of somebody else in the report's place")
def test_a_page_that_is_no_report_is_not_written_over(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", lines=[{"step": 50}])
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("my page")
    with pytest.raises(ConfigError, match="is not a report"):
        write_report([tmp_path / "run"], out)
    assert (out / "index.html").read_text() == "my page"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report([tmp_path / "run"], tmp_path / "file" / "out")


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from topk_ortho.cli import main

    run_folder(tmp_path / "run", lines=[{"step": 50}])
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "index.html") in capsys.readouterr().out
    assert main(["report", str(tmp_path / "absent")]) != 0
    assert "check the path" in capsys.readouterr().err


def test_a_page_that_grows_too_large_leaves_drawings_to_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder(tmp_path / "run", lines=log()[-1:])
    whole = write_report([tmp_path / "run"], tmp_path / "whole").stat().st_size
    monkeypatch.setattr(write, "LARGEST", whole - 1)
    page = write_report([tmp_path / "run"], tmp_path / "cut")
    assert page.stat().st_size < whole
    html = page.read_text(encoding="utf-8")
    assert "The drawings are in plots/" in html.split('<section id="final">')[1]
    assert "<svg" in html.split('<section id="final">')[0]
    names = [
        sorted(f.name for f in (tmp_path / out / "plots").iterdir()) for out in ("whole", "cut")
    ]
    assert names[0] == names[1]


def test_long_logs_are_thinned_and_keep_their_last_step(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1.0 / step} for step in range(1, 5001)]
    run_folder(tmp_path / "run", lines=lines, figures={})
    (comparison,) = collect([tmp_path])
    (series,) = Sketch.of(comparison, [], prefix="").curves(comparison.arms, "loss")
    assert len(series.x) == 100
    assert series.x[-1] == 5000
