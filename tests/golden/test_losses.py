"""A refactoring guard: the loss of the first 20 steps, as it was when it was last looked at.

A change that is meant to change training regenerates the numbers, and says why in its commit:

    python -m tests.golden.test_losses
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.system.tiny_run import events, tiny
from topk_ortho.training import Interrupted, train

STORED = Path(__file__).with_name("losses.json")
STEPS = 20
ARMS = {
    "topk": "--pairs.criterion coactivation --sae.kind topk",
    "batch-topk": "--pairs.criterion coactivation --sae.kind batch-topk",
    "relu": "--pairs.criterion coactivation --sae.kind relu",
    "matryoshka": "--pairs.criterion coactivation --sae.kind matryoshka",
    "none": "--pairs.criterion none",
    "coactive-cosine": "--pairs.criterion coactive-cosine",
    "decoder-cosine": "--pairs.criterion decoder-cosine --penalty.tau mean-std-all",
    "correlation": "--pairs.criterion correlation --pairs.min-support 2 --penalty.tau strength",
    "random": "--pairs.criterion random --penalty.gradient symmetric",
    "random-matched": "--pairs.criterion rate-matched-random",
    "ortsae": "--pairs.criterion ortsae --penalty.threshold 0 --penalty.gradient symmetric",
    "c2r": (
        "--pairs.criterion c2r --penalty.threshold 0 --penalty.gradient symmetric "
        "--penalty.every-n 5"
    ),
    "jumprelu": "--pairs.criterion coactivation --sae.kind jumprelu",
    "stability": "--pairs.criterion coactivation --penalty.tau stability --penalty.refresh-every 2",
    "documents": (
        "--pairs.criterion coactivation --pairs.fraction .01 "
        "--penalty.normalize-by k --penalty.units absolute "
        "--penalty.sign both --penalty.coefficient .1 --penalty.threshold .1 --penalty.ramp 0"
    ),
    "planted": "--pairs.criterion coactivation --plant.roots 3",
    "default": "",
}


def losses(arm: str, folder: Path) -> list[float]:
    """`[2 * STEPS]`: loss and penalty of each step."""
    config = tiny(*ARMS[arm].split(), "--log-every", "1", "--threads", "1")
    with pytest.raises(Interrupted):
        train(config, folder / "run", stop_after=STEPS, progress=False)
    logged = events(folder / "run")
    return [e["loss"] for e in logged] + [e["penalty"] for e in logged]


@pytest.mark.parametrize("arm", ARMS)
def test_the_first_losses_are_the_stored_ones(arm, tmp_path):
    expected = json.loads(STORED.read_text())[arm]
    assert losses(arm, tmp_path) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_arms_differ():
    stored = json.loads(STORED.read_text())
    assert set(stored) == set(ARMS)
    assert len({tuple(values) for values in stored.values()}) == len(ARMS)
    assert all(len(values) == 2 * STEPS for values in stored.values())


def regenerate() -> None:
    """Write the numbers of the present code."""
    stored = {}
    for arm in ARMS:
        with tempfile.TemporaryDirectory() as folder:
            stored[arm] = losses(arm, Path(folder))
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    regenerate()
