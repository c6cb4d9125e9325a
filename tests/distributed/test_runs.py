"""Whole runs under torchrun: resumed with another number of processes, asked to end, cut short."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.distributed.started import TIMEOUT, environment_of_tests, torchrun, train
from tests.system.tiny_run import OPTIONS, events, outcome, over, tiny
from topk_ortho.config import ConfigError
from topk_ortho.distributed.launcher import Launched
from topk_ortho.distributed.world import World
from topk_ortho.training import train as train_here
from topk_ortho.training.together import check_divisible, restarted

LONG = over(OPTIONS, "--steps", "100000", "--checkpoint-every", "100000", "--log-every", "5")


def started(folder: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Two processes that train in `folder`, past their first log line."""
    command = torchrun("topk_ortho.train", *words, cwd=folder.parent, size=2, options=options)
    running = subprocess.Popen(
        command,
        cwd=folder.parent,
        env=environment_of_tests(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until and running.poll() is None:
        log = folder / "metrics.jsonl"
        if log.exists() and log.read_text().count("\n") > 1:
            return running
        time.sleep(0.2)
    running.kill()
    raise AssertionError(running.communicate()[0])


def workers(folder: Path) -> list[int]:
    """The processes that train in `folder`, by rank."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            given = (process / "environ").read_bytes().decode()
        except OSError:
            continue
        rank = re.search(r"(?:^|\0)RANK=(\d+)\0", given)
        if rank and str(folder) in words and "torch.distributed.run" not in words:
            found[int(rank[1])] = int(process.name)
    return [found[rank] for rank in sorted(found)]


def test_a_run_resumes_with_another_number_of_processes(tmp_path):
    folder = tmp_path / "run"
    options = [*OPTIONS, "--evaluate-every", "30", "--evaluate-samples", "256"]
    first = train(*options, "--out", str(folder), "--stop-after", "25", cwd=tmp_path, size=2)
    assert first.returncode != 0
    assert first.stderr.count("stopped after step 25 of 60, which is kept") == 1
    done = train("--resume", str(folder), cwd=tmp_path, size=3)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    train_here(tiny(*options), whole, progress=False)
    given, wanted = outcome(folder), outcome(whole)
    assert [e["step"] for e in given["events"]] == [e["step"] for e in wanted["events"]]
    for name in ("explained_variance", "l0", "mcc", "absorption_rate"):
        assert given["result"][name] == pytest.approx(wanted["result"][name], abs=1e-3), name
    assert json.loads((folder / "manifest.json").read_text())["processes"] == 3


def test_sigterm_to_the_launcher_ends_all_after_a_step_that_is_kept(tmp_path):
    folder = tmp_path / "run"
    running = started(folder, *LONG, "--out", str(folder))
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=TIMEOUT)
    assert len(re.findall(r"stopped after step \d+ of 100000, which is kept", said)) == 1, said
    (kept,) = (folder / "checkpoints").iterdir()
    assert int(kept.name.removeprefix("step_")) >= events(folder)[-1]["step"]


@pytest.mark.fault("a process of several is killed")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_leaves_a_checkpoint(rank, tmp_path):
    folder = tmp_path / "run"
    running = started(folder, *LONG, "--out", str(folder), "--timeout", "60")
    os.kill(workers(folder)[rank], signal.SIGKILL)
    said, _ = running.communicate(timeout=TIMEOUT)
    assert running.returncode != 0
    assert f"process {1 - rank} of 2, step " in said, said
    (kept,) = (folder / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("step_"))
    assert f"stopped after step {step} of 100000, which is kept" in said
    assert step >= events(folder)[-1]["step"]


def test_the_launcher_starts_them_again_and_they_go_on(tmp_path):
    folder = tmp_path / "run"
    words = over(OPTIONS, "--steps", "400", "--checkpoint-every", "1000", "--log-every", "5")
    options = ("--max-restarts", "1")
    running = started(folder, *words, "--out", str(folder), options=options)
    os.kill(workers(folder)[1], signal.SIGKILL)
    said, _ = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 0, said
    assert "which is kept" in said
    assert json.loads((folder / "result.json").read_text())["steps"] == 400


TWO = World(Launched(0, 2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--pairs.criterion c2r", "not divided"),
        ("--prefetch on", "leave --prefetch out"),
        ("--batch-size 1", "raise it"),
    ],
)
def test_what_is_not_divided_is_refused_by_name(options, said):
    words = options.split()
    with pytest.raises(ConfigError, match=said) as error:
        check_divisible(tiny(*words), TWO)
    assert words[0] in str(error.value)


def test_restarts_need_a_folder():
    again = World(Launched(0, 2, most_restarts=3))
    with pytest.raises(ConfigError, match="add --out DIR"):
        restarted(None, tiny(), again)
