"""The forecast of a run's memory, held against what a process of its own then takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import environment
from tests.system.tiny_run import words
from topk_ortho.command_line import RunOptions, parse
from topk_ortho.config_file import option_types
from topk_ortho.training.forecast import ALL_ALONG, Forecast, forecast, readable

MEASURED = """
import ctypes, json, sys
from pathlib import Path
import torch
from topk_ortho.command_line import parse
from topk_ortho.training import evaluation, hardware, train
from topk_ortho.training.forecast import forecast

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

folder, *arguments = sys.argv[1:]
hardware.keep_freed_memory()  # as the command line does
evaluation.CALIBRATION_ROWS = 2048
tiny = parse("--steps 6 --batch-size 32 --sae.d-sae 64 --sae.k 4 --sae.dead-after 1 "
             "--eval-samples 500 --threads 1 --buffer-rows 500".split()).settings
train(tiny, Path(folder) / "tiny", progress=False)  # what is loaded on first use
config = parse([*arguments, "--threads", "1"]).settings
expected = forecast(config, d_in=config.synthetic.d_in, device="cpu")
ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again and hides the growth
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before = memory("VmRSS:")
train(config, Path(folder) / "run", progress=False)
print(json.dumps({"measured": memory("VmHWM:") - before, "expected": expected.peak("host")}))
"""

SMALL = "--sae.d-sae 2048 --sae.k 8 --synthetic.d-in 64 --batch-size 512 --steps 6"
LARGE = {
    "16k": "--sae.d-sae 16384 --sae.k 32 --synthetic.d-in 256 --batch-size 512 --steps 6",
    "65k": "--sae.d-sae 65536 --sae.k 8 --synthetic.d-in 64 --batch-size 256 --steps 6",
    "65k-topk": "--sae.kind topk --sae.d-sae 65536 --sae.k 8 --synthetic.d-in 64 "
    "--batch-size 256 --steps 6",
    "65k-dead": "--sae.d-sae 65536 --sae.k 8 --synthetic.d-in 64 --batch-size 256 --steps 10 "
    "--sae.dead-after 4 --buffer-rows 1000",
    "relu": "--sae.kind relu --sae.d-sae 8192 --synthetic.d-in 256 --batch-size 512 --steps 6",
}


def measured(options: str, folder: Path) -> dict[str, int]:
    """Bytes by which a fresh process grows during a run, and what was expected."""
    if not sys.platform.startswith("linux") or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("peak memory is read from /proc/self/status, which is Linux")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURED, str(folder), *words(options),
         "--eval-samples", "2000"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def within(figures: dict[str, int]) -> None:
    ratio = figures["expected"] / figures["measured"]
    assert 0.8 < ratio < 1.2, f"{ratio:.2f}: {figures}"


def test_the_peak_of_a_run_is_within_20_percent_of_its_forecast(tmp_path: Path) -> None:
    within(measured(SMALL, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("size", LARGE)
def test_the_peak_of_a_large_run_is_within_20_percent(size: str, tmp_path: Path) -> None:
    within(measured(LARGE[size], tmp_path))


def of(options: str = "", *, d_in: int = 64, device: str = "cpu", **more: Any) -> Forecast:
    return forecast(parse(words(options)).settings, d_in=d_in, device=device, **more)


def parts(expected: Forecast) -> dict[str, int]:
    return {part.name: part.bytes for part in expected.components}


def test_weights_and_optimiser_are_counted_exactly() -> None:
    expected = parts(of("--sae.d-sae 1000"))
    weights = 4 * (2 * 64 * 1000 + 1000 + 64)
    assert expected["weights"] == expected["gradients"] == weights
    assert expected["Adam's moments"] == 2 * weights
    assert expected["data"] == 4 * 64 * 131_072


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_peak_is_what_is_held_and_the_dearest_moment(device: str) -> None:
    expected = of("--sae.d-sae 65536", device=device)
    places = ("host",) if device == "cpu" else ("host", "device")
    for place in places:
        listed = expected.at_peak(place)
        assert sum(part.bytes for part in listed) == expected.peak(place)
        assert {part.when for part in listed} <= {ALL_ALONG, expected.moment(place)}
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
        ("--pairs.memory-budget 1048576", "selection"),
        ("--sae.k 4", "active entries"),
        ("--steps 40", "aux-k, dense"),
    ],
)
def test_lowering_a_setting_lowers_its_component(lower: str, part: str) -> None:
    before = "--sae.d-sae 65536 --sae.k 64 --pairs.per-feature 2.5"
    given = before if lower.split()[0] not in before else ""
    assert parts(of(f"{given} {lower}")).get(part, 0) < parts(of(before))[part]


def test_without_the_constraint_there_are_no_pairs() -> None:
    expected = parts(of("--pairs.criterion none"))
    assert not {"selection", "penalty", "chosen pairs", "pair history"} & set(expected)


def test_every_setting_it_names_is_an_option() -> None:
    known = {f"--{name.removeprefix('settings.')}" for name in option_types(RunOptions)}
    for kind in ("relu", "batch-topk"):
        for device in ("cpu", "cuda"):
            for part in of(f"--sae.kind {kind}", device=device).components:
                assert not part.setting or set(part.setting.split(", ")) <= known, part


def test_the_selection_never_counts_beyond_its_budget() -> None:
    for criterion in ("coactivation", "decoder-cosine", "preactivation"):
        expected = parts(of(f"--sae.d-sae 1048576 --sae.k 64 --pairs.criterion {criterion}"))
        assert expected["selection"] <= 256 * 2**20


def test_what_a_source_keeps_is_counted() -> None:
    assert of(cached=10**9).peak("host") - of().peak("host") == 10**9


def test_readable() -> None:
    assert [readable(b) for b in (0, 12_345_678, 2_500_000_000)] == ["0.0 MB", "12.3 MB", "2.50 GB"]
