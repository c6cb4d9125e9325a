"""Kernels compile for GPUs that are not here, within limits that keep their programs many."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("offline.py")
REGISTERS = {"accumulate": 80, "pair_penalty": 176}
SPILLED = {"accumulate": (16, 128), "pair_penalty": (16, 16)}
"""Bytes of a thread, without and with a division; the penalty spills at a width of 8,192 alone."""
SHARED = 10 * 1024

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def compiled(capability: int) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(capability)], env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_kernel_compiles_within_its_limits(capability: int) -> None:
    found = compiled(capability)
    assert len({variant["kernel"] for variant in found}) == 15
    for variant in found:
        name, atomics = variant["kernel"], " ".join(variant["atomics"])
        assert variant["registers"] <= REGISTERS.get(name, 168), variant
        divides = variant["constants"].get("SCORE", 0) > 0
        assert variant["spilled"] <= SPILLED.get(name, (0, 0))[divides], variant
        assert variant["shared"] <= SHARED, variant
        assert "CAST" not in atomics and "F32" not in atomics, variant  # neither loops nor floats
        if name == "accumulate":
            assert "ADD.64" in atomics and "EXCH.64" in atomics, variant
            assert variant["constants"]["SCORE"] or not variant["fused"], variant
        if name in ("pair_penalty", "add_parts"):
            assert not atomics, variant
