"""Compiles every kernel for a GPU that is not here, and prints what its machine code takes.

`python tests/cuda/offline.py 90` compiles for sm_90: a line of JSON for each variant, with
registers, spilled and shared bytes, and atomic operations by name. It takes Triton's own tools.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from topk_ortho.constraint.penalty import kernels as penalty
from topk_ortho.constraint.selection import kernels as selection

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
I32, I64, F32, F64 = "*i32", "*i64", "*fp32", "*fp64"
COLUMNS = {
    "crow": I64, "col": I64, "value": F32, "values": F32, "count": I32, "most": I64,
    "label_of": I64, "feature_of": I64, "labels": I32, "cursor": I32, "first": I32, "last": I32,
    "end": I32, "plan": I32, "warm": I32, "n_out": I32, "counts": I64, "scratch": I64,
    "by": F64, "mean": F64, "out_bits": I32, "out_r": I32, "out_j": I32, "hist": I32,
    "cells": I64, "bits": I32, "r": I32, "j": I32, "n_taken": I32, "n_ties": I32,
    "i": I32, "score": F32, "rate": F32, "pair": I32, "parent": I32, "pair_out": I32,
    "parent_out": I32, "W": F32, "tau": F32, "weight": F32, "out": F32, "loss": F32,
    "row_of": I32, "sel_bits": I32, "sel_i": I32, "sel_j": I32, "tie_bits": I32, "tie_i": I32,
    "tie_j": I32,
}  # fmt: skip
"""Types of the pointers by the name of the argument; all others are 32-bit integers."""

Variant = tuple[Any, dict[str, Any], int, dict[str, str]]


def variants() -> Iterator[Variant]:
    """Kernel, constants, warps, and types that differ from `COLUMNS`."""
    yield selection.row_stats, {"T": 64}, 1, {}
    yield selection.relabel_rows, {"T": 32}, 1, {}
    yield selection.scatter_columns, {"T": 64}, 1, {}
    yield selection.hub_pairs, {"A": 16, "T": 64}, 4, {}
    yield selection.begin, {}, 4, {}
    yield selection.judge, {"B": 1024}, 4, {}
    yield selection.take, {"B": 1024}, 4, {}
    yield selection.pick_ties, {"B": 64}, 4, {}
    for score, mean, types in ((0, False, {}), (0, False, {"values": F64}), (1, True, {}),
                               (2, False, {})):  # fmt: skip
        own = {"CHUNK": 2048, "SCORE": score, "MEAN": mean}
        yield selection.accumulate, {"E": 8, "P": 32, **own}, 4, types
        yield selection.sweep_hubs, {"H": 128, **own}, 4, types
    yield penalty.count_children, {"B": 1024}, 4, {"counts": I32}
    yield penalty.scatter_children, {"B": 1024}, 4, {}
    yield penalty.order_groups, {"B": 32}, 1, {"counts": I32}
    for width, rows, warps in ((1024, 8, 4), (4096, 2, 8), (8192, 1, 8)):
        tile = {"D": width, "ROWS": rows, "BOTH": False, "COSINE": False}
        for cut in (False, True):
            yield penalty.pair_penalty, {**tile, "CUT": cut}, warps, {"counts": I32}
        yield penalty.add_parts, {"D": width}, warps, {"counts": I32}


def compiled(variant: Variant, capability: int) -> dict[str, Any]:
    """Compiles a variant; returns what it takes."""
    kernel, constants, warps, types = variant
    signature = {
        name: "constexpr" if name in constants else (COLUMNS | types).get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": kernel is penalty.pair_penalty}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(made.asm["cubin"])
        usage = _said("cuobjdump", "--dump-resource-usage", path)
        code = _said("nvdisasm", path)
    line = next(line for line in usage.splitlines() if "REG:" in line)
    taken = {key: int(found) for key, found in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", line)}
    atomics = re.findall(r"\b((?:RED|REDG|ATOM|ATOMG|ATOMS)\.[A-Z0-9_.]+)", code)
    return {
        "kernel": kernel.fn.__name__, "sm": capability, "warps": warps,
        "constants": constants | types,
        "registers": taken["REG"], "spilled": taken["STACK"] + taken["LOCAL"],
        "shared": taken["SHARED"] + made.metadata.shared, "atomics": dict(Counter(atomics)),
        "fused": len(re.findall(r"\b[DF]FMA\b", code)),
    }  # fmt: skip


def _said(tool: str, *arguments: object) -> str:
    command = [str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for number in sys.argv[1:]:
        for found in variants():
            print(json.dumps(compiled(found, int(number))), flush=True)
