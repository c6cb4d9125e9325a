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

import numpy as np
import torch
from torch import Tensor

from topk_ortho.activations.cache import write_whole
from topk_ortho.activations.language_model import LanguageModelSource
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.checkpoint.locks import locked
from topk_ortho.config import ConfigError, TrainConfig

VERSION = 1
DESCRIPTION = "harvest.json"
SPLITS: tuple[Split, ...] = ("train", "eval")


def harvest_folder(root: Path, config: TrainConfig) -> Path:
    """Returns the folder below `root` that holds the blocks of a `language-model` configuration."""
    text = [str(path.absolute()) for path in config.text]
    parts = [config.model, text, config.dataset, config.hook, config.context]
    parts += [config.backend, config.dtype, config.attn]  # the last digits depend on them
    return root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class HarvestedSource:
    """The blocks of a language model's source, from a folder that fills as they are asked for.

    Args:
        folder: belongs to one model, text, hook point and context.
        open_source: loads the model; called at most once, and only when it is needed.

    Attributes:
        hook: the hook point.
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
        self.loaded: dict[str, str] = described.get("loaded", {})
        self._n_blocks: dict[str, int] = described["n_blocks"]
        self._contexts = {split: self._load(f"contexts-{split}.npy") for split in SPLITS}

    @property
    def model(self) -> LanguageModel:
        """Returns the language model, loaded when it is first asked for."""
        return self._opened().model

    def contexts(self, split: Split) -> Tensor:
        """Returns the contexts of a split, `[n, context]` int64, in the order of its blocks."""
        return self._contexts[split]

    def n_blocks(self, split: Split) -> int:
        """Returns the number of blocks in a split."""
        return self._n_blocks[split]

    def block(self, index: int, split: Split) -> Block:
        """Returns the rows of one block.

        Raises:
            IndexError: no such block.
            ConfigError: an activation is not finite, or the block cannot be written.
        """
        if not 0 <= index < self._n_blocks[split]:
            raise IndexError(f"block {index} of {split}: there are {self._n_blocks[split]}")
        name = _name(index, split)
        if not (self._folder / name).exists():
            with locked(self._folder / ".lock"):
                if not (self._folder / name).exists():
                    self._write(name, self._opened().block(index, split).x)
        return Block(x=self._load(name), fired=None)

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of {str(self._folder / _name(index, split))!r}"

    def _opened(self) -> LanguageModelSource:
        if self._source is None:
            self._source = self._open()
        return self._source

    def _describe(self) -> None:
        source = self._opened()
        for split in SPLITS:
            self._write(f"contexts-{split}.npy", source.contexts(split))
        said = {
            "version": VERSION,
            "d_in": source.d_in,
            "hook": source.hook,
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


def _name(index: int, split: Split) -> str:
    return f"{split}-{index:06d}.npy"


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
