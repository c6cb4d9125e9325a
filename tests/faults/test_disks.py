"""Folders that cannot be written, disks that are full, and two processes on one run."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import topk_ortho.train as command
from tests.conftest import environment
from tests.system.tiny_run import OPTIONS, assert_same, over, tiny
from topk_ortho.activations import prepare
from topk_ortho.checkpoint import store
from topk_ortho.checkpoint.locks import Held, claimed, locked
from topk_ortho.config import ConfigError
from topk_ortho.training import Interrupted, loop, resume, train
from topk_ortho.training.folder import RunFolder

SHORT = ("--steps", "12", "--checkpoint-every", "4", "--log-every", "2", "--eval-samples", "64")
CONFIG = tiny(*SHORT)
NEW_NAMESPACE, PRIVATE, READ_ONLY, REMOUNT = 0x20000, 0x44000, 1, 32  # sched.h, sys/mount.h
NOT_ALLOWED = 77


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 256)


@pytest.fixture(scope="module")
def data():
    return prepare(CONFIG)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 256)
        train(CONFIG, folder, data=data, progress=False)
    return folder


def mount(folder: Path, flags: int, options: str) -> None:
    """Mount memory at a folder, or change what is mounted there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def with_mounts(folder: Path, act: Callable[[], None]) -> None:
    """Run `act` in a child that may mount in `folder`, which nobody else sees.

    Skips where that is not allowed; fails with what `act` raised.
    """
    said = folder / "said"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            private = (b"none", b"/", None, PRIVATE, None)
            if libc.unshare(NEW_NAMESPACE) or libc.mount(*private):
                os._exit(NOT_ALLOWED)
            act()
            code = 0
        except BaseException as error:
            said.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == NOT_ALLOWED:
        pytest.skip("needs the right to mount (root, or CAP_SYS_ADMIN)")
    assert code == 0, said.read_text() if said.exists() else code


@pytest.mark.fault("a small disk that fills up")
@pytest.mark.parametrize("size", ["60k", "100k", "140k"])
def test_a_small_disk_that_fills_up(size, data, undisturbed, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def act() -> None:
        mount(disk, 0, f"size={size}")
        with pytest.raises((ConfigError, OSError), match="No space left on device"):
            train(CONFIG, disk / "run", data=data, progress=False)
        mount(disk, REMOUNT, "size=64m")
        if (disk / "run").exists():
            resume(disk / "run", data=data, progress=False)
        else:
            train(CONFIG, disk / "run", data=data, progress=False)
        assert_same(disk / "run", undisturbed)

    with_mounts(tmp_path, act)


@pytest.mark.fault("a disk that becomes read-only")
def test_a_disk_that_becomes_read_only(data, undisturbed, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def act() -> None:
        mount(disk, 0, "size=64m")
        with pytest.raises(Interrupted):
            train(CONFIG, disk / "run", data=data, stop_after=6, progress=False)
        mount(disk, REMOUNT | READ_ONLY, "")
        with pytest.raises(OSError, match="Read-only file system"):
            resume(disk / "run", data=data, progress=False)
        with pytest.raises(ConfigError, match=r"other.*cannot be written \(Read-only"):
            train(CONFIG, disk / "other", data=data, progress=False)
        mount(disk, REMOUNT, "")
        resume(disk / "run", data=data, progress=False)
        assert_same(disk / "run", undisturbed)

    with_mounts(tmp_path, act)


@pytest.mark.fault("a folder that may not be written")
def test_a_folder_below_a_file_ends_in_one_sentence(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    assert command.main(over(OPTIONS, *SHORT, "--out", str(out))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: --out") and "cannot be written (" in said


@pytest.mark.fault("a run folder in use")
def test_a_second_run_in_the_same_process_is_refused(data, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "run"
    step, tried = loop.train_step, []

    def look(*given: object) -> object:
        if not tried:
            with pytest.raises(ConfigError, match="another process is training in it") as refusal:
                resume(folder, data=data, progress=False)
            tried.append(str(refusal.value))
        return step(*given)

    monkeypatch.setattr(loop, "train_step", look)
    train(CONFIG, folder, data=data, progress=False)
    assert str(folder) in tried[0]
    assert resume(folder, data=data, progress=False)["steps"] == 12


@pytest.mark.fault("a run folder in use by another process")
def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, data) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(CONFIG, folder, data=data, stop_after=6, progress=False)
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from topk_ortho.checkpoint.locks import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "config.toml")],
        env=environment(),
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    with pytest.raises(ConfigError, match="another process is training in it"):
        resume(folder, data=data, progress=False)
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert resume(folder, data=data, progress=False)["steps"] == 12


@pytest.mark.fault("two processes that begin one run folder")
def test_of_two_that_begin_at_once_one_is_refused(tmp_path, monkeypatch) -> None:
    other = tmp_path / "run"

    def overtaken(directory: Path) -> None:
        if not other.exists():
            other.mkdir()
            (other / "config.toml").write_text("of another")

    monkeypatch.setattr("topk_ortho.checkpoint.atomic.sync", overtaken)
    with pytest.raises(ConfigError, match=r"cannot be written \(Directory not empty\)"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert (other / "config.toml").read_text() == "of another"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_lock_is_free_once_it_is_left(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    for _ in range(2):
        with claimed(path), pytest.raises(Held), claimed(path):
            pass
    assert path.read_text() == "kept"


@pytest.mark.fault("a file system without locks")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_where_there_are_no_locks_a_run_goes_on_without(number, tmp_path, monkeypatch) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / "file").touch()
    entered = []
    with claimed(tmp_path / "file"), locked(tmp_path / "other"):
        entered.append(True)
    assert entered
    number = errno.EIO
    with pytest.raises(OSError, match="no locks"), claimed(tmp_path / "file"):
        pass


@pytest.mark.fault("a damaged JSON file in a run folder")
@pytest.mark.parametrize("name", ["result.json", "manifest.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_damaged_files_are_named(name, text, data, tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    (folder.path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=rf"{name} is damaged"):
        resume(folder.path, data=data, progress=False)


@pytest.mark.fault("a configuration nested beyond the parser's stack")
def test_a_configuration_that_is_nested_too_deeply(tmp_path) -> None:
    (tmp_path / "config.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"nested too deeply|is not TOML"):
        resume(tmp_path, progress=False)


@pytest.mark.fault("a clock that goes backwards")
def test_the_newest_checkpoint_is_that_of_the_largest_step(tmp_path) -> None:
    for step in (10, 20):
        path = store.save(tmp_path, step, tensors={}, state={}, keep=5)
        os.utime(path, (time.time() - step * 1000,) * 2)
    newest = store.newest(tmp_path)
    assert newest is not None and newest.step == 20
