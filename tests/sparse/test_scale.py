"""Rows of any scale become unit rows, with and without questions about the data."""

from __future__ import annotations

import pytest
import torch

from topk_ortho.sparse import scale


@pytest.mark.parametrize("size", [1e-42, 1e-20, 1e-3, 1.0, 1e3, 1e20, 1e37])
def test_the_way_that_never_waits_gives_the_same_rows(size: float) -> None:
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    rows[1::2] *= size
    rows[4] = 0
    one, other = rows.clone(), rows.clone()
    scale.unit_rows_(one)
    scale._without_questions(other)
    torch.testing.assert_close(other, one, rtol=2e-7, atol=0)
    assert not other[4].any()
