"""Activations from a folder of shards, `.npy` or `.safetensors`, sorted by name.

A folder that vLLM's hidden-state connector filled is read as well: one `.safetensors` for each
request, with `hidden_states` of one or several layers and `token_ids`.

A shard is one tensor `[rows, d_in]` of float16, float32 or float64 (`.safetensors` also bfloat16);
reading a block costs its own rows, whatever the size of the folder. Nothing stays mapped, since a
mapped file that becomes shorter kills the process that reads it. Refused, by name of the file:
pickled or damaged shards, other widths or types, empty shards, rows that are not finite, shards
that become shorter while they are read.
"""

from __future__ import annotations

import json
import warnings
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from topk_ortho.activations.shards import check_sizes
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.config import ConfigError

SUFFIXES = (".npy", ".safetensors")
_DTYPES: dict[str, np.dtype | None] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": None,
}
DESCRIPTION = "source.json"
UNFINISHED = "unfinished.json"
"""Marker file in a folder whose shards `topk-ortho cache` has not all written yet."""
ROWS_NAME, HIDDEN_STATES = "activations", "hidden_states"
"""Tensors of a `.safetensors` that hold rows: ours, and those of vLLM."""
SPREAD = 32
"""Blocks, all over the shards, that scale, mean and variance are estimated on."""
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One file of activations.

    Attributes:
        path: the file.
        rows: number of rows.
        d_in: width.
        dtype: of its numbers, None for bfloat16, which numpy does not know.
        offset: bytes before the first number.
        by_column: whether the numbers of a column lie side by side, and not those of a row.
        layers: rows of each token that lie one after another, of as many layers.
        layer: which of them is read.
    """

    path: Path
    rows: int
    d_in: int
    dtype: np.dtype | None
    offset: int
    by_column: bool = False
    layers: int = 1
    layer: int = 0

    def read(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32 `[stop - start, d_in]`.

        Raises:
            ConfigError: the file has become shorter, or cannot be read any more.
        """
        stored = np.dtype("<i2") if self.dtype is None else self.dtype
        if self.by_column:
            columns = [self._numbers(stored, c * self.rows + start, stop - start, start)
                       for c in range(self.d_in)]  # fmt: skip
            x = np.stack(columns, axis=1)
        else:
            width = self.layers * self.d_in
            x = self._numbers(stored, start * width, (stop - start) * width, start)
            x = x.reshape(-1, self.layers, self.d_in)[:, self.layer]
        if self.dtype is None:
            return torch.from_numpy(np.ascontiguousarray(x)).view(torch.bfloat16).float()
        with np.errstate(over="ignore"):
            return torch.from_numpy(x.astype(np.float32, order="C"))

    def _numbers(self, dtype: np.dtype, first: int, count: int, row: int) -> np.ndarray:
        try:
            offset = self.offset + first * dtype.itemsize
            numbers = np.fromfile(self.path, dtype, count, offset=offset)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if len(numbers) < count:
            at = row + len(numbers) // (1 if self.by_column else self.layers * self.d_in)
            raise ConfigError(
                f"{str(self.path)!r} ended at row {at}, but it had {self.rows} rows when it was "
                "opened; write it again, and leave shards alone while a run reads them."
            )
        return numbers


class FilesSource:
    """A `Source` of the rows in a folder's shards, in order.

    Blocks never span shards, so the last block of a shard may be short. The eval split is the last
    twentieth (`eval_fraction`) of the blocks: at least one, at most a fifth. A folder with fewer
    than five blocks is read in smaller ones.

    Args:
        folder: folder of shards.
        rows_per_block: rows of a block, but for the last of a shard.
        eval_fraction: share of the blocks kept for evaluation.
        layer: which layer is read where shards have several, from 0 in their order.

    Attributes:
        described: what `source.json` says about the rows (`hook`, `model`, ...), {} without it.

    Raises:
        ConfigError: no usable shards; the message names the file.
    """

    truth: GroundTruth | None = None

    def __init__(
        self,
        folder: str | Path,
        *,
        rows_per_block: int = 4096,
        eval_fraction: float = 0.05,
        layer: int | None = None,
    ) -> None:
        if rows_per_block < 1 or not 0 < eval_fraction < 1:
            raise ConfigError(
                f"rows_per_block is {rows_per_block} and eval_fraction {eval_fraction}; expected "
                "at least 1, and a share between 0 and 1."
            )
        self._shards = _open_folder(Path(folder), layer)
        self.d_in = self._shards[0].d_in
        self.rows = sum(shard.rows for shard in self._shards)
        self.described = _description(Path(folder), rows=self.rows, d_in=self.d_in)
        if self.rows < 2:
            raise ConfigError(f"{str(folder)!r} holds one row; expected enough to train on.")
        self._per_block = min(rows_per_block, max(1, self.rows // 5))
        self._ends = list(accumulate(-(-s.rows // self._per_block) for s in self._shards))
        blocks = self._ends[-1]
        held_out = max(1, min(round(blocks * eval_fraction), blocks // 5))
        self._n_blocks = {"train": blocks - held_out, "eval": held_out}

    def spread_blocks(self, rows: int) -> list[int] | None:
        """Training blocks from all over the shards, enough to take `rows` rows from; None where
        all come from one shard, or there are no more rows."""
        blocks = self._n_blocks["train"]
        last, start = self._at(blocks - 1, "train")
        held = sum(shard.rows for shard in self._shards[: self._shards.index(last)]) + start
        if last is self._shards[0] or held + self._per_block <= rows:
            return None
        count = min(blocks, max(SPREAD, -(-rows // self._per_block)))
        return [at * blocks // count for at in range(count)]

    def n_blocks(self, split: Split) -> int:
        """Returns the number of blocks in a split."""
        return self._n_blocks[split]

    def block(self, index: int, split: Split) -> Block:
        """Returns the rows of one block, float32.

        Raises:
            IndexError: no such block.
            ConfigError: a row is not finite, or no longer there; the message names file and row.
        """
        if not 0 <= index < self._n_blocks[split]:
            raise IndexError(f"block {index} of {split}: there are {self._n_blocks[split]}")
        shard, start = self._at(index, split)
        x = shard.read(start, min(start + self._per_block, shard.rows))
        finite = x.isfinite().all(dim=1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise ConfigError(
                f"{str(shard.path)!r}: row {row} is not finite in float32; expected finite "
                "activations: remove the row or write the shard again."
            )
        return Block(x=x, fired=None)

    def where(self, index: int, split: Split, row: int) -> str:
        shard, start = self._at(index, split)
        return f"row {start + row} of {str(shard.path)!r}"

    def _at(self, index: int, split: Split) -> tuple[Shard, int]:
        """The shard of a block, and its first row there."""
        at = index + (self._n_blocks["train"] if split == "eval" else 0)
        which = bisect_right(self._ends, at)
        first = self._ends[which - 1] if which else 0
        return self._shards[which], (at - first) * self._per_block


def rows_in(path: Path) -> int:
    """Returns the rows of one shard.

    Raises:
        ConfigError: it is none.
    """
    return _open(path, None).rows


def _open(path: Path, layer: int | None) -> Shard:
    return _open_npy(path) if path.suffix == ".npy" else _open_tensors(path, layer)


def _open_folder(folder: Path, layer: int | None) -> list[Shard]:
    if not folder.is_dir():
        raise ConfigError(
            f"no folder {str(folder)!r}: give a folder of .npy or .safetensors files."
        )
    _check_finished(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not paths:
        raise ConfigError(f"{str(folder)!r} holds no shards; expected .npy or .safetensors files.")
    check_sizes(folder)
    shards = [_open(path, layer) for path in paths]
    first = shards[0]
    if layer is not None and not any(path.suffix == ".safetensors" for path in paths):
        raise ConfigError(
            f"--data-layer {layer} was given, but the shards of {str(folder)!r} have one layer; "
            "leave it out."
        )
    for shard in shards:
        if shard.d_in != first.d_in:
            raise ConfigError(
                f"{str(shard.path)!r} has width {shard.d_in}; expected {first.d_in}, the width of "
                f"{first.path.name!r}: keep shards of one width in a folder."
            )
    return shards


def _check_finished(folder: Path) -> None:
    """Refuse a folder whose writing stopped, and warn where that cannot be determined."""
    if (folder / UNFINISHED).exists():
        raise ConfigError(
            f"{str(folder)!r} was given, but topk-ortho cache has not written all of its shards; "
            "give the same topk-ortho cache command again, which continues, or remove the folder."
        )
    if (folder / "shard-00000.npy").exists() and not (folder / DESCRIPTION).exists():
        warnings.warn(
            f"{str(folder)!r} holds shards as topk-ortho cache names them, but no {DESCRIPTION}, "
            "which it writes last; if its writing was stopped, the last shards are missing.",
            stacklevel=2,
        )


def _open_npy(path: Path) -> Shard:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        dtype, shape, offset = array.dtype, array.shape, array.offset
    except Exception as error:
        raise _unreadable(path, error) from error
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise _wrong_dtype(path, str(dtype))
    rows, d_in = _two_dimensions(path, shape)
    return Shard(path, rows, d_in, dtype, offset, by_column=not array.flags.c_contiguous)


def _open_tensors(path: Path, layer: int | None) -> Shard:
    try:
        with safe_open(path, framework="pt") as file:  # refuses incomplete files
            names = list(file.keys())
        header, data = _safetensors_header(path)
    except Exception as error:
        raise _unreadable(path, error) from error
    named = next((name for name in (ROWS_NAME, HIDDEN_STATES) if name in names), None)
    name = named or (names[0] if len(names) == 1 else None)
    if name is None:
        raise ConfigError(
            f"{str(path)!r} holds the tensors {sorted(names)}; expected a single one, or one named "
            f"`{ROWS_NAME}` or `{HIDDEN_STATES}`."
        )
    tensor = header[name]
    if tensor["dtype"] not in _DTYPES:
        raise _wrong_dtype(path, tensor["dtype"])
    shape, offset = tuple(tensor["shape"]), data + tensor["data_offsets"][0]
    dtype = _DTYPES[tensor["dtype"]]
    if name == HIDDEN_STATES and len(shape) == 3:
        tokens = header.get("token_ids", {}).get("shape", [shape[0]])[0]
        return _of_layer(Shard(path, tokens, shape[2], dtype, offset), shape, layer)
    rows, d_in = _two_dimensions(path, shape)
    return Shard(path, rows, d_in, dtype, offset)


def _of_layer(shard: Shard, shape: tuple[int, ...], layer: int | None) -> Shard:
    """One layer of hidden states: `[tokens, layers, d_in]`, as vLLM writes them, or
    `[layers, tokens, d_in]`."""
    by_token = shape[0] == shard.rows
    layers = shape[1] if by_token else shape[0]
    if shard.rows not in shape[:2] or 0 in shape:
        raise ConfigError(
            f"{str(shard.path)!r} has hidden states of shape {list(shape)} and {shard.rows} token "
            "ids; expected [tokens, layers, d_in]: write it again."
        )
    if layer is None and layers > 1:
        raise ConfigError(
            f"{str(shard.path)!r} has hidden states of {layers} layers, and one was expected; add "
            f"--data-layer 0 to {layers - 1}, counted in their order."
        )
    chosen = layer or 0
    if chosen >= layers:
        raise ConfigError(
            f"--data-layer {chosen} was given, but {str(shard.path)!r} has {layers} layers; give "
            f"0 to {layers - 1}."
        )
    if by_token:
        return replace(shard, layers=layers, layer=chosen)
    size = 2 if shard.dtype is None else shard.dtype.itemsize
    return replace(shard, offset=shard.offset + chosen * shard.rows * shard.d_in * size)


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a `.safetensors` file, and where its numbers begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def _two_dimensions(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ConfigError(
            f"{str(path)!r} has shape {list(shape)}; expected two dimensions, [rows, d_in]: "
            "flatten contexts and positions into rows."
        )
    if 0 in shape:
        raise ConfigError(
            f"{str(path)!r} is empty, shape {list(shape)}; expected rows: remove the file."
        )
    return shape[0], shape[1]


def _wrong_dtype(path: Path, given: str) -> ConfigError:
    return ConfigError(
        f"{str(path)!r} is of type {given}; expected float16, float32 or float64 "
        "(bfloat16 in .safetensors): convert it."
    )


def _unreadable(path: Path, error: Exception) -> ConfigError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ConfigError(
        f"{str(path)!r} cannot be read ({cause}); expected a whole {path.suffix} file without "
        "pickled objects: write it again."
    )


def _description(folder: Path, *, rows: int, d_in: int) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.exists():
        return {}
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(described, dict):
        raise ConfigError(f"{str(path)!r} holds no JSON object: write it again or remove it.")
    for name, found in (("rows", rows), ("d_in", d_in)):
        if described.get(name, found) != found:
            raise ConfigError(
                f"{str(path)!r} says {name} = {described[name]}, the shards hold {found}: restore "
                "the missing shards, or remove the file."
            )
    if described.get("version", VERSION) != VERSION:
        raise ConfigError(
            f"{str(path)!r} has version {described['version']}; expected {VERSION}: "
            "read it with the topk_ortho that wrote it."
        )
    return described
