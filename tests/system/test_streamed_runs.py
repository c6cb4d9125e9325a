"""A run on a text that is streamed: stopped and resumed, evaluated, and its memory."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests import tiny_llama
from tests.system.test_resume import newest_step
from tests.system.tiny_run import assert_same, tiny
from topk_ortho.activations import reading
from topk_ortho.activations.cache import write_cache
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.config import TrainConfig
from topk_ortho.inspect.evaluate.record import evaluate
from topk_ortho.machine.interrupt import Interrupted
from topk_ortho.training import loop
from topk_ortho.training.run import resume, train


@pytest.fixture(autouse=True)
def _streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WHOLE_BYTES", 0)
    monkeypatch.setattr(reading, "HELD_OUT_ROWS", 400)


@pytest.fixture
def settings(tmp_path: Path) -> TrainConfig:
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(tiny_llama.stories(400)))
    return tiny(
        "--model", str(tiny_llama.shared()), "--text", str(text), "--context", "16",
        "--hook", "blocks.0.hook_resid_post", "--buffer-rows", "600", "--skip-positions", "2",
        "--steps", "30", "--sae.d-sae", "48", "--max-norm", "1.2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stop", "tokens", "prefetch"),
    [
        (3, None, "off"),
        (23, 6000, "on"),
        pytest.param(3, None, "on", marks=pytest.mark.slow),
        pytest.param(23, 6000, "off", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_bit_for_bit_the_same(
    settings, tmp_path: Path, stop: int, tokens: int | None, prefetch: Literal["off", "on"]
) -> None:
    settings = replace(settings, tokens=tokens)
    train(settings, tmp_path / "whole", progress=False)
    settings = replace(settings, prefetch=prefetch)
    with pytest.raises(Interrupted):
        train(settings, tmp_path / "stopped", stop_after=stop, progress=False)
    resume(tmp_path / "stopped", progress=False)
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.fault("kill -9 in the middle of a stream")
@pytest.mark.parametrize("prefetch", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_a_killed_run_ends_bit_for_bit_the_same(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: Literal["off", "on"]
) -> None:
    train(settings, tmp_path / "whole", progress=False)
    step, folder = loop.train_step, tmp_path / "killed"

    def killed(state, x, *target):
        if state.step == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(state, x, *target)

    child = os.fork()
    if not child:
        monkeypatch.setattr(loop, "train_step", killed)
        with suppress(BaseException):
            train(replace(settings, prefetch=prefetch), folder, progress=False)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert newest_step(folder) == 20
    resume(folder, progress=False)
    assert_same(folder, tmp_path / "whole")


def test_evaluate_leaves_out_the_same_rows(settings, tmp_path: Path) -> None:
    result = train(settings, tmp_path / "run", progress=False)
    left_out = result["left_out"]
    assert {"bos", "positions", "norm", "norm_limit", "kept"} == set(left_out)
    assert left_out["norm"] > 0
    found = json.loads(json.dumps(evaluate(tmp_path / "run", {})))
    metrics = found["figures"]
    for name in ("explained_variance", "l0"):
        assert metrics[name] == pytest.approx(result[name], rel=0.02), name


def test_all_of_a_stream_can_be_measured_on(settings, tmp_path: Path) -> None:
    train(settings, tmp_path / "run", progress=False)
    found = evaluate(tmp_path / "run", {"eval-samples": 900}, split="all")
    assert found["figures"]["rows"] >= 700


def test_memory_does_not_follow_the_length_of_the_text(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for times in (1, 10):
        text = tmp_path / f"{times}.txt"
        text.write_text("\n\n".join(tiny_llama.stories(2000) * times))
        config = TrainConfig(
            activations="language-model", model=str(tiny_llama.shared()), text=(text,),
            hook="blocks.0.hook_resid_post", context=16,
        )  # fmt: skip
        blocks = open_language_model(config, device="cpu", cache_bytes=0).contexts_by_block
        blocks.block(0, "train")
        tracemalloc.start()
        for index in range(1, 150):
            blocks.block(index, "train")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.05 * peaks[0], peaks


def test_a_cache_of_a_stream_is_one_pass(settings, tmp_path: Path) -> None:
    source = open_language_model(settings, device="cpu")
    said = write_cache(source, tmp_path / "cache", rows_per_shard=5000, dtype="float32")
    blocks = source.contexts_by_block
    length = next(i for i in range(1000) if blocks.over(i))
    train_rows = sum(source.rows_of(i, "train") for i in range(length))
    held_out = int(source.kept("eval").sum())
    assert said["rows"] == train_rows + held_out
