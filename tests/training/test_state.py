"""Restoring a checkpoint: what is no fault of the checkpoint is not said to be one."""

from __future__ import annotations

import pytest
import torch

from tests.constraint.selection.test_retry import FAILURES
from tests.training.states import state
from topk_ortho.config import ConfigError
from topk_ortho.constraint.selection.retry import is_out_of_memory
from topk_ortho.training.step import train_step


@pytest.fixture
def restoring(request, monkeypatch):
    """A call that restores a good checkpoint, in whose midst the parameter is raised."""
    s = state()
    train_step(s, s.buffer.next())
    tensors, numbers, history = s.tensors(), s.numbers(), s.history()
    fresh = state()

    def fails(moments: dict[str, torch.Tensor]) -> None:
        raise request.param

    monkeypatch.setattr(fresh.optimizer, "load", fails)
    return lambda: fresh.restore(tensors, numbers, history)


@pytest.mark.fault("out of memory while a checkpoint is restored")
@pytest.mark.parametrize("restoring", [f() for f in FAILURES.values()], ids=FAILURES, indirect=True)
def test_out_of_memory_is_no_damage_of_the_checkpoint(restoring) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        restoring()
    assert is_out_of_memory(caught.value)
    assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("restoring", [RuntimeError("other shapes")], indirect=True)
def test_any_other_error_is_the_checkpoints(restoring) -> None:
    with pytest.raises(ConfigError, match=r"does not hold the state .*other shapes"):
        restoring()
