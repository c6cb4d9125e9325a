"""Shards of an ablation as cluster jobs, by submitit (the optional extra `cluster`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.config.option import check_number, whole

SHARDS = whole(1, 10_000)


@dataclass(frozen=True)
class Submitted:
    """Jobs that were submitted.

    Attributes:
        ids: as the cluster names them.
        cluster: `slurm`, or `local` where they have run already.
        failed: the end of stderr of local jobs that ended badly, by job.
    """

    ids: tuple[str, ...]
    cluster: str
    failed: dict[str, str]

    def __str__(self) -> str:
        if self.cluster != "local":
            return (
                f"submitted: {' '.join(self.ids)}. Once they are through, the same command without "
                "--launcher prints the tables."
            )
        return "\n".join(f"job {name} failed: {why}" for name, why in self.failed.items()) or (
            f"{len(self.ids)} local jobs are through"
        )


def submit(
    arguments: Sequence[str],
    *,
    shards: int,
    folder: Path,
    cluster: str = "auto",
    options: Sequence[str] = (),
) -> Submitted:
    """Submit `topk-ortho ablate ARGUMENTS --shard I/N` for every I; local jobs are waited for.

    Args:
        arguments: of `ablate`, without launcher and shard.
        folder: where submitit keeps scripts and logs; all nodes have to see it.
        cluster: `auto`, `slurm` or `local`.
        options: `name=value` in submitit's names.

    Raises:
        ConfigError: submitit is not installed, refuses an option, or the cluster is not there.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            "--launcher submitit was given, but submitit is not installed; run "
            "pip install 'topk-ortho[cluster]'."
        ) from None
    check_number("shards", shards, SHARDS)
    command = [sys.executable, "-m", "topk_ortho.cli", "ablate", *arguments]
    call = submitit.helpers.CommandFunction
    try:
        executor = submitit.AutoExecutor(
            folder=folder, cluster=None if cluster == "auto" else cluster
        )
        executor.update_parameters(**dict(map(_option, options)))
        with executor.batch():
            jobs = [
                executor.submit(call([*command, "--shard", f"{i}/{shards}"]))
                for i in range(1, shards + 1)
            ]
    except (NameError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"--launcher submitit was given, but the jobs cannot be submitted ({error}); check "
            "--cluster and --cluster-option."
        ) from None
    local = executor.cluster == "local"
    stopped = {str(job.job_id): job.exception() for job in jobs} if local else {}
    failed = {name: str(why).strip().splitlines()[-1] for name, why in stopped.items() if why}
    return Submitted(tuple(str(job.job_id) for job in jobs), executor.cluster, failed)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(
            f"--cluster-option {text} was given, but NAME=VALUE was expected, such as "
            "slurm_partition=gpu."
        )
    return name.replace("-", "_"), int(value) if value.isdecimal() else value
