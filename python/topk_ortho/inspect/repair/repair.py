"""Measure, fine-tune, measure again, and write the SAE in the layout that it came in."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from topk_ortho import formats
from topk_ortho.activations import prepare
from topk_ortho.config import TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.inspect.repair.measure import figures, mean_l0
from topk_ortho.machine.hardware import choose_device
from topk_ortho.machine.interrupt import kept
from topk_ortho.statistics import finite
from topk_ortho.training import resume, train
from topk_ortho.training.folder import RunFolder, new_run_path
from topk_ortho.training.warm_start import check_width, fine_tuning

REPAIRED, RECORD = "repaired", "repair.json"


@dataclass(frozen=True)
class Repair:
    """The answer of `topk-ortho repair`.

    Attributes:
        sae: the folder that was given.
        layout: which package's it is.
        run: the run folder of the fine-tuning.
        repaired: the folder of the repaired SAE, in the same layout.
        steps, criterion, coefficient: what was done.
        before, after: metrics of both on the same held-out activations, by name.
    """

    sae: str
    layout: str
    run: str
    repaired: str
    steps: int
    criterion: str
    coefficient: float
    before: dict[str, Any]
    after: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns plain dicts and numbers, and after - before where both have a metric."""
        return {**asdict(self), "difference": self.difference()}

    def difference(self) -> dict[str, float]:
        """after - before."""
        both = {k: (v, self.before.get(k)) for k, v in self.after.items() if k != "rows"}
        return {
            name: now - then
            for name, (now, then) in both.items()
            if None not in (finite(now), finite(then))
        }


def repair(config: TrainConfig, out: str | Path | None = None, *, keep_l0: bool = False) -> Repair:
    """Fine-tune the SAE of `config.init_from` and compare.

    Args:
        config: what to train; the few-step defaults are in `defaults.py`.
        out: run folder; one with the same configuration is resumed.
        keep_l0: `k` becomes the mean L0 that the SAE has on the data, for files that do not say it.

    Raises:
        ConfigError: a setting, file or model that cannot be used, or `out` is in use.
        Interrupted: stopped by a signal; the same call with the run folder that it names as `out`
            resumes.
    """
    assert config.init_from is not None
    stored = formats.read(config.init_from, allow_pickle=config.allow_pickle)
    stored.check_no_transcoder(config.init_from, command="topk-ortho repair")
    device = choose_device(config.device)
    data = prepare(check(config), device=str(device))
    check_width(config, stored, d_in=data.source.d_in)
    if keep_l0:
        l0 = mean_l0(stored, data, samples=config.eval_samples)
        config = replace(config, sae=replace(config.sae, k=l0))
    config = check(fine_tuning(config, given={"sae.k"} if keep_l0 else ()))
    path = new_run_path(config) if out is None else Path(out)
    begun = path.exists() and _is_this_run(path, config)
    if path.exists() and not begun:
        RunFolder.create(path, config)  # refuses it before anything is measured

    def measured(sae: StoredSAE) -> dict[str, Any]:
        return figures(sae, data, samples=config.eval_samples, device=device)

    again = f"stopped; the same command with --out {shlex.quote(str(path))} resumes where it was."
    with kept(again, always=True):
        before = measured(stored)
        run = resume(path, data=data) if begun else train(config, path, data=data)
        repaired = as_it_came(formats.read(run["folder"]), stored)
        formats.write(repaired, path / REPAIRED)
        after = formats.read(path / REPAIRED, allow_pickle=True)
        done = Repair(
            sae=str(config.init_from),
            layout=after.layout,
            run=str(path),
            repaired=str(path / REPAIRED),
            steps=run["steps"],
            criterion=run["criterion"],
            coefficient=run["coefficient"],
            before=before,
            after=measured(after),
        )
        RunFolder(path).write_json(RECORD, done.as_json())
    return done


def as_it_came(trained: StoredSAE, stored: StoredSAE) -> StoredSAE:
    """The weights of `trained` with the layout, settings and precision of `stored`."""
    return replace(
        trained,
        layout=stored.layout,
        settings=stored.settings,
        hook=stored.hook or trained.hook,
        model=stored.model or trained.model,
        W_enc=trained.W_enc.to(stored.W_enc.dtype),
    )


def _is_this_run(path: Path, config: TrainConfig) -> bool:
    if not (path / "config.toml").is_file():
        return False
    return config_hash(RunFolder.open(path)[1]) == config_hash(config)
