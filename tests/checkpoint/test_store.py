"""A checkpoint is whole and verified, or it does not exist; nothing else is ever returned."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from topk_ortho.checkpoint.store import Checkpoint, CheckpointError, load, newest, save
from topk_ortho.config import ConfigError

FILES = ("tensors.safetensors", "state.json", "history.bin", "manifest.json")


def write(folder: Path, step: int, *, value: float | None = None, keep: int = 2) -> Path:
    value = float(step) if value is None else value
    return save(
        folder,
        step,
        tensors={"W": torch.full((3, 2), value), "seen": torch.arange(4)},
        state={"step": step, "value": value, "rng": [1, 2**100]},
        blobs={"history.bin": bytes(range(50)) + str(value).encode()},
        keep=keep,
    )


def value_of(checkpoint: Checkpoint | None) -> float | None:
    """The value a checkpoint was written with; fails if its parts disagree."""
    if checkpoint is None:
        return None
    value = checkpoint.state["value"]
    assert checkpoint.state["step"] == checkpoint.step
    assert torch.equal(checkpoint.tensors["W"], torch.full((3, 2), value))
    assert checkpoint.blobs == {"history.bin": bytes(range(50)) + str(value).encode()}
    return value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What goes in comes out


def test_every_dtype_and_shape_round_trips(tmp_path: Path) -> None:
    dtypes = (
        torch.float32, torch.float64, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.uint8, torch.bool,
    )  # fmt: skip
    tensors = {f"{d}-{shape}": torch.ones(shape).to(d) for d in dtypes for shape in ((3, 2), (), 0)}
    tensors["nan"] = torch.tensor([float("nan"), -0.0])
    tensors["transposed"] = torch.arange(6.0).reshape(2, 3).T
    tensors["part"] = torch.arange(1000.0)[3:5]
    tensors["twin"] = tensors["same"] = torch.randn(4)
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    read = load(save(tmp_path, 3, tensors=tensors, state={}, keep=1)).tensors
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        same = read[name].contiguous().flatten().view(torch.uint8) if tensor.ndim else read[name]
        given = tensor.detach().contiguous().flatten()
        assert torch.equal(same, given.view(torch.uint8) if tensor.ndim else tensor), name


def test_state_and_blobs_round_trip(tmp_path: Path) -> None:
    state = {"big": 2**128 + 1, "float": 0.1 + 0.2, "text": "λ\u2028", "list": [None, True, {}]}
    blobs = {"history.bin": os.urandom(999), "empty": b""}
    checkpoint = load(save(tmp_path, 0, tensors={}, state=state, blobs=blobs, keep=1))
    assert checkpoint == Checkpoint(0, {}, state, blobs, tmp_path / "step_0")


def test_what_is_loaded_outlives_its_file(tmp_path: Path) -> None:
    checkpoint = load(write(tmp_path, 1))
    for file in FILES:
        (checkpoint.path / file).write_bytes(b"")
    assert value_of(checkpoint) == 1.0


# Which are kept and which is found


def test_the_newest_are_kept_and_found_by_number(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent") is None
    for step in (2, 9, 10, 100):
        write(tmp_path / "c", step, keep=2)
    assert names(tmp_path / "c") == ["step_10", "step_100"]
    assert value_of(newest(tmp_path / "c")) == 100.0


@pytest.mark.fault("a damaged checkpoint ahead of the run")
def test_saving_after_a_fall_back_keeps_what_was_just_saved(tmp_path: Path) -> None:
    # step 20 is damaged, so the run resumes from 10 and saves 15
    write(tmp_path, 10)
    write(tmp_path, 20)
    (tmp_path / "step_20" / "state.json").write_text("{}")
    write(tmp_path, 15, keep=1)
    assert value_of(newest(tmp_path)) == 15.0
    write(tmp_path, 20, value=7.0, keep=1)
    assert value_of(newest(tmp_path)) == 7.0
    assert names(tmp_path) == ["step_20"]


def test_a_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    (tmp_path / "step_2" / "manifest.json").unlink()
    write(tmp_path, 3, keep=2)
    assert names(tmp_path) == ["step_1", "step_3"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 5, value=1.0)
    write(tmp_path, 5, value=2.0)
    assert names(tmp_path) == ["step_5"]
    assert value_of(newest(tmp_path)) == 2.0


@pytest.mark.fault("leftovers of a killed writer")
def test_leftovers_are_ignored_and_cleaned(tmp_path: Path) -> None:
    shutil.copytree(write(tmp_path, 5), tmp_path / ".tmp-step_9")
    (tmp_path / ".tmp-step_9" / "state.json").unlink()
    (tmp_path / "step_7").mkdir()
    (tmp_path / "notes").mkdir()
    assert value_of(newest(tmp_path)) == 5.0
    write(tmp_path, 8, keep=2)
    assert names(tmp_path) == ["notes", "step_5", "step_8"]


# Damage


def flip_each(path: Path, stride: int) -> list[bytes]:
    raw = path.read_bytes()
    out = []
    for position in sorted({*range(0, len(raw), stride), len(raw) - 1}):
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(raw)
            changed[position] ^= mask
            out.append(bytes(changed))
    return out


@pytest.mark.fault("a checkpoint with a changed byte")
@pytest.mark.parametrize("file", FILES)
def test_every_flipped_bit_is_detected(file: str, tmp_path: Path) -> None:
    path = write(tmp_path, 5) / file
    good = path.read_bytes()
    cases = flip_each(path, stride=3)
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(CheckpointError, match="not valid"):
            load(tmp_path / "step_5")
    assert len(cases) > 50
    path.write_bytes(good)
    assert value_of(load(tmp_path / "step_5")) == 5.0


@pytest.mark.fault("a checkpoint with a file cut off")
@pytest.mark.parametrize("file", FILES)
def test_every_truncation_and_extension_is_detected(file: str, tmp_path: Path) -> None:
    path = write(tmp_path, 5) / file
    good = path.read_bytes()
    for length in (*range(0, len(good), 7), len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="not valid"):
            load(tmp_path / "step_5")
    for more in (b"\0", b" ", b"\n"):
        path.write_bytes(good + more)
        with pytest.raises(CheckpointError, match="not valid"):
            load(tmp_path / "step_5")


@pytest.mark.fault("a file of a checkpoint missing")
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_newest_is_passed_over_with_a_warning(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 4)
    (write(tmp_path, 5) / file).unlink()
    with caplog.at_level(logging.WARNING):
        assert value_of(newest(tmp_path)) == 4.0
    assert "step_5 is not valid" in caplog.text
    (tmp_path / "step_4" / file).unlink()
    assert newest(tmp_path) is None


@pytest.mark.fault("a manifest that is something else")
@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "{}", "", "\xff", '{"sha256": 1}'])
def test_a_manifest_that_is_something_else_is_an_error(text: str, tmp_path: Path) -> None:
    (write(tmp_path, 5) / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="not valid"):
        load(tmp_path / "step_5")


@pytest.mark.fault("a checkpoint under another name, or with more in it")
def test_a_directory_under_the_wrong_name_or_with_more_in_it_is_not_valid(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    with pytest.raises(CheckpointError, match="of step 5"):
        load(path.rename(tmp_path / "step_6"))
    (tmp_path / "step_6").rename(path)
    (path / "extra").touch()
    with pytest.raises(CheckpointError, match="extra"):
        load(path)


# Killed


def in_child(act: Callable[[], None]) -> int:
    """Wait status of a forked process that runs `act` and exits with 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


WRITE_POINTS = ("mkdir", "fsync", "rename", "unlink", "rmdir")


def stop_at(point: int, stop: Callable[[], None]) -> None:
    """Call `stop` instead of the `point`-th call that changes what is on disk."""
    left = point

    def wrap(call: Callable) -> Callable:
        def wrapped(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                stop()
            return call(*args, **kwargs)

        return wrapped

    for name in WRITE_POINTS:
        setattr(os, name, wrap(getattr(os, name)))


REPORTED, CLEANED_LATER = 3, 4  # exit codes of children


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.fault("kill -9 while a checkpoint is replaced")
@pytest.mark.parametrize("step", [5, 6], ids=["replacing-the-newest", "a-new-one"])
def test_killed_at_every_write_point_leaves_the_old_or_the_new(step: int, tmp_path: Path) -> None:
    seen = set()
    for point in range(200):
        folder = tmp_path / str(point)
        write(folder, 4)
        write(folder, 5)

        def act(folder: Path = folder, point: int = point) -> None:
            stop_at(point, die)
            write(folder, step, value=9.0, keep=1)

        status = in_child(act)
        found = value_of(newest(folder))
        assert found in (5.0, 9.0), f"killed at write point {point}"
        seen.add(found)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        # The next save works, and cleans up.
        write(folder, 7, keep=1)
        assert names(folder) == ["step_7"]
    assert status == 0
    assert point > 15
    assert seen == {5.0, 9.0}
    assert names(folder) == [f"step_{step}"]


@pytest.mark.fault("kill -9 twice, beside a damaged checkpoint")
def test_killed_twice_while_replacing_a_damaged_one(tmp_path: Path) -> None:
    # The first kill leaves `step_5.replaced` alone, the second hits beside a damaged `step_5`.
    for point in range(200):
        folder = tmp_path / str(point)
        (write(folder, 5)).rename(folder / "step_5.replaced")
        write(tmp_path / "other", 5, value=1.0)
        (tmp_path / "other" / "step_5" / "state.json").write_text("{}")
        (tmp_path / "other" / "step_5").rename(folder / "step_5")

        def act(folder: Path = folder, point: int = point) -> None:
            stop_at(point, die)
            write(folder, 5, value=9.0)

        status = in_child(act)
        assert value_of(newest(folder)) in (5.0, 9.0), f"killed at write point {point}"
        if status == 0:
            break
    assert status == 0
    assert names(folder) == ["step_5"]


@pytest.mark.fault("a disk that is full once, at any call")
@pytest.mark.parametrize("step", [5, 6])
def test_a_disk_that_fails_at_any_write_point_is_reported(step: int, tmp_path: Path) -> None:
    failed = False

    def full() -> None:
        nonlocal failed
        failed = True
        raise OSError(errno.ENOSPC, "No space left on device")

    for point in range(200):
        folder = tmp_path / str(point)
        write(folder, 5)

        def act(folder: Path = folder, point: int = point) -> None:
            stop_at(point, full)
            try:
                write(folder, step, value=9.0)
            except CheckpointError as error:
                os._exit(REPORTED if "No space left" in str(error) else 1)
            os._exit(CLEANED_LATER if failed else 0)

        code = os.WEXITSTATUS(in_child(act))
        found = value_of(newest(folder))
        if code == REPORTED:  # the last fsync may fail after the rename
            assert found in (5.0, 9.0)
        else:
            assert code in (0, CLEANED_LATER)
            assert found == 9.0
        write(folder, 7, keep=1)
        assert names(folder) == ["step_7"]
        if code == 0:
            break
    assert code == 0
    assert point >= 8


@pytest.mark.fault("a limit on the size of files")
def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, 5)

    def act() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(tmp_path, 6, tensors={"W": torch.zeros(10**6)}, state={}, keep=1)
        except CheckpointError as error:
            os._exit(REPORTED if "could not be written" in str(error) else 1)

    assert os.WEXITSTATUS(in_child(act)) == REPORTED
    assert names(tmp_path) == ["step_5"]
    assert value_of(newest(tmp_path)) == 5.0


# Refused


@pytest.mark.fault("state that JSON would change")
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": {1: 2}}, "state.a has the key 1"),
        ({"a": [{None: 2}]}, r"state.a\[0\] has the key None"),
        ({"a": float("nan")}, "not JSON"),
        ({"a": torch.ones(1)}, "not JSON"),
        ({"a": b"x"}, "not JSON"),
    ],
)
def test_state_that_json_would_change_is_refused(state: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        save(tmp_path, 1, tensors={}, state=state, keep=1)
    assert names(tmp_path) == []


@pytest.mark.fault("file names with path separators in a checkpoint")
@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "manifest.json", "state.json", "a\n"])
def test_blob_names_that_are_no_plain_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plain file name"):
        save(tmp_path, 1, tensors={}, state={}, blobs={name: b""}, keep=1)
    assert names(tmp_path) == []


def test_other_misuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="keep 0"):
        write(tmp_path, 1, keep=0)
    with pytest.raises(CheckpointError, match="step -1"):
        write(tmp_path, -1)
    with pytest.raises(CheckpointError, match="'s' is torch"):
        save(tmp_path, 1, tensors={"s": torch.eye(2).to_sparse()}, state={}, keep=1)
    with pytest.raises(CheckpointError, match="not valid"):
        load(tmp_path / "step_1")


def test_nothing_on_disk_is_a_pickle(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    assert names(path) == sorted(FILES)
    json.loads((path / "state.json").read_text())
    assert b"\x80\x04" not in (path / "tensors.safetensors").read_bytes()[:64]
