"""Where the lines of `metrics.jsonl` go besides: TensorBoard, Weights & Biases, trackio.

Each is an optional package, imported when a run begins. A logger is handed the same numbers under
the same names as the file, those on held-out activations as `held_out/NAME`, and at the end those
of `result.json` as `final/NAME`. One that fails is dropped with a warning; the run continues.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import to_table

PROJECT = "topk-ortho"
"""The project of a run where the environment names none (`WANDB_PROJECT`, `TRACKIO_PROJECT`)."""


class Logger(Protocol):
    """What a run reports to; every number is a float."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take in the metrics of a logged step, by name."""

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take in the metrics of the trained SAE, by name."""

    def close(self, *, ended: bool) -> None:
        """Write what is left; `ended` is whether the run came to its end."""


class Place(NamedTuple):
    """What a logger is opened for.

    Attributes:
        folder: of the run.
        name: of the run, for people.
        config: its settings, as nested tables.
        step: steps that were taken before, 0 of a new run.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    step: int

    @property
    def id(self) -> str:
        """Returns a name that this folder has whenever it is resumed."""
        return hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]


class TensorBoard:
    """Event files in `tensorboard/` of the run folder."""

    def __init__(self, place: Place) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # of a resumed run, what was logged after its checkpoint is hidden
        purge = place.step + 1 if place.step else None
        self._writer: Any = SummaryWriter(str(place.folder / "tensorboard"), purge_step=purge)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        self.log(step, numbers)

    def close(self, *, ended: bool) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; its own files are in `wandb/` of the run folder.

    Project, entity and mode are those of its environment variables (`WANDB_MODE=offline`).
    """

    def __init__(self, place: Place) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(place.folder),
            id=place.id,
            name=place.name,
            config=place.config,
            resume="allow",
            reinit="create_new",  # runs side by side are open at once
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.summary.update(dict(numbers))

    def close(self, *, ended: bool) -> None:
        self._run.finish(exit_code=0 if ended else 1)


class Trackio:
    """A run of trackio, in its own folder (`TRACKIO_DIR`); `trackio show` opens it."""

    def __init__(self, place: Place) -> None:
        import trackio
        from trackio.context_vars import current_run

        with redirect_stdout(sys.stderr):  # results alone go to stdout
            self._run: Any = trackio.init(
                os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=f"{place.name}, {place.id[:6]}",
                config=place.config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        current_run.set(None)  # or the next run side by side, and the process's end, finish it

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        self.log(step, numbers)

    def close(self, *, ended: bool) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


LOGGERS: dict[str, Callable[[Place], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
"""By the name of the package, which is that of the extra too (`pip install '.[wandb]'`)."""


class Told:
    """The open loggers of one run; one that fails is closed, and told no more."""

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._loggers = dict(loggers)

    def log(self, event: Mapping[str, Any]) -> None:
        """Pass a line of the log on; what is not a number stays in the file."""
        numbers = numbers_of(event)
        for name, logger in list(self._loggers.items()):
            with self._kept(name):
                logger.log(int(event["step"]), numbers)

    def end(self, step: int, result: Mapping[str, Any]) -> None:
        """Pass the metrics of the trained SAE on, as `final/NAME`."""
        flat = {key: value for key, value in result.items() if not isinstance(value, Mapping)}
        numbers = {f"final/{key}": value for key, value in numbers_of(flat).items()}
        for name, logger in list(self._loggers.items()):
            with self._kept(name):
                logger.end(step, numbers)

    def close(self, *, ended: bool) -> None:
        """Close every logger."""
        for name, logger in list(self._loggers.items()):
            with self._kept(name):
                logger.close(ended=ended)

    @contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the run does not depend on it
            self._loggers.pop(name, None)
            warnings.warn(
                f"--log-to {name} failed ({type(error).__name__}: {error}); the run continues "
                "without it, and metrics.jsonl has everything.",
                stacklevel=2,
            )


def numbers_of(event: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a line or a result by name, those of its tables as `table/name`."""
    found: dict[str, float] = {}
    for key, value in event.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{inner}": number for inner, number in numbers_of(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            found[key] = float(value)
    return found


_open: dict[Path, Told] = {}
"""By the log that they are told beside, which `EventLog` writes."""


def beside(log: Path) -> Told:
    """Returns the open loggers that are told what a log is; none for most."""
    return _open.get(log.resolve(), Told({}))


@contextmanager
def opened(log: Path, config: TrainConfig, *, name: str, step: int) -> Iterator[Told]:
    """A context in which what is written to a log goes to the loggers of `--log-to` as well.

    Args:
        log: `metrics.jsonl` of the run.
        config: of the run.
        name: of the run, for people.
        step: steps that were taken before.
    """
    check_loggers(config.log_to)
    place = Place(log.parent, name, to_table(config), step)
    told, ended = Told({}), False
    for kind in dict.fromkeys(config.log_to):
        with told._kept(kind):
            told._loggers[kind] = LOGGERS[kind](place)
    _open[log.resolve()] = told
    try:
        yield told
        ended = True
    finally:
        del _open[log.resolve()]
        told.close(ended=ended)


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose package is missing, before data is prepared.

    Raises:
        ConfigError: one is; the message names the extra that installs it.
    """
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name in the way is no package
            raise ConfigError(
                f"--log-to {name} was given, but {name} is not installed; run "
                f"pip install 'topk-ortho[{name}]'."
            )
