"""Activations that are not what they should be: refused by file and row, or trained on."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.system.tiny_run import SHAPE, assert_same, tiny
from topk_ortho.activations import ShuffleBuffer, prepare
from topk_ortho.activations.buffer import Batch
from topk_ortho.activations.cache import write_cache
from topk_ortho.activations.files import FilesSource
from topk_ortho.activations.harvest import harvest_folder
from topk_ortho.activations.scaling import ScaledSource, sampled
from topk_ortho.checkpoint import store
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.training import Interrupted, resume, train
from topk_ortho.training.finite import NotFiniteError

ROWS, D_IN = 400, 12


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 256)


def rows(n: int = ROWS, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D_IN)).astype(np.float32)


def config(folder: Path, *options: str) -> TrainConfig:
    short = ("--steps", "12", "--checkpoint-every", "4", "--log-every", "4")
    return tiny("--activations", "files", "--data", str(folder), *short, *options, base=SHAPE)


def write(folder: Path, *arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for n, array in enumerate(arrays):
        np.save(folder / f"{n}.npy", array)
    return folder


BAD = {
    "NaN": (np.float32, np.nan),
    "infinite": (np.float32, np.inf),
    "negative, infinite": (np.float32, -np.inf),
    "float16 overflow": (np.float16, 70_000.0),
    "float64 beyond float32": (np.float64, 1e300),
}


def case(name: str) -> object:
    """A parameter with its class; the sign makes no other class."""
    return pytest.param(name, marks=pytest.mark.fault(f"activations: {name.split(', ')[-1]}"))


@pytest.mark.parametrize("name", [case(name) for name in BAD])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_row_that_is_not_finite_stops_with_file_and_row(name, suffix, tmp_path) -> None:
    dtype, value = BAD[name]
    x = rows().astype(dtype)
    with np.errstate(over="ignore"):
        x[123, 4] = value
    folder = write(tmp_path / "data", rows())
    if suffix == ".npy":
        np.save(folder / "b.npy", x)
    else:
        save_file({"activations": torch.from_numpy(x)}, folder / "b.safetensors")
    with pytest.raises(ConfigError, match=rf"b\{suffix}': row 123 is not finite"):
        train(config(folder), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("activations: all zero")
def test_nothing_but_zeros(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"row 0 of '.*0\.npy' on, have a total variance of 0"):
        prepare(config(write(tmp_path / "data", np.zeros((ROWS, D_IN), np.float32))))


@pytest.mark.fault("activations: one row again and again")
@pytest.mark.parametrize("value", [2.5, -1e30])
def test_nothing_but_the_same_row(value, tmp_path) -> None:
    with pytest.raises(ConfigError, match="data that varies was expected"):
        prepare(config(write(tmp_path / "data", np.full((ROWS, D_IN), value, np.float32))))


@pytest.mark.fault("activations: constant columns")
@pytest.mark.parametrize("value", [0.0, 1e4])
def test_columns_that_never_change_are_trained_on(value, tmp_path) -> None:
    x = rows()
    x[:, [2, 7]] = value
    result = train(config(write(tmp_path / "data", x)), tmp_path / "run", progress=False)
    assert result["steps"] == 12
    assert np.isfinite(result["mse"])
    kept = load_file(tmp_path / "run" / "sae" / "sae_weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    torch.testing.assert_close(kept["b_dec"][[2, 7]], torch.full((2,), value), rtol=1e-3, atol=0.1)


@pytest.mark.fault("activations: one token")
def test_one_row_is_too_little(tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds one row"):
        prepare(config(write(tmp_path / "data", rows(1))))


@pytest.mark.fault("activations: fewer rows than a batch")
def test_less_than_a_batch_is_too_little(tmp_path) -> None:
    with pytest.raises(ConfigError, match="--batch-size 32 was given, but the data has only 16"):
        train(config(write(tmp_path / "data", rows(20))), tmp_path / "run", progress=False)


@pytest.mark.fault("activations: shards of different widths")
def test_widths_that_differ_name_the_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"1\.npy' has width 11; expected 12"):
        prepare(config(write(tmp_path / "data", rows(), rows()[:, 1:])))


@pytest.mark.fault("activations: rows of different widths in a file")
def test_ragged_rows_are_refused(tmp_path) -> None:
    ragged = np.array([np.zeros(D_IN), np.zeros(D_IN - 1)], dtype=object)
    folder = write(tmp_path / "data", rows())
    np.save(folder / "1.npy", ragged, allow_pickle=True)
    with pytest.raises(ConfigError, match=r"1\.npy' cannot be read"):
        prepare(config(folder))


@pytest.mark.fault("activations: shards of different types")
def test_types_that_differ_are_read_as_one(tmp_path) -> None:
    x = rows(4 * 25)
    folder = write(tmp_path / "d", x[:25].astype(np.float16), x[25:50].astype(np.float64), x[50:75])
    save_file({"x": torch.from_numpy(x[75:]).bfloat16()}, folder / "3.safetensors")
    source = FilesSource(folder)
    parts = [source.block(n, s).x for s in ("train", "eval") for n in range(source.n_blocks(s))]
    expected = torch.from_numpy(x)
    expected[:25] = expected[:25].half().float()
    expected[75:] = expected[75:].bfloat16().float()
    assert torch.equal(torch.cat(parts), expected)


@pytest.mark.fault("activations: a row of 1e30 among those that are measured")
def test_one_huge_row_is_named(tmp_path) -> None:
    x = rows()
    x[123, 4] = 1e30
    with pytest.warns(UserWarning, match=r"row 123 of '.*0\.npy' has 100% of the variance"):
        data = prepare(config(write(tmp_path / "data", x)))
    assert data.variance == pytest.approx(5)
    assert data.source.block(0, "train").x.isfinite().all()


@pytest.mark.fault("activations: a row of 1e30 later on")
def test_a_huge_row_later_stops_with_file_and_row(tmp_path, monkeypatch) -> None:
    x = rows()
    x[251, 4] = 1e30  # x is finite, its square is not
    measured = partial(sampled, rows=160)
    module = sys.modules[prepare.__module__]  # whose name is the function's in the package
    monkeypatch.setattr(module, "sampled", measured)
    folder = write(tmp_path / "data", x)
    with pytest.raises(NotFiniteError) as stop:
        train(config(folder, "--buffer-rows", "320"), tmp_path / "run", progress=False)
    assert "The largest activation, " in str(stop.value)
    assert f"is row 251 of {str(folder / '0.npy')!r}" in str(stop.value)
    bad = load_file(tmp_path / "run" / "bad_batch.safetensors")["x"]
    assert torch.equal(bad, stop.value.batch) and bad.abs().max() > 1e25
    newest = store.newest(tmp_path / "run" / "checkpoints")
    assert newest is None or all(
        t.isfinite().all() for t in newest.tensors.values() if t.is_floating_point()
    )


@pytest.mark.fault("activations: all of them around 1e30")
def test_huge_magnitudes_throughout_are_scaled(tmp_path) -> None:
    small = prepare(config(write(tmp_path / "a", rows())))
    large = prepare(config(write(tmp_path / "b", rows() * np.float32(1e30))))
    assert large.variance == pytest.approx(5)
    torch.testing.assert_close(
        large.source.block(1, "train").x, small.source.block(1, "train").x, rtol=1e-4, atol=1e-5
    )


@pytest.mark.fault("activations: float16 overflow while they are cached")
def test_a_cache_in_float16_refuses_what_does_not_fit(tmp_path) -> None:
    x = rows()
    x[321, 0] = 1e5
    source = FilesSource(write(tmp_path / "data", x))
    with pytest.raises(ConfigError, match="row 321 reaches 100000, more than float16 holds"):
        write_cache(source, tmp_path / "cache")
    assert not (tmp_path / "cache" / "source.json").exists()


@pytest.mark.fault("a shard cut short while it is read")
@pytest.mark.parametrize("layout", ["rows", "columns", "safetensors", "bfloat16"])
def test_a_shard_that_becomes_shorter_is_named_with_its_row(layout, tmp_path) -> None:
    x = rows()
    if layout in ("rows", "columns"):
        path = tmp_path / "a.npy"
        np.save(path, np.asfortranarray(x) if layout == "columns" else x)
    else:
        path = tmp_path / "a.safetensors"
        tensor = torch.from_numpy(x)
        save_file({"x": tensor.bfloat16() if layout == "bfloat16" else tensor}, path)
    source = FilesSource(tmp_path, rows_per_block=100)
    before = source.block(2, "train").x
    width = 2 if layout == "bfloat16" else 4
    lost = (ROWS - 250) * width * (1 if layout == "columns" else D_IN)
    os.truncate(path, path.stat().st_size - lost)
    with pytest.raises(ConfigError, match=r"a\.\w+' ended at row 250, but it had 400 rows"):
        source.block(3, "train")
    assert torch.equal(source.block(2, "train").x, before) or layout == "columns"


@pytest.mark.fault("a shard removed while it is read")
def test_a_shard_that_is_gone_is_named(tmp_path) -> None:
    source = FilesSource(write(tmp_path / "data", rows()))
    (tmp_path / "data" / "0.npy").unlink()
    with pytest.raises(ConfigError, match=r"0\.npy' cannot be read \(.*No such file"):
        source.block(0, "train")


@pytest.mark.fault("a shard cut short in the middle of a run")
def test_a_run_whose_shard_was_cut_goes_on_once_it_is_whole(tmp_path, monkeypatch) -> None:
    folder = write(tmp_path / "data", rows(), rows(seed=1))
    settings = config(folder, "--buffer-rows", "64")
    train(settings, tmp_path / "other", progress=False)
    shard, whole, taken = folder / "1.npy", (folder / "1.npy").read_bytes(), 0
    give = ShuffleBuffer.next_batch

    def cut_later(self: ShuffleBuffer, **how: int | None) -> Batch:
        nonlocal taken
        taken += 1
        if taken == 6:
            os.truncate(shard, 500)
        return give(self, **how)

    with monkeypatch.context() as patch:
        patch.setattr(ShuffleBuffer, "next_batch", cut_later)
        with pytest.raises(ConfigError, match=r"1\.npy' ended at row \d+"):
            train(settings, tmp_path / "run", progress=False)
    assert store.newest(tmp_path / "run" / "checkpoints") is not None
    shard.write_bytes(whole)
    resume(tmp_path / "run", progress=False)
    assert_same(tmp_path / "run", tmp_path / "other")


@pytest.mark.fault("other data than the run began with")
def test_a_run_does_not_go_on_with_other_data(tmp_path) -> None:
    folder = write(tmp_path / "data", rows())
    with pytest.raises(Interrupted):
        train(config(folder), tmp_path / "run", stop_after=5, progress=False)
    write(folder, rows(seed=5))
    with pytest.raises(ConfigError, match="the checkpoint's data had"):
        resume(tmp_path / "run", progress=False)


def test_where_a_row_of_a_batch_comes_from(tmp_path) -> None:
    folder = write(tmp_path / "data", rows(130), rows(170, seed=1))
    stored = {str(p): np.load(p) for p in folder.iterdir()}
    source = ScaledSource(FilesSource(folder, rows_per_block=40), 1.0)
    buffer = ShuffleBuffer(source, batch_size=16, rows=64, seed=3)
    for _ in range(25):
        batch = buffer.next()
        for row in (0, 7, 15):
            number, path = buffer.origin(row).removeprefix("row ").split(" of ")
            assert np.array_equal(stored[path.strip("'")][int(number)], batch[row].numpy())


@pytest.mark.fault("a string with path separators")
def test_a_models_name_is_no_path_below_the_harvest(tmp_path) -> None:
    hostile = TrainConfig(activations="language-model", model="../../../etc/x\x00\n", hook="../h")
    assert harvest_folder(tmp_path, hostile).parent == tmp_path
