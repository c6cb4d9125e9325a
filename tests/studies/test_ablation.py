"""Whole ablations: what is computed, what is not computed again, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import environment
from tests.system.tiny_run import OPTIONS, events, over, tiny
from topk_ortho import cli
from topk_ortho.config import ConfigError, PlantConfig, TrainConfig
from topk_ortho.config.toml import config_hash, read_config
from topk_ortho.studies import ablation, worker
from topk_ortho.studies.ablation import Request, Shard, dry_run, run_ablation, stored_plan
from topk_ortho.studies.pool import Pool

# TopK has no threshold to calibrate at the end, which takes most of such a short run.
SHORT = over(OPTIONS, "--sae.kind", "topk")
BASE = tiny("--sae.kind", "topk", "--checkpoint-every", "1000")
PLANT = PlantConfig(enabled=True, roots=3, children=2)
ALONE = ("rate-matched-random", "ortsae", "matryoshka")
WITHOUT = ["--without-arm", *ALONE]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are computed in the test's own process; the hashes of those that were."""
    computed: list[str] = []

    def run(self: Pool, configs: Any) -> None:
        data = worker.Data(self._root)
        for config in configs:
            computed.append(config_hash(config))
            self._told(config, worker.compute(self._root, config, data))

    monkeypatch.setattr(Pool, "run", run)
    return computed


def plan_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "ablation.json").read_text())


def folders(root: Path) -> set[str]:
    return {path.name for path in (root / "runs").iterdir() if path.is_dir()}


def request(root: Path, **more: Any) -> Request:
    return Request(**{"base": BASE, "out": root, "seeds": (2,), "without_arm": ALONE} | more)


def test_an_sae_to_start_from_leaves_no_room_for_other_kinds(tmp_path: Path) -> None:
    trained = replace(BASE, init_from=tmp_path)
    named = "topk, but the arms matryoshka are of another kind.*--without-arm"
    with pytest.raises(ConfigError, match=named):
        stored_plan(request(tmp_path / "a", base=trained, without_arm=()))
    assert stored_plan(request(tmp_path / "b", base=trained)).left_out == ALONE


def test_every_run_is_a_folder_named_by_its_configuration(tmp_path, in_process, capsys):
    root = tmp_path / "a"
    assert run_ablation(request(root, vary=("penalty.tau=fixed,mean-std",))) == 0
    out = capsys.readouterr().out
    assert "penalty.tau against none" in out and f"topk-ortho report {root}" in out
    planned = plan_of(root)["runs"]
    assert len(planned) == 6 == len(in_process)
    assert folders(root) == {run["hash"] for run in planned} == set(in_process)
    for run in planned:
        config = read_config(root / run["folder"] / "config.toml")
        assert config_hash(config) == run["hash"]
        assert config.seed == run["seed"]
        if run["arm"] == "variant":
            assert config.penalty.tau == run["axis"]["penalty.tau"]
        else:
            assert not config.constrained
        assert json.loads((root / run["folder"] / "result.json").read_text())["steps"] == 60
        assert (root / run["folder"] / "history.bin").exists() == config.constrained


def test_arms_of_a_seed_see_the_same_data_and_start_the_same(tmp_path, in_process):
    root = tmp_path / "a"
    run_ablation(request(root, seeds=(5, 6), base=replace(BASE, log_every=1)))
    first = {}
    for run in plan_of(root)["runs"]:
        event = events(root / run["folder"])[0]
        # before the first step has moved anything, the penalty's ramp starts from 0
        first.setdefault(run["seed"], []).append((event["l2"], event["l0"]))
    assert all(one == other for one, other in first.values())
    assert first[5] != first[6]


def test_started_again_it_computes_what_is_new_alone(tmp_path, in_process, capsys):
    root = tmp_path / "a"
    run_ablation(request(root))
    before = len(in_process)
    run_ablation(request(root))
    assert len(in_process) == before
    assert "4 of 4 runs are there already" in capsys.readouterr().err
    run_ablation(request(root, seeds=(3,)))
    assert len(in_process) == before + 2
    assert len(set(in_process)) == len(in_process)


@pytest.mark.fault("one run of an ablation that fails")
def test_a_failed_arm_stops_no_other_and_is_shown(tmp_path, in_process, capsys, monkeypatch):
    root, real = tmp_path / "a", worker.train

    def train(config: TrainConfig, *args: Any, **kwargs: Any):
        if config.penalty.tau == "mean-std" and config.seed == 400:
            raise RuntimeError("the cat sat on it\nand more")
        return real(config, *args, **kwargs)

    monkeypatch.setattr(worker, "train", train)
    asked = request(root, vary=("penalty.tau=fixed,mean-std",))
    assert run_ablation(asked) == 1
    out = capsys.readouterr().out
    assert "failed: penalty.tau=mean-std, seed 400: RuntimeError: the cat sat on it\n" in out
    assert len(folders(root)) == 5
    (failed,) = (root / "runs").glob("*.failed.json")
    assert json.loads(failed.read_text())["reason"] == "RuntimeError: the cat sat on it"

    monkeypatch.setattr(worker, "train", real)
    assert run_ablation(asked) == 1
    assert len(in_process) == 6
    assert run_ablation(replace(asked, retry_failed=True)) == 0
    assert len(in_process) == 7 and not failed.exists() and len(folders(root)) == 6


def test_shards_share_a_folder_and_compute_everything_once(tmp_path, in_process, capsys):
    root = tmp_path / "a"
    asked = request(root, vary=("penalty.tau=fixed,mean-std",))
    assert run_ablation(replace(asked, shard="2/2")) == 0
    assert "3 of 6 runs are there" in capsys.readouterr().out
    assert run_ablation(replace(asked, shard="1/2")) == 0
    assert "penalty.tau against none" in capsys.readouterr().out
    assert len(in_process) == 6 == len(set(in_process))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/", "-1/2"])
def test_a_shard_that_is_none(text):
    with pytest.raises(ConfigError, match="--shard"):
        Shard.parse(text)


def test_tuning_comes_first_and_is_stored(tmp_path, in_process, capsys, monkeypatch):
    monkeypatch.setattr(ablation.tuning, "FACTORS", (1.0, 2.0))
    root = tmp_path / "a"
    assert run_ablation(request(root, tune=True)) == 0
    table = plan_of(root)
    tuning = table["tuning"]
    assert tuning["seeds"] == [0, 1, 2] and "lowest excess" in tuning["rule"]
    assert len(tuning["runs"]) == 3 + 2 * 3
    (chosen,) = tuning["chosen"]
    assert chosen["label"] == "default" and len(chosen["tried"]) == 2
    assert all(t["explained_variance"] is not None for t in chosen["tried"])
    reported = [run for run in table["runs"] if run["arm"] == "variant"]
    for run in reported:
        config = read_config(root / run["folder"] / "config.toml")
        assert config.penalty.coefficient == chosen["coefficient"]
    assert "tuned: default: coefficient" in capsys.readouterr().err
    before = len(in_process)
    assert run_ablation(request(root, tune=True)) == 0
    assert len(in_process) == before == 9 + 4
    assert plan_of(root) == table
    with pytest.raises(ConfigError, match="tuning chooses"):
        run_ablation(request(root, tune=True, vary=("penalty.coefficient=1,2",)))


def test_a_dry_run_predicts_and_writes_nothing(tmp_path, in_process, capsys):
    root = tmp_path / "a"
    asked = request(root, without_arm=("rate-matched-random", "ortsae"))
    said = dry_run(asked)
    assert not root.exists()
    rows = {line.split()[0]: line.split() for line in said.splitlines()[2:5]}
    assert set(rows) == {"none", "matryoshka", "default"}
    assert all(row[1:3] == ["2", "2"] and row[4] == "timed" for row in rows.values())
    assert "left out: rate-matched-random, ortsae" in said
    run_ablation(request(root, seeds=(1,)))
    rows = {line.split()[0]: line.split() for line in dry_run(asked).splitlines()[2:5]}
    assert (rows["none"][2], rows["none"][4]) == ("1", "stored")
    assert (rows["matryoshka"][2], rows["matryoshka"][4]) == ("2", "timed")
    assert "to do: 4 runs" in dry_run(asked)


def test_the_command_line_refuses_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["--vary", "penalty.tua=fixed"], "perhaps you meant penalty.tau"),
        (["--grid", "fractoin"], "fraction"),
        (["--jobs", "0"], "--jobs 0"),
        (["--seed", "3"], "--seeds"),
        (["--without-arm", "coactivation"], "rate-matched-random"),
        (["--vary", "sae.k=4,999"], "sae.k=999"),
    ):
        assert cli.main(["ablate", *over(SHORT, *arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and words in line
    assert not list(tmp_path.iterdir())


def start(root: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "topk_ortho.cli", "ablate",
               *over(SHORT, *WITHOUT, "--seeds", "2",
               "--vary", "penalty.tau=fixed,mean-std,mean-std-all,strength,strength-threshold",
               "--out", str(root), *more)]  # fmt: skip
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def wait_until(condition, *, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def finished(root: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("runs/*/result.json")}


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@pytest.mark.fault("kill -9 of an ablation")
@needs_proc
@pytest.mark.parametrize(
    ("jobs", "workers_too"), [pytest.param(1, False, marks=pytest.mark.slow), (2, True)]
)
def test_killed_in_the_middle_it_goes_on_and_computes_nothing_twice(tmp_path, jobs, workers_too):
    root = tmp_path / "a"
    process = start(root, "--jobs", str(jobs))
    wait_until(lambda: len(finished(root)) >= 2)
    workers = children(process.pid)
    assert len(workers) == jobs
    for pid in (process.pid, *(workers if workers_too else ())):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: all(map(gone, workers)), seconds=20)
    before = finished(root)
    assert 2 <= len(before) < 12

    again = start(root)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert f"{len(before)} of 12 runs are there already" in err
    assert err.count("seed 40") == 12 - len(before)
    planned = {run["hash"] for run in plan_of(root)["runs"]}
    assert set(finished(root)) == planned and len(planned) == 12
    assert {name: finished(root)[name] for name in before} == before
    steps = [*range(7, 60, 7), 60]
    for name in planned:
        assert [event["step"] for event in events(root / "runs" / name)] == steps
    assert "penalty.tau against none" in out


@pytest.mark.fault("a signal to an ablation")
@needs_proc
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_ends_it_with_checkpoints(tmp_path, number, code):
    root = tmp_path / "a"
    process = start(root, "--steps", "20000")
    wait_until(lambda: list(root.glob("runs/*/checkpoints/step_*")))
    workers = children(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code
    assert "the same command resumes" in err and "Traceback" not in err
    assert all(map(gone, workers))
    assert not list(root.glob("runs/*.failed.json"))


@pytest.mark.fault("a worker of an ablation that dies")
@needs_proc
def test_a_process_that_dies_is_replaced_and_then_the_run_fails(tmp_path):
    root = tmp_path / "a"
    process = start(root, "--steps", "20000", "--seeds", "1")
    # both processes of the first run are killed, then the rest is interrupted
    known: set[int] = set()
    for _ in range(2):
        wait_until(lambda: set(children(process.pid)) - known and list(root.glob("runs/*")))
        (worker_pid,) = set(children(process.pid)) - known
        known.add(worker_pid)
        os.kill(worker_pid, signal.SIGKILL)
    wait_until(lambda: list(root.glob("runs/*.failed.json")))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    (failed,) = root.glob("runs/*.failed.json")
    assert "signal 9, twice" in json.loads(failed.read_text())["reason"]
    first = plan_of(root)["runs"][0]
    assert failed.name == f"{first['hash']}.failed.json"


@pytest.mark.fault("other data under the same names")
def test_runs_on_other_files_of_the_same_names_are_not_taken_for_these(
    tmp_path, in_process, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((3000, 24)).astype(np.float32)
    for place, factor in (("one", 1), ("two", 2)):
        (tmp_path / place / "acts").mkdir(parents=True)
        np.save(tmp_path / place / "acts" / "a.npy", rows * factor)

    def asked(place: str) -> Request:
        base = replace(BASE, activations="files", data=Path(place) / "acts", plant=PLANT)
        return request(tmp_path / "a", base=base, seeds=(1,))

    run_ablation(asked("one"))
    (tmp_path / "one").rename(tmp_path / "moved")
    before = len(in_process)
    run_ablation(asked("moved"))
    assert len(in_process) == before == 2, "the same files elsewhere are the same"
    with pytest.raises(ConfigError, match=r"other data: a.npy differs"):
        run_ablation(asked("two"))


def test_seeds_of_the_tuning_are_not_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"--seeds 1 was given together with --tune"):
        run_ablation(request(tmp_path / "a", seeds=(1, 7), tune=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shards", "4"], "--shards was given, but it has no effect with --launcher none"),
        (["--cluster", "local"], "leave it out, or give --launcher submitit"),
        (
            ["--launcher", "submitit", "--shard", "1/2"],
            "--shard was given, but it has no effect with --launcher submitit",
        ),
    ],
)
def test_options_of_a_launcher_that_is_not_there_are_refused(options, said, tmp_path, capsys):
    assert cli.main(["ablate", *over(SHORT, *options, "--out", str(tmp_path / "a"))]) == 2
    assert said in capsys.readouterr().err


def test_it_says_in_one_line_what_it_trains(tmp_path, in_process, capsys):
    assert run_ablation(request(tmp_path / "a", vary=("penalty.tau=fixed,mean-std",))) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "training row-coactivation with penalty.tau = fixed, mean-std, beside none; 2 seeds each, "
        "6 runs of 60 steps"
    )
