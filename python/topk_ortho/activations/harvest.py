"""A language model's activations on disk, computed once for all runs and processes that share them.

Blocks are those of `LanguageModelSource`, row for row, so a run's metrics do not depend on where it
read them. A block is computed when it is first asked for, under a lock, written whole and read
from then on: runs side by side, or one after another, never compute it twice, and what no run asks
for is never computed. Costs 4 bytes a value on disk; the model is loaded only where a block is
missing or the model itself is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_ortho.activations.language_model import LanguageModelSource
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.shards import write_whole
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.checkpoint.locks import locked
from topk_ortho.config import ConfigError, TrainConfig

VERSION = 1
DESCRIPTION = "harvest.json"
SPLITS: tuple[Split, ...] = ("train", "eval")
LEFT_OUT = ("tokens", "leave_out", "skip_positions", "chat_roles")
"""Further options that the blocks depend on."""


def harvest_folder(root: Path, config: TrainConfig) -> Path:
    """Returns the folder below `root` that holds the blocks of a `language-model` configuration."""
    text = [str(path.absolute()) for path in config.text]
    parts: list[Any] = [config.model, text, config.dataset, config.hook, config.context]
    parts += [config.backend, config.dtype, config.attn]  # the last digits depend on them
    others = {name: value for name in LEFT_OUT if (value := getattr(config, name)) is not None}
    others |= {"hook_out": config.hook_out} if config.hook_out else {}
    parts += [others] if others else []
    return root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class HarvestedSource:
    """The blocks of a language model's source, from a folder that fills as they are asked for.

    Args:
        folder: belongs to one model, text, hook point and context.
        open_source: loads the model; called at most once, and only when it is needed.

    Attributes:
        hook: the hook point.
        hook_out: hook point of the targets, empty without any.
        loaded: backend, type and device of the model that began the folder.

    Raises:
        ConfigError: a damaged folder, or one of another version.
    """

    truth: GroundTruth | None = None

    def __init__(self, folder: Path, open_source: Callable[[], LanguageModelSource]) -> None:
        self._folder, self._open = folder, open_source
        self._source: LanguageModelSource | None = None
        with locked(folder / ".lock"):
            if not (folder / DESCRIPTION).exists():
                self._describe()
        described = _read(folder / DESCRIPTION)
        self.d_in: int = described["d_in"]
        self.hook: str = described["hook"]
        self.hook_out: str = described.get("hook_out", "")
        self.loaded: dict[str, str] = described.get("loaded", {})
        self._n_blocks: dict[str, int | None] = described["n_blocks"]
        self._read: dict[str, Tensor] = {}
        for split in SPLITS:
            if self._n_blocks[split] is not None:
                self._file(f"contexts-{split}.npy")

    @property
    def model(self) -> LanguageModel:
        """Returns the language model, loaded when it is first asked for."""
        return self._opened().model

    def contexts(self, split: Split, *, rows: int | None = None) -> Tensor:
        """Returns the contexts of a split, `[n, context]` int64, in the order of its blocks: all,
        or just enough for so many rows."""
        if self._n_blocks[split] is None:
            return self._opened().contexts(split, rows=rows)
        enough = slice(None) if rows is None else _enough(self.kept(split), rows)
        return self._file(f"contexts-{split}.npy")[enough]

    def kept(self, split: Split, *, rows: int | None = None) -> Tensor:
        """Returns `[n, context]` bool, which positions of `contexts` are rows."""
        if self._n_blocks[split] is None:
            return self._opened().kept(split, rows=rows)
        if not (self._folder / f"kept-{split}.npy").exists():  # of an earlier version: all but BOS
            tokens = self._file(f"contexts-{split}.npy")
            kept = tokens != tokens[:, :1]
        else:
            kept = self._file(f"kept-{split}.npy")
        return kept if rows is None else kept[_enough(kept, rows)]

    def _file(self, name: str) -> Tensor:
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def n_blocks(self, split: Split) -> int | None:
        """Returns the number of blocks in a split; None for those of a stream."""
        return self._n_blocks[split]

    def block(self, index: int, split: Split) -> Block:
        """Returns the rows of one block.

        Raises:
            IndexError: no such block.
            ConfigError: an activation is not finite, or the block cannot be written.
        """
        limit = self._n_blocks[split]
        if index < 0 or (limit is not None and index >= limit):
            raise IndexError(f"block {index} of {split}: there are {limit}")
        name, target = _name(index, split), _name(index, split, "-target")
        if not (self._folder / name).exists():
            with locked(self._folder / ".lock"):
                if not (self._folder / name).exists():
                    block = self._opened().block(index, split)
                    if block.target is not None:  # first, since the other shows that both are there
                        self._write(target, block.target)
                    self._write(name, block.x)
        return Block(self._load(name), None, self._load(target) if self.hook_out else None)

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of {str(self._folder / _name(index, split))!r}"

    def _opened(self) -> LanguageModelSource:
        if self._source is None:
            self._source = self._open()
        return self._source

    def _describe(self) -> None:
        source = self._opened()
        for split in SPLITS:
            if source.n_blocks(split) is not None:
                self._write(f"contexts-{split}.npy", source.contexts(split))
                self._write(f"kept-{split}.npy", source.kept(split))
        said = {
            "version": VERSION,
            "d_in": source.d_in,
            "hook": source.hook,
            "hook_out": source.hook_out,
            "loaded": dict(source.loaded),
            "n_blocks": {split: source.n_blocks(split) for split in SPLITS},
        }
        text = json.dumps(said, indent=2).encode()
        write_whole(self._folder / DESCRIPTION, lambda f: f.write(text))

    def _write(self, name: str, rows: Tensor) -> None:
        write_whole(self._folder / name, partial(np.save, arr=rows.numpy(), allow_pickle=False))

    def _load(self, name: str) -> Tensor:
        try:
            return torch.from_numpy(np.load(self._folder / name, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(self._folder / name, error) from None


def _enough(kept: Tensor, rows: int) -> slice:
    """Returns the first contexts that have so many rows."""
    return slice(int((kept.sum(1).cumsum(0) < rows).sum()) + 1)


def _name(index: int, split: Split, what: str = "") -> str:
    return f"{split}-{index:06d}{what}.npy"


def _read(path: Path) -> dict:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        version = described["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    if version != VERSION:
        raise _damaged(path, f"version {version}, expected {VERSION}")
    return described


def _damaged(path: Path, why: object) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read ({why}), but activations kept by an earlier run were expected; "
        "remove its folder, and they are computed again."
    )
