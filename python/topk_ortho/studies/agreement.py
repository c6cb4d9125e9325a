"""The agreement of the dictionaries of different seeds, arm by arm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.formats.load import load_sae
from topk_ortho.metrics.agreement import Null, SeedAgreement, seed_agreement
from topk_ortho.studies.plan import NAME
from topk_ortho.terminal import aligned

Arms = dict[str, list[Path]]


def arms_of(paths: Sequence[Path]) -> Arms:
    """Returns the SAE folders of each arm that has two or more.

    Args:
        paths: one ablation, whose finished runs are grouped by arm; or folders of SAEs or runs,
            which make one arm.

    Raises:
        ConfigError: a folder that is not there, or no arm with two SAEs.
    """
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} was given, but a folder was expected; check the path.")
    found: Arms = {"given": list(paths)}
    if len(paths) == 1 and (paths[0] / NAME).is_file():
        found = _of_an_ablation(paths[0])
    found = {label: folders for label, folders in found.items() if len(folders) > 1}
    if not found:
        raise ConfigError(
            f"{' '.join(map(str, paths))} was given, but an ablation with two finished seeds of an "
            "arm, or two folders of SAEs, were expected; give more."
        )
    return found


def measure(
    arms: Arms, *, draws: int, null: Null, allow_pickle: bool = False
) -> dict[str, SeedAgreement]:
    """Returns the agreement of each arm.

    Raises:
        ConfigError: a folder without an SAE, or SAEs of different widths.
    """
    out: dict[str, SeedAgreement] = {}
    for label, folders in arms.items():
        rows = [load_sae(f, allow_pickle=allow_pickle).W_dec.detach() for f in folders]
        widths = sorted({W.shape[1] for W in rows})
        if len(widths) > 1:
            raise ConfigError(
                f"SAEs of the widths {', '.join(map(str, widths))} were given, but decoder rows of "
                "one width were expected; compare SAEs of one hook point."
            )
        out[label] = seed_agreement(rows, draws=draws, null=null)
    return out


def as_json(found: Mapping[str, SeedAgreement], arms: Arms, *, null: Null) -> dict[str, Any]:
    """Returns every number, by arm."""
    return {
        "null": null,
        "arms": {
            label: {
                "folders": [str(folder) for folder in arms[label]],
                "mcc": [pair.mcc for pair in s.pairs],
                "nearest": [pair.nearest for pair in s.pairs],
                "null_mcc": [pair.mcc for pair in s.null],
                "null_nearest": [pair.nearest for pair in s.null],
            }
            for label, s in found.items()
        },
    }


def as_text(found: Mapping[str, SeedAgreement], *, null: Null) -> str:
    """Returns a table: means over pairs of seeds, with the standard deviation of PW-MCC."""
    head = ("arm", "pairs", "PW-MCC", "sd", "by chance", "nearest", "by chance")
    rows = [head]
    for label, s in found.items():
        mcc = [pair.mcc for pair in s.pairs]
        rows.append((
            label,
            str(len(mcc)),
            f"{fmean(mcc):.3f}",
            f"{stdev(mcc):.3f}" if len(mcc) > 1 else "-",
            _mean([pair.mcc for pair in s.null]),
            f"{fmean(pair.nearest for pair in s.pairs):.3f}",
            _mean([pair.nearest for pair in s.null]),
        ))  # fmt: skip
    table = aligned(rows, sides="<>>>>>>", rule=False)
    return "\n".join([*table, "", f"by chance: one of two dictionaries turned by a random {null}"])


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" if values else "-"


def _of_an_ablation(root: Path) -> Arms:
    try:
        runs = json.loads((root / NAME).read_text(encoding="utf-8"))["runs"]
        entries = [(str(run["label"]), root / str(run["folder"])) for run in runs]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{root / NAME} cannot be read ({error}), but the plan of an ablation was expected; "
            "run the ablation again."
        ) from None
    found: Arms = {}
    for label, folder in entries:
        if (folder / "result.json").is_file():
            found.setdefault(label, []).append(folder)
    return found
