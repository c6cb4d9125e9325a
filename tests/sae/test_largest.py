"""The n largest numbers by a threshold, against sorting them all."""

from __future__ import annotations

import pytest
import torch

from topk_ortho.sae.largest import SAMPLE, largest, largest_values

SIZE = 8 * SAMPLE


def numbers(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(SIZE, generator=generator)
    return {
        "normal": normal,
        "all equal": torch.ones(SIZE),
        "few values": normal.round(),
        "rising": torch.arange(SIZE).float(),
        "rare peaks": torch.where(torch.arange(SIZE) % 997 == 5, normal.abs(), 0.0),
        # what the sample sees is larger than all it does not see
        "sample misleads": torch.where(torch.arange(SIZE) % (SIZE // SAMPLE | 1) == 0, 9.0, normal),
        "bfloat16": normal.bfloat16(),
    }[kind]


@pytest.mark.parametrize("n", [1, 7, 1000, SIZE // 9, SIZE // 2, SIZE])
@pytest.mark.parametrize(
    "kind",
    ["normal", "all equal", "few values", "rising", "rare peaks", "sample misleads", "bfloat16"],
)
def test_the_largest_are_those_of_a_full_sort(kind: str, n: int) -> None:
    values = numbers(kind)
    places = largest(values, n)
    assert len(places.unique()) == n
    assert torch.equal(
        values[places].sort(descending=True).values, values.sort(descending=True).values[:n]
    )


def test_not_a_number_is_the_largest() -> None:
    values = numbers("normal")
    values[[3, 70_001]] = torch.nan
    assert {3, 70_001} <= set(largest(values, 1000).tolist())


def test_the_largest_values_in_pieces_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.sae.largest.PIECE", 100)
    values = torch.rand(1234, generator=torch.Generator().manual_seed(0))
    for n in (1, 60, 100, 500, 1234):
        got = largest_values(values, n).sort(descending=True).values
        assert torch.equal(got, values.sort(descending=True).values[:n])
