"""The three sheets are drawn from whatever a run left behind, torn logs included."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from topk_ortho.config import ConfigError
from topk_ortho.report import draw, plots
from topk_ortho.report.canvas import GREY, SERIES
from topk_ortho.report.charts import LABEL
from topk_ortho.report.reading import read_log

NAMES = ["final_stats.png", "memory_usage.png", "training_metrics.png"]


def line(step: int, **more: object) -> dict:
    return {
        "step": step,
        "loss": 9.0 / step,
        "l2": 8.0 / step,
        "l1": 7.0,
        "lr": 0.005,
        "sparsity_penalty": 0,
        "memory_allocated": 4e8,
        "memory_reserved": 5e8,
    } | more


def run(folder: Path, lines: list[dict], *, device: str = "cpu", **result: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    (folder / "manifest.json").write_text(json.dumps({"hardware": {"device": device}}))
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return struct.unpack(">II", head[16:])


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text)]


@pytest.mark.parametrize("baseline", [False, True])
def test_the_three_files_are_written_1200_pixels_wide(baseline: bool, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [line(s) for s in range(50, 500, 50)], criterion="coactivation")
    if baseline:
        run(folder / "baseline", [line(s) for s in range(50, 500, 50)])
    paths = draw(folder)
    assert sorted(p.name for p in paths) == NAMES
    assert sorted(p.name for p in (folder / "plots").iterdir()) == NAMES
    assert {size(path)[0] for path in paths} == {1200}
    assert draw(folder) == paths  # again, over what is there


def test_memory_is_in_megabytes_solid_and_dashed_one_colour_for_each_run(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [line(50), line(100)], device="NVIDIA H100", criterion="random")
    run(folder / "baseline", [line(50), line(100)])
    sheet = plots.memory_sheet(plots.read_runs(folder))
    lines = sheet.axes[0].get_lines()
    labels = [text for text in texts(sheet) if ": " in text]
    assert labels == [
        "random: allocated",
        "random: reserved",
        "none: resident",
        "none: peak resident",
    ]
    assert [(ln.get_linestyle(), ln.get_color()) for ln in lines] == [
        ("-", SERIES[0]),
        ("--", SERIES[0]),
        ("-", GREY),
        ("--", GREY),
    ]
    assert [list(ln.get_ydata()) for ln in lines[:2]] == [[400.0, 400.0], [500.0, 500.0]]


def test_bars_carry_their_values(tmp_path: Path) -> None:
    losses = [5.0] * 18 + [1.0, 3.0]
    lines = [line(i + 1, loss=v, sparsity_penalty=0.0125) for i, v in enumerate(losses)]
    folder = run(tmp_path / "run", lines, steps=12345)
    (one,) = plots.read_runs(folder)
    shown = texts(plots.final_sheet([one]))
    assert "2" in shown
    (note,) = [text for text in shown if text.startswith("final loss: mean")]
    assert note.replace("\n", " ").endswith(
        "training steps 12,345, learning rate at the end 0.005, coefficient of the L1 term 0.0125"
    )
    mean, spread = plots.final_loss(one)
    assert mean == 2.0
    assert spread == pytest.approx(2**0.5)


def test_training_has_a_curve_for_each_run_in_each_panel(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [line(50), line(100, l2=None), line(150, l2=float("nan"))])
    (one,) = plots.read_runs(folder)
    figure = plots.training_sheet([one, one])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "L2 loss",
        "Sparsity",
        "Total loss",
    ]
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 2, 2]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [50]
    assert list(figure.axes[2].get_lines()[0].get_xdata()) == [50, 100, 150]


def test_metrics_on_held_out_activations_have_panels_where_they_were_logged(tmp_path: Path) -> None:
    measured = {"step": 100, "held_out": {"l0": 8.0, "ce_score": None, "rows": 9}}
    folder = run(tmp_path / "run", [line(50), line(100), measured])
    figure = plots.training_sheet(plots.read_runs(folder))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[3:] == ["Held-out L0"]
    assert list(figure.axes[3].get_lines()[0].get_xdata()) == [100]
    assert list(figure.axes[2].get_lines()[0].get_xdata()) == [50, 100]


@pytest.mark.fault("a torn log in a plot")
@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_passed_over(cut: int, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [line(50), line(100)])
    whole = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(whole + json.dumps(line(150)).encode()[:cut])
    assert [entry["step"] for entry in read_log(folder / "metrics.jsonl")] == [50, 100]
    assert len(draw(folder)) == 3


def test_a_step_logged_twice_counts_as_the_later(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [line(50), line(100, l2=1.0), line(100, l2=2.0), line(75)])
    assert [(e["step"], e["l2"]) for e in read_log(folder / "metrics.jsonl")][1:] == [
        (75, 8 / 75),
        (100, 2.0),
    ]


def test_what_was_not_logged_is_said_so(tmp_path: Path) -> None:
    folder = run(tmp_path / "a$b$" / ("x" * 99), [{"step": 50}])
    assert len(draw(folder)) == 3
    (one,) = plots.read_runs(folder)
    assert "not logged" in texts(plots.memory_sheet([one]))
    final = texts(plots.final_sheet([one]))
    assert final.count("not logged") == 3
    shown = [text for text in final if "x…x" in text]
    assert len(shown) >= 2
    assert all(len(text) <= LABEL for text in shown)


def test_a_run_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        draw(tmp_path)
    with pytest.raises(ConfigError, match="holds no step"):
        draw(run(tmp_path / "run", []))


@pytest.mark.fault("a damaged log in a plot")
def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [line(50)])
    (folder / "metrics.jsonl").write_text('{"step": 5\n' + json.dumps(line(50)) + "\n")
    with pytest.raises(ConfigError, match="line 1"):
        draw(folder)


def test_reports_need_no_torch_and_load_matplotlib_late() -> None:
    code = (
        "import sys; import topk_ortho.report.plots, topk_ortho.report.table; "
        "sys.exit(bool({'torch', 'matplotlib', 'topk_ortho.training'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_end_shows_what_was_found_first(tmp_path: Path) -> None:
    found = {"absorption_rate": 0.1, "excess": 0.02, "steps": 450}
    lines = [line(s, explained_variance=s / 500, l0=8.0) for s in range(50, 500, 50)]
    folder = run(tmp_path / "run", lines, criterion="coactivation", **found)
    run(folder / "baseline", lines, **(found | {"absorption_rate": 0.4, "steps": 450}))
    figure = plots.final_sheet(plots.read_runs(folder))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Absorption",
        "Excess",
        "Explained variance",
        "L0",
        "Final loss",
    ]
    assert [len(axes.get_lines()) for axes in figure.axes[2:4]] == [2, 2]
    assert {"0.1", "0.4"} <= set(texts(figure))
    other = run(tmp_path / "other", lines, steps=900)
    both = plots.read_runs(folder) + plots.read_runs(other)
    assert "Training steps" in [a.get_title(loc="left") for a in plots.final_sheet(both).axes]
