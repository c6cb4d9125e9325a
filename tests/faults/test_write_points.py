"""Killed, out of space or with a failing disk at any call that changes a file, a run loses nothing.

Which calls there are comes from watching a run, so that a new one is among them. By default one
call of every kind is tried, the last of its kind; `pytest -m slow tests/faults` tries them all.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.write_points import FAIL, FULL, KILL, TEAR, Ended, WritePoints, compiler
from tests.system.tiny_run import outcome

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or compiler() is None, reason="needs Linux and a C compiler (cc)"
)

PARTS = {
    "the folder itself": r"\.run\.[^/]*(/config\.toml)?|run|\.",
    "its manifest": r"run/\.?manifest\.json(\.tmp)?",
    "the log": r"run/metrics\.jsonl",
    "checkpoints": r"run/checkpoints.*",
    "the exported SAE": r"run/(\.tmp-)?sae.*",
    "results": r"run/\.?(ground_truth|stability|features|result|history)\.(json|bin)(\.tmp)?",
}
TAKES_SPACE = ("create", "write", "mkdir")
MEMORY = Path("/dev/shm")  # a file system on which fsync takes no time


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WritePoints]:
    points = WritePoints(tmp_path_factory.mktemp("library"))
    yield points
    points.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where runs go: in memory if it can be, since each of them flushes some forty times."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    where = MEMORY if usable else tmp_path_factory.mktemp("runs")
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


@pytest.fixture
def apart(folders: Path) -> Iterator[Path]:
    """A folder for one test."""
    with tempfile.TemporaryDirectory(dir=folders) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def undisturbed(folders: Path) -> Path:
    (folders / "undisturbed").mkdir()
    return folders / "undisturbed" / "run"


@pytest.fixture(scope="module")
def watched(points: WritePoints, undisturbed: Path) -> Ended:
    ended = points.run(undisturbed)
    assert (ended.signal, ended.error) == (0, "")
    return ended


def part_of(path: str) -> str:
    """The part of a run folder that a path belongs to."""
    (part,) = [part for part, pattern in PARTS.items() if re.fullmatch(pattern, path)]
    return part


def kind(call: tuple[str, str]) -> tuple[str, str]:
    """A call without the numbers of steps and the random parts of names."""
    name, path = call
    path = re.sub(r"^\.run\.[^/]*", ".run.*", path)
    return name, re.sub(r"/\.tmp(?!-)\w+", "/.tmp*", re.sub(r"step_\d+", "step_N", path))


def calls_of(watched: Ended, part: str, names: tuple[str, ...]) -> list[int]:
    """Numbers of the calls of a part, the last of every kind."""
    wanted = [n for n, (name, path) in enumerate(watched.calls)
              if part_of(path) == part and (name in names or not names)]  # fmt: skip
    return sorted({kind(watched.calls[n]): n for n in wanted}.values())


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def everything(folder: Path) -> dict[str, object]:
    """All of a run that has to be the same, with the checkpoint's tensors."""
    tensors = {p.name: p.read_bytes() for p in folder.glob("checkpoints/*/*.safetensors")}
    return outcome(folder) | {"checkpoint": tensors, "files": files(folder)}


def goes_on_exactly(points: WritePoints, folder: Path, undisturbed: Path, call: object) -> None:
    ended = points.run(folder)
    assert (ended.signal, ended.error) == (0, ""), call
    given, expected = everything(folder), everything(undisturbed)
    for part in expected:
        assert given[part] == expected[part], (call, part)
    left = {p.name for p in folder.parent.iterdir()} - {"calls", "error", "run"}
    assert all(name.startswith(".run.") for name in left), (call, left)


def try_all(
    points: WritePoints,
    numbers: list[int],
    action: int,
    apart: Path,
    undisturbed: Path,
    watched: Ended,
) -> None:
    """Disturb a run at each of the calls, check how it ended, and let it go on."""
    assert numbers, "no such call was seen"
    for number in numbers:
        call = (number, *watched.calls[number])
        folder = apart / str(number) / "run"
        folder.parent.mkdir()
        ended = points.run(folder, at=number, action=action)
        if action in (KILL, TEAR):
            assert ended.signal == 9, call
            assert len(ended.calls) == number + 1, call
        else:
            expected = "No space left on device" if action == FULL else "Input/output error"
            assert expected in ended.error, (call, ended.error)
        assert [kind(c) for c in ended.calls[:number]] == [
            kind(c) for c in watched.calls[:number]
        ], call
        goes_on_exactly(points, folder, undisturbed, call)


def test_every_file_of_a_run_was_written_by_a_call_that_was_seen(
    watched: Ended, undisturbed: Path
) -> None:
    """What writes in another way would be missing from the calls that are tried."""
    written = {kind(call)[1] for call in watched.calls if call[0] == "write"}
    step = "run/checkpoints/.tmp-step_N/"
    temporary = {step + ".tmp*": step + "tensors.safetensors"}  # safetensors renames it itself
    written = {re.sub(r"/\.([^/]+)\.tmp$", r"/\1", temporary.get(path, path)) for path in written}
    written = {path.replace(".tmp-", "").replace(".run.*", "run") for path in written}
    found = {"run/" + re.sub(r"step_\d+", "step_N", name) for name in files(undisturbed)
             if (undisturbed / name).is_file()}  # fmt: skip
    assert found == written
    assert {part_of(path) for _, path in watched.calls} == set(PARTS)


def test_everything_is_flushed_before_the_rename_that_shows_it(watched: Ended) -> None:
    dirty: set[str] = set()
    for name, path in watched.calls:
        if name in ("create", "write", "truncate") and not path.endswith("metrics.jsonl"):
            dirty.add(str(Path(path).parent) if "/.tmp-step" in path else path)
        elif name == "fsync":
            dirty -= {path, str(Path(path).parent)} if "/.tmp-step" in path else {path}
        elif name == "rename":
            assert not {d for d in dirty if not d.startswith(".run")}, path
    last = [c for c in watched.calls if c[0] in ("fsync", "rename", "write")]
    assert last[-2:] == [("rename", "run/result.json"), ("fsync", "run")]


def test_the_log_is_flushed_before_a_checkpoint_appears(watched: Ended) -> None:
    dirty = False
    for name, path in watched.calls:
        if path == "run/metrics.jsonl":
            dirty = name != "fsync"
        assert not (dirty and name == "rename" and "/step_" in path)


@pytest.mark.fault("kill -9 at any call that changes a file")
@pytest.mark.parametrize("part", PARTS)
def test_killed_at_any_call(part, points, watched, undisturbed, apart) -> None:
    numbers = calls_of(watched, part, ())
    try_all(points, numbers, KILL, apart, undisturbed, watched)


@pytest.mark.fault("kill -9 in the middle of a write")
@pytest.mark.parametrize("part", PARTS)
def test_killed_in_the_middle_of_a_write(part, points, watched, undisturbed, apart) -> None:
    numbers = calls_of(watched, part, ("write",))
    try_all(points, numbers, TEAR, apart, undisturbed, watched)


@pytest.mark.fault("a disk that is full from some call on")
@pytest.mark.parametrize("part", PARTS)
def test_a_disk_that_fills_up(part, points, watched, undisturbed, apart) -> None:
    numbers = calls_of(watched, part, ("write", "mkdir"))
    try_all(points, numbers, FULL, apart, undisturbed, watched)


@pytest.mark.fault("an fsync that fails")
@pytest.mark.parametrize("part", PARTS)
def test_an_fsync_that_fails(part, points, watched, undisturbed, apart) -> None:
    numbers = calls_of(watched, part, ("fsync",))
    try_all(points, numbers, FAIL, apart, undisturbed, watched)


@pytest.mark.slow
@pytest.mark.parametrize("action", [KILL, TEAR, FULL, FAIL])
def test_every_single_call(action, points, watched, undisturbed, apart) -> None:
    names = {KILL: (), TEAR: ("write",), FULL: TAKES_SPACE, FAIL: ("fsync",)}[action]
    numbers = [n for n, (name, _) in enumerate(watched.calls) if name in names or not names]
    try_all(points, numbers, action, apart, undisturbed, watched)
