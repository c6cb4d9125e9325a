"""As in `tests/system`: whole runs calibrate on few rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick_calibration() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
        yield
