"""A pretended GPU for some tests, a real one for those marked `gpu`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from tests.cuda import pretend
from tests.cuda.interpreted import interpreter
from topk_ortho.machine.spans import listening


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretended device; what waited for it is counted from here."""
    monkeypatch.setattr(torch.nn.Module, "to", pretend.move)
    pretend.waits.clear()
    with listening(pretend.phases), pretend.Device():
        yield pretend.CUDA


@pytest.fixture
def kernels(gpu: torch.device) -> Iterator[Counter[str]]:
    """The pretended device with kernels; what was launched is counted by name."""
    with interpreter() as launches:
        yield launches
