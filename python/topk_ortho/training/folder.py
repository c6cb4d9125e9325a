"""A run folder: one configuration, one arm."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from topk_ortho.checkpoint import atomic
from topk_ortho.checkpoint.locks import Held, claimed
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.paths import absolute, stored_config
from topk_ortho.config.toml import as_written, config_hash, config_text


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunFolder:
        """Make the folder and write its `config.toml`, in which every path is whole.

        Raises:
            ConfigError: it exists, or cannot be written.
        """
        with new_folder(path) as made:
            atomic.write_file(made / "config.toml", config_text(absolute(config)).encode())
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, TrainConfig]:
        """Returns an existing run and its configuration.

        Raises:
            ConfigError: not a run folder.
        """
        if not (path / "config.toml").is_file():
            raise ConfigError(
                f"--resume {path} was given, but a run folder with a config.toml was expected; "
                "check the path, or start with --out."
            )
        return cls(path), stored_config(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder for training, until this process ends in whatever way.

        Raises:
            ConfigError: another process trains in it.
        """
        try:
            with claimed(self.path / "config.toml"):
                yield
        except Held:
            raise ConfigError(
                f"{self.path} was given, but another process is training in it; wait for it to "
                "end, or start again with another --out."
            ) from None

    def check_hash(self, config: TrainConfig) -> None:
        """A run folder belongs to one configuration.

        Raises:
            ConfigError: the folder was begun with another one.
        """
        manifest = self._read_json("manifest.json")
        begun = None if manifest is None else manifest.get("config_hash")
        # also as written: earlier versions kept relative paths, and `.` has no name
        written = as_written(self.path / "config.toml")
        if begun not in (None, config_hash(config), config_hash(written)):
            raise ConfigError(
                f"{self.path / 'config.toml'} was changed since the run began, but a run folder "
                "belongs to one configuration; restore the file, or start again with --out."
            )

    @property
    def resume_command(self) -> str:
        """Returns the command that resumes the run, as a shell takes it."""
        return f"python -m topk_ortho.train --resume {shlex.quote(str(self.path))}"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def sae(self) -> Path:
        return self.path / "sae"

    @property
    def baseline(self) -> Path:
        return self.path / "baseline"

    def result(self) -> dict[str, Any] | None:
        """Returns the metrics of a finished run, None before."""
        return self._read_json("result.json")

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ConfigError(
                f"{path} is damaged, but a JSON object was expected; remove it and resume with "
                f"--resume {self.path}, which writes it again."
            )
        return value

    def write_json(self, name: str, value: Any) -> None:
        """Write a file as a whole or not at all."""
        self.write_bytes(name, (json.dumps(value, indent=2) + "\n").encode())

    def write_bytes(self, name: str, value: bytes) -> None:
        """Write a file as a whole or not at all."""
        atomic.replace_file(self.path / name, value)


def refuse_existing(path: Path) -> None:
    """Refuse a folder that is there, before data is prepared for it, which may take long.

    Raises:
        ConfigError: it exists.
    """
    if path.exists():
        raise ConfigError(
            f"--out {path} was given, but it exists already and a run never overwrites; "
            f"take another folder, or resume it with --resume {path}."
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A context that fills a new folder, under another name until it is whole.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            atomic.sync(temporary)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        atomic.sync(path.parent)
    except OSError as error:
        raise ConfigError(
            f"--out {path} was given, but the folder cannot be written ({error.strerror}); "
            "take a folder that can."
        ) from None


def new_run_path(config: TrainConfig, root: Path = Path("runs")) -> Path:
    """Returns a folder under `runs/` that does not exist yet, named by time and configuration."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    base = root / f"{stamp}-{config.activations}-{config_hash(config)[:6]}"
    path, n = base, 1
    while path.exists():
        n += 1
        path = base.with_name(f"{base.name}-{n}")
    return path
