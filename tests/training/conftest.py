"""As in `tests/system`: whole runs calibrate on few rows."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
