"""The kinds of sources that `--activations` names, each opened from a configuration.

A package adds its own by `register_source`, in a script before the run or in a module that its
entry point of the group `topk_ortho.activations.kinds` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topk_ortho.config import TrainConfig
from topk_ortho.config.sources import SOURCES

if TYPE_CHECKING:  # a command line asks for names, and waits for no torch
    from topk_ortho.activations.language_source import LanguageSource
    from topk_ortho.activations.source import Source


@dataclass(frozen=True)
class Opened:
    """A source as its kind opens it.

    Attributes:
        source: blocks in the units that they come in.
        language: the same source, where it is a language model's.
        origin: `model`, `hook`, `hook_out` and `context` of the activations, as far as they are
            known.
    """

    source: Source
    language: LanguageSource | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


def _no_files(config: TrainConfig) -> Sequence[Path]:
    return ()


@dataclass(frozen=True)
class SourceKind:
    """One kind of source.

    Attributes:
        name: as `--activations` has it.
        open: a checked configuration and a device to an open source; raises `ConfigError` where
            that cannot be.
        files: files and folders that the data is made of, so that a change of them is noticed.
        scaled: whether the data is scaled to the total variance of training; if not, it is used
            unscaled.
        options: the first words of the options that only this kind has.
    """

    name: str
    open: Callable[[TrainConfig, str], Opened]
    files: Callable[[TrainConfig], Sequence[Path]] = _no_files
    scaled: bool = True
    options: frozenset[str] = frozenset()


def register_source(kind: SourceKind) -> SourceKind:
    """Add a kind of source, and return it; `--activations` takes its name from then on.

    Raises:
        ValueError: its name is taken, or is not lower-case words joined by hyphens.
    """
    SOURCES.register(kind)
    return kind


def _open_synthetic(config: TrainConfig, device: str) -> Opened:
    from topk_ortho.activations.synthetic import SyntheticSource

    return Opened(SyntheticSource(config.synthetic, seed=config.seed))


def _open_files(config: TrainConfig, device: str) -> Opened:
    from topk_ortho.activations.files import FilesSource

    assert config.data is not None
    files = FilesSource(config.data, layer=config.data_layer)
    return Opened(files, origin=files.described)


def _open_language_model(config: TrainConfig, device: str) -> Opened:
    from topk_ortho.activations.preparation import open_language_model

    return of_language(config, open_language_model(config, device=device))


def of_language(config: TrainConfig, language: LanguageSource) -> Opened:
    """A language model's source that is already open."""
    origin = {"model": config.model, "hook": config.hook, "context": config.context}
    origin |= {"hook_out": config.hook_out} if config.hook_out else {}
    return Opened(language, language, origin)


def _shards(config: TrainConfig) -> Sequence[Path]:
    from topk_ortho.activations.files import DESCRIPTION, SUFFIXES

    assert config.data is not None
    return _inside(config.data, lambda p: p.suffix in SUFFIXES or p.name == DESCRIPTION)


def _text_and_model(config: TrainConfig) -> Sequence[Path]:
    model = Path(config.model).expanduser()
    if model.suffix == ".gguf" and model.is_file():
        return [*config.text, model]
    parts = _inside(model, lambda p: p.suffix in (".safetensors", ".json", ".model"))
    return [*config.text, *parts]


def _inside(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if wanted(p)) if folder.is_dir() else []


register_source(
    SourceKind("synthetic", _open_synthetic, scaled=False, options=frozenset({"synthetic"}))
)
register_source(
    SourceKind(
        "language-model",
        _open_language_model,
        files=_text_and_model,
        options=frozenset(
            {"model", "text", "dataset", "hook", "hook_out", "context"}
            | {"tokens", "leave_out", "skip_positions", "chat_roles"}
            | {"eval_contexts", "backend", "dtype", "attn", "model_device", "device_map"}
        ),
    )
)
register_source(
    SourceKind("files", _open_files, files=_shards, options=frozenset({"data", "data-layer"}))
)
