"""The line of a logged step."""

from __future__ import annotations

import pytest
import torch

from tests.training.states import BATCH, D_IN, state
from topk_ortho.training.events import StepMetrics
from topk_ortho.training.step import train_step


@pytest.mark.fault("a number beyond the range of its type")
def test_a_decoder_row_counts_as_zero_only_where_all_of_it_is() -> None:
    s = state()
    step = train_step(s, torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        s.sae.W_dec[3] *= 1e-30  # the squares of its entries are zero in float32
        s.sae.W_dec[4] = 0
    assert StepMetrics(s).of(step, steps=1, seconds=1.0)["zero_rows"] == 1
