"""A run whose activations are read ahead in a thread."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from tests.activations.test_ahead import threads
from tests.system.tiny_run import assert_same, tiny
from tests.training.states import D_IN, Gaussian
from topk_ortho.activations import Activations
from topk_ortho.activations.memory import prefetches
from topk_ortho.config import ConfigError
from topk_ortho.machine.interrupt import Interrupted
from topk_ortho.training import resume, train
from topk_ortho.training.memory import forecast

SMALL = ("--buffer-rows", "320", "--synthetic.d-in", "12")
ON = (*SMALL, "--prefetch", "on", "--evaluate-every", "20")


def test_a_run_is_bit_for_bit_the_same(tmp_path):
    train(tiny(*SMALL, "--evaluate-every", "20"), tmp_path / "off", progress=False)
    train(tiny(*ON), tmp_path / "on", progress=False)
    with pytest.raises(Interrupted):
        train(tiny(*ON), tmp_path / "resumed", stop_after=33, progress=False)
    assert threads() == 0
    resume(tmp_path / "resumed", progress=False)
    for name in ("on", "resumed"):
        for folder in (tmp_path / "off", tmp_path / name):
            log = folder / "metrics.jsonl"
            lines = [line for line in log.open() if "held_out_seconds" not in line]
            log.write_text("".join(lines))
        assert_same(tmp_path / name, tmp_path / "off")
    assert threads() == 0


class Stopping(Gaussian):
    """Sends Ctrl-C from the thread, when the run waits for it."""

    def block(self, index, split):
        if index == 4 and split == "train":
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return super().block(index, split)


class Failing(Gaussian):
    """Has no block 4."""

    def block(self, index, split):
        if index == 4 and split == "train":
            raise ConfigError("block 4 cannot be read")
        return super().block(index, split)


def data(source) -> Activations:
    return Activations(source, scale=1.0, variance=float(D_IN), mean=torch.zeros(D_IN))


TWO_BLOCKS = (
    "--prefetch", "on", "--buffer-rows", "512", "--batch-size", "256", "--pairs.criterion", "none",
    "--steps", "20",
)  # fmt: skip
"""A filling of `Gaussian` is two blocks, a block one batch."""


@pytest.mark.fault("Ctrl-C while a run waits for its next activations")
def test_ctrl_c_ends_the_wait_and_the_thread(tmp_path):
    with pytest.raises(Interrupted, match="stopped after step 4 of 20, which is kept"):
        train(tiny(*TWO_BLOCKS), tmp_path / "run", data=data(Stopping()), progress=False)
    assert threads() == 0


@pytest.mark.fault("an error in the thread that reads ahead")
def test_an_error_in_the_thread_stops_the_run(tmp_path):
    with pytest.raises(ConfigError, match="block 4 cannot be read"):
        train(tiny(*TWO_BLOCKS), tmp_path / "run", data=data(Failing()), progress=False)
    assert threads() == 0


def test_auto_reads_ahead_on_an_accelerator():
    for prefetch, gpu, expected in (
        ("auto", True, True),
        ("auto", False, False),
        ("on", False, True),
        ("off", True, False),
    ):
        assert prefetches(tiny("--prefetch", prefetch), gpu=gpu) is expected


def test_the_forecast_counts_the_filling_in_the_making():
    def held(prefetch: str, *options: str) -> int:
        config = tiny("--prefetch", prefetch, *options)
        return forecast(config, d_in=24, device="cpu").at("encoding", "host")

    filling = 4 * 24 * 131_072
    larger = held("on", "--buffer-rows", "131072", "--steps", "5000") - held(
        "off", "--buffer-rows", "131072", "--steps", "5000"
    )
    assert larger >= 2 * filling - 10_000_000
    assert held("on", "--buffer-rows", "131072") == held("off", "--buffer-rows", "131072")
