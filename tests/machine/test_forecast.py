"""The forecast of a run's memory, held against what a process of its own then takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.conftest import environment
from tests.system.tiny_run import over, words
from topk_ortho.commands.reader import RunOptions, parse
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.config.toml import option_types
from topk_ortho.machine.forecast import KEPT, MOMENTS, Component, Forecast, Place, readable
from topk_ortho.training import evaluation
from topk_ortho.training.memory import forecast

CALIBRATION_ROWS = 4096
MEASURED = """
import ctypes, sys
from pathlib import Path
import torch
from topk_ortho.commands.reader import parse
from topk_ortho.machine import hardware
from topk_ortho.training import evaluation, train

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

kept, calibration_rows, folder, *arguments = sys.argv[1:]
library = ctypes.CDLL(None)
if kept == "kept":
    hardware.keep_freed_memory()  # as the command line does
else:  # every block is mapped by itself and goes back when it is freed
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for option, value in ((mmap_threshold, 65536), (trim_threshold, 65536), (top_pad, 0)):
        library.mallopt(option, value)
evaluation.CALIBRATION_ROWS = int(calibration_rows)
tiny = parse("--steps 6 --batch-size 32 --sae.d-sae 64 --sae.k 4 --sae.dead-after 1 "
             "--eval-samples 500 --threads 1 --buffer-rows 500".split()).settings
train(tiny, Path(folder) / "tiny", progress=False)  # what is loaded on first use
config = parse([*arguments, "--threads", "1"]).settings
library.malloc_trim(0)  # else freed memory is used again and hides the growth
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before = memory("VmRSS:")
train(config, Path(folder) / "run", progress=False)
print(memory("VmHWM:") - before)
"""
SHORT = "--eval-samples 1000 --log-every 1 --keep-checkpoints 1 --buffer-rows 4096 --steps 4"
CHEAP = {
    "sparse": "--sae.kind topk --sae.d-sae 4096 --sae.k 16 --synthetic.d-in 128",
    "dense": "--sae.kind relu --sae.d-sae 2048 --synthetic.d-in 256 --batch-size 1024 "
    "--pairs.criterion random",
    "ranked": "--sae.d-sae 8192 --sae.k 16 --synthetic.d-in 64 --batch-size 1024 --steps 3 "
    "--pairs.criterion coactive-cosine --history.no-enabled",
}
GRID = {
    "topk": "--sae.kind topk --sae.d-sae 16384 --sae.k 32 --synthetic.d-in 512 --steps 3",
    "topk-dense": "--sae.kind topk --sae.d-sae 1024 --sae.k 64 --synthetic.d-in 512 "
    "--batch-size 2048 --buffer-rows 8192",
    "topk-dead": "--sae.kind topk --sae.d-sae 65536 --sae.k 8 --synthetic.d-in 64 "
    "--batch-size 256 --steps 6 --sae.dead-after 2 --pairs.per-feature 0.1",
    "topk-small": "--sae.kind topk --sae.d-sae 512 --sae.k 32 --synthetic.d-in 384 "
    "--batch-size 4096 --buffer-rows 32768 --pairs.criterion coactive-cosine "
    "--history.no-enabled",
    "topk-tiles": "--sae.kind topk --sae.d-sae 8192 --sae.k 32 --synthetic.d-in 128 "
    "--batch-size 256 --buffer-rows 65536 --pairs.criterion decoder-cosine",
    "batch-topk": "--sae.d-sae 8192 --sae.k 32 --synthetic.d-in 256 --batch-size 1024 "
    "--buffer-rows 8192 --pairs.criterion coactive-cosine",
    "batch-topk-small": "--sae.d-sae 256 --sae.k 16 --synthetic.d-in 768 --batch-size 4096 "
    "--buffer-rows 16384 --pairs.criterion magnitude",
    "batch-topk-wide": "--sae.d-sae 32768 --sae.k 8 --synthetic.d-in 128 --batch-size 128 "
    "--sae.aux-k 0",
    "batch-topk-random": "--sae.d-sae 16384 --sae.k 16 --synthetic.d-in 64 --batch-size 1024 "
    "--buffer-rows 16384 --pairs.criterion random --history.no-enabled",
    "matryoshka": "--sae.kind matryoshka --sae.d-sae 16384 --sae.k 32 --synthetic.d-in 64 "
    "--batch-size 512 --buffer-rows 8192",
    "matryoshka-dense": "--sae.kind matryoshka --sae.d-sae 2048 --sae.k 64 --synthetic.d-in 768 "
    "--batch-size 1024 --buffer-rows 8192 --pairs.criterion none",
    "relu": "--sae.kind relu --sae.d-sae 4096 --synthetic.d-in 128 --pairs.criterion none",
    "relu-wide": "--sae.kind relu --sae.d-sae 1024 --synthetic.d-in 768 --batch-size 4096 "
    "--buffer-rows 8192 --pairs.criterion none",
    "relu-tiles": "--sae.kind relu --sae.d-sae 8192 --synthetic.d-in 64 --batch-size 256 "
    "--pairs.criterion coactive-cosine --pairs.per-feature 0.5",
}


def measured(options: str, folder: Path, *, kept: bool = True) -> int:
    """Bytes by which a fresh process grows during a run."""
    if not sys.platform.startswith("linux") or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("peak memory is read from /proc/self/status, which is Linux")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURED, "kept" if kept else "freed",
         str(CALIBRATION_ROWS), str(folder), *over(words(SHORT), *words(options))],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process that is measured."""
    monkeypatch.setattr(evaluation, "CALIBRATION_ROWS", CALIBRATION_ROWS)


def expected(options: str) -> Forecast:
    config = parse(over(words(SHORT), *words(options))).settings
    assert config.synthetic.d_in is not None
    return forecast(config, d_in=config.synthetic.d_in, device="cpu")


def assert_close(expected: float, measured: float) -> None:
    assert 0.8 < expected / measured < 1.2, f"{expected / measured:.2f}: {expected}, {measured}"


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    "setting",
    ["sparse", *(pytest.param(s, marks=pytest.mark.slow) for s in CHEAP if s != "sparse")],
)
def test_the_components_add_up_to_the_peak(setting: str, tmp_path: Path) -> None:
    peak = expected(CHEAP[setting])
    live = peak.peak("host") - parts(peak)["kept by the allocator"]
    assert_close(live, measured(CHEAP[setting], tmp_path, kept=False))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=pytest.mark.slow) for s in ("dense", "ranked")]
)
def test_the_peak_of_a_run_is_within_20_percent(setting: str, tmp_path: Path) -> None:
    # Holes in the heap are not the same from one process to the next.
    runs = [measured(CHEAP[setting], tmp_path / str(run)) for run in range(2)]
    assert_close(expected(CHEAP[setting]).peak("host"), mean(runs))


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("setting", GRID)
def test_the_peak_is_within_20_percent_over_the_grid(setting: str, tmp_path: Path) -> None:
    peak = expected(GRID[setting])
    live = peak.peak("host") - parts(peak)["kept by the allocator"]
    assert_close(live, measured(GRID[setting], tmp_path / "live", kept=False))
    runs = [measured(GRID[setting], tmp_path / str(run)) for run in range(2)]
    assert_close(peak.peak("host"), mean(runs))


def of(options: str = "", *, d_in: int = 64, device: str = "cpu", **more: Any) -> Forecast:
    return forecast(parse(words(options)).settings, d_in=d_in, device=device, **more)


def parts(expected: Forecast) -> dict[str, int]:
    """Bytes by name, of one that exists twice the larger."""
    return {part.name: part.bytes for part in sorted(expected.components, key=lambda c: c.bytes)}


def test_weights_and_optimiser_are_counted_exactly() -> None:
    expected = parts(of("--sae.d-sae 1000"))
    weights = 4 * (2 * 64 * 1000 + 1000 + 64)
    assert expected["weights"] == expected["gradients"] == weights
    assert expected["Adam's moments"] == 2 * weights
    assert expected["data"] == 4 * 64 * 131_072


def test_a_transcoder_has_two_widths() -> None:
    expected, plain = parts(of("--sae.d-sae 1000", d_out=48)), parts(of("--sae.d-sae 1000"))
    weights = 4 * ((64 + 48) * 1000 + 1000 + 48 + 64)
    assert expected["weights"] == expected["gradients"] == weights
    assert expected["data"] == 4 * (64 + 48) * 131_072
    assert expected["reconstructions"] == plain["reconstructions"] * 48 // 64
    assert expected["centred batch"] == plain["centred batch"]
    assert "targets of the first rows" in expected.keys() - plain.keys()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_peak_is_the_dearest_moment(device: str) -> None:
    expected = of("--sae.d-sae 65536", device=device)
    places: tuple[Place, ...] = ("host",) if device == "cpu" else ("host", "device")
    for place in places:
        listed = expected.at_peak(place)
        assert sum(part.bytes for part in listed) == expected.peak(place)
        assert all(expected.moment(place) in part.when for part in listed)
        assert expected.peak(place) == max(expected.at(moment, place) for moment in MOMENTS)
        sizes = [part.bytes for part in listed]
        assert sizes == sorted(sizes, reverse=True)
    assert {part.place for part in expected.components} == set(places)
    assert json.loads(json.dumps(expected.as_json()))["peak_bytes"]["host"] > 0


@pytest.mark.parametrize(
    ("lower", "part"),
    [
        ("--sae.d-sae 32768", "weights"),
        ("--batch-size 256", "pre-activations"),
        ("--buffer-rows 4096", "data"),
        ("--pairs.per-feature 0.1", "penalty"),
        ("--history.capacity 1000", "pair history"),
        ("--pairs.criterion correlation --pairs.memory-budget 1048576", "selection"),
        ("--sae.k 4", "active entries"),
        ("--steps 40", "aux-k, codes"),
    ],
)
def test_lowering_a_setting_lowers_its_component(lower: str, part: str) -> None:
    before = "--sae.d-sae 65536 --sae.k 64 --pairs.per-feature 2.5"
    kept = " ".join(w for w in lower.split("--")[:-1] if w)
    given = before if lower.split()[0] not in before else ""
    higher = f"{before} --{kept}" if kept else before
    assert parts(of(f"{given} {lower}")).get(part, 0) < parts(of(higher))[part]


def test_without_the_constraint_there_are_no_pairs() -> None:
    expected = parts(of("--pairs.criterion none"))
    assert not {"selection", "penalty", "chosen pairs", "pair history"} & set(expected)


@pytest.mark.parametrize("kind", ARCHITECTURES.names())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_components_exist_at_moments_and_name_options(kind: str, device: str) -> None:
    known = {f"--{name.removeprefix('settings.')}" for name in option_types(RunOptions)}
    for part in of(f"--sae.kind {kind} --sae.d-sae 4096", device=device).components:
        assert not part.setting or set(part.setting.split(", ")) <= known, part
        assert part.when and set(part.when) <= set(MOMENTS), part
        assert part.bytes > 0


def test_the_selection_never_counts_beyond_its_budget() -> None:
    for criterion in ("coactivation", "decoder-cosine", "preactivation"):
        expected = parts(of(f"--sae.d-sae 1048576 --sae.k 64 --pairs.criterion {criterion}"))
        assert expected["selection"] <= 256 * 2**20


def test_what_a_source_keeps_is_counted() -> None:
    assert of(cached=10**9).at("encoding", "host") - of().at("encoding", "host") >= 0.9e9


def test_what_is_yet_to_be_loaded_is_counted() -> None:
    assert of(loaded=10**9).peak("host") - of().peak("host") == 10**9


def test_a_share_of_the_largest_hole_is_kept_on_cpu_alone() -> None:
    def held(gpu: bool) -> Forecast:
        one = Component("one", 1000, ("encoding",), "")
        other = Component("other", 400, ("decoding",), "")
        third = Component("third", 300, ("optimiser",), "")
        return Forecast.of([one, other, third, Component("none", 0, MOMENTS, "")], gpu=gpu)

    assert held(gpu=True).peak("device") == 1000
    assert [c.name for c in held(gpu=True).components] == ["one", "other", "third"]
    assert held(gpu=False).peak("host") == 1000 + round(KEPT * 400)
    assert held(gpu=False).moment("host") == "encoding"


def test_readable() -> None:
    assert [readable(b) for b in (0, 12_345_678, 2_500_000_000)] == ["0.0 MB", "12.3 MB", "2.50 GB"]
