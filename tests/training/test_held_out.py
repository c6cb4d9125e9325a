"""Metrics on held-out activations during training: they change nothing, and survive a restart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests import tiny_llama
from tests.system.tiny_run import events, outcome, tiny, words
from topk_ortho.machine.interrupt import Interrupted
from topk_ortho.report.reading import read_log
from topk_ortho.training import held_out, resume, train
from topk_ortho.training.events import EventLog

EVERY = ("--evaluate-every", "25", "--evaluate-samples", "256")


def measured(folder: Path) -> list[dict]:
    """The lines of held-out metrics."""
    return [
        {k: v for k, v in event.items() if k != "held_out_seconds"}
        for event in events(folder)
        if "held_out" in event
    ]


@pytest.mark.parametrize("kind", ["batch-topk", "topk", "jumprelu", "matryoshka"])
def test_training_is_bit_for_bit_as_without(tmp_path, kind):
    train(tiny("--sae.kind", kind), tmp_path / "without", progress=False)
    train(tiny("--sae.kind", kind, *EVERY), tmp_path / "with", progress=False)
    assert [e["step"] for e in measured(tmp_path / "with")] == [25, 50, 60]
    without, with_ = (outcome(tmp_path / name) for name in ("without", "with"))
    with_["events"] = [event for event in with_["events"] if "held_out" not in event]
    assert with_ == without
    tensors = "checkpoints/step_60/tensors.safetensors"
    assert (tmp_path / "with" / tensors).read_bytes() == (
        tmp_path / "without" / tensors
    ).read_bytes()


def test_the_last_measurement_is_near_the_result(tmp_path):
    config = tiny("--steps", "300", "--evaluate-every", "300")
    result = train(config, tmp_path / "run", progress=False)
    (line,) = measured(tmp_path / "run")
    found = line["held_out"]
    assert set(found) == set(held_out.FIGURES) - {"ce_score", "kl_score"}
    assert found["rows"] == result["rows"] == 512
    for name in ("explained_variance", "mcc", "excess", "absorption_rate", "base_miss"):
        assert found[name] == pytest.approx(result[name], abs=0.02), name
    assert found["l0"] == pytest.approx(4, rel=0.1)


def test_a_language_model_has_its_ce_score_measured(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n\n".join(tiny_llama.stories()))
    options = f"--model {tiny_llama.shared()} --text {tmp_path / 'text.txt'}"
    options += " --hook blocks.0.hook_resid_post --context 16"
    config = tiny(*words(options), "--evaluate-every", "60")
    monkeypatch.setattr(held_out, "CONTEXTS", 2)
    train(config, tmp_path / "run", progress=False)
    (line,) = measured(tmp_path / "run")
    assert math.isfinite(line["held_out"]["ce_score"] + line["held_out"]["kl_score"])
    assert not {"mcc", "excess"} & line["held_out"].keys()


def test_fewer_rows_than_at_the_end_are_taken():
    assert held_out.samples(tiny("--evaluate-every", "1")) == 512
    assert held_out.samples(tiny(*EVERY)) == 256


@pytest.mark.parametrize("stop", [1, 25, 30, 50, 59])
def test_a_resumed_run_has_the_same_lines(tmp_path, stop):
    train(tiny(*EVERY), tmp_path / "whole", progress=False)
    with pytest.raises(Interrupted):
        train(tiny(*EVERY), tmp_path / "run", stop_after=stop, progress=False)
    resume(tmp_path / "run", progress=False)
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")


@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_was_stopped_is_measured_by_the_next_process(tmp_path, monkeypatch, at):
    train(tiny(*EVERY), tmp_path / "whole", progress=False)
    real, calls = held_out.evaluation.evaluate, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise Interrupted()
        return real(*args, **kwargs)

    monkeypatch.setattr("topk_ortho.training.evaluation.evaluate", stopped)
    with pytest.raises(Interrupted, match=f"stopped after step {(25, 50, 60)[at - 1]} of 60"):
        train(tiny(*EVERY), tmp_path / "run", progress=False)
    resume(tmp_path / "run", progress=False)
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")
    assert outcome(tmp_path / "run")["weights"] == outcome(tmp_path / "whole")["weights"]


def test_a_log_knows_its_last_measurement(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 5}, {"step": 5, "held_out": {}}, {"step": 9}, {"step": 10, "held_out": {}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for keep, last in ((12, 10), (9, 5), (4, 0)):
        log = EventLog(path, keep_until=keep)
        log.close()
        assert log.measured == last


@pytest.mark.parametrize("order", [1, -1])
def test_the_report_reads_both_lines_of_a_step(tmp_path, order):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 5, "l0": 3.0}, {"step": 5, "held_out": {"l0": 4.0}}][::order]
    lines.append({"step": 8, "held_out": {"l0": 6.0}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_log(path) == [
        {"step": 5, "l0": 3.0, "held_out.l0": 4.0},
        {"step": 8, "held_out.l0": 6.0},
    ]
