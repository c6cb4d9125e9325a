"""Every test of the penalty runs twice: on CPU with Rust behind it, and in torch alone."""

from __future__ import annotations

import pytest

from topk_ortho.constraint.penalty import native


@pytest.fixture(autouse=True, params=["rust", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(native, "takes", lambda W_dec: False)
    return request.param
