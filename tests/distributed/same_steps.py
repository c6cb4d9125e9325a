"""Steps of a run, the weights of each given: what every process has to find the same.

`python -m tests.distributed.same_steps FOLDER` under torchrun writes what each process found to
`rank-N.json`. Before each step it takes the weights from `FOLDER/weights`, where one process by
itself wrote them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.system.tiny_run import tiny, words
from topk_ortho.activations import prepare
from topk_ortho.distributed.world import World, joined
from topk_ortho.training.divided_step import divided_step
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import train_step

STEPS = 50
CPU = torch.device("cpu")
ARMS = {
    "batch-topk": "--batch-size 30",  # 30 rows: 4 processes have uneven parts
    "topk": "--sae.kind topk --pairs.criterion coactivation --batch-size 30",
    "matryoshka": "--sae.kind matryoshka --pairs.criterion coactive-cosine --batch-size 30",
    "jumprelu": "--sae.kind jumprelu --pairs.criterion correlation --pairs.min-support 2",
    "projection": "--pairs.criterion decoder-projection --penalty.refresh-every 3",
    "gradient": "--pairs.criterion gradient --sae.d-sae 512",  # the sparse path; rows in 32nds
    "stability": "--penalty.tau stability --penalty.every-n 2",
    "none": "--pairs.criterion none",
}


def digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def steps(arm: str, folder: Path, world: World) -> list[dict[str, object]]:
    """What each step of an arm found."""
    config = tiny(*words(ARMS[arm]), "--steps", str(STEPS))
    state = TrainState.fresh(config, prepare(config), CPU, world=world)
    state.sae.share(world, batch=config.batch_size)
    weights = folder / "weights" / arm
    weights.mkdir(parents=True, exist_ok=True)
    found = []
    for step in range(STEPS):
        given = weights / f"{step}.safetensors"
        if world.shared:
            state.sae.load_state_dict(load_file(given))
        else:
            save_file({n: t.contiguous() for n, t in state.sae.state_dict().items()}, given)
        x = state.buffer.next()
        if world.shared:
            divided_step(state, x)
        else:
            train_step(state, x)
        chosen = state.constraint.selection if state.constraint else None
        found.append(
            {
                "rows": len(x),
                "rates": digest(state.firing.rate, state.firing.silent),
                "running": digest(state.firing.threshold, state.firing.energy),
                "dead": state.firing.dead(config.sae.dead_after).tolist(),
                "density": state.density,
                "pairs": chosen and digest(chosen.i, chosen.j, chosen.score),
                "children": chosen and digest(
                    torch.where(
                        state.firing.rate[chosen.i] < state.firing.rate[chosen.j],
                        chosen.i,
                        chosen.j,
                    )
                ),
            }
        )  # fmt: skip
    history = state.history()
    found.append({"history": history and hashlib.sha256(history).hexdigest()})
    state.close()
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined(60) as world:
        found = {arm: steps(arm, folder, world) for arm in ARMS}
        (folder / f"rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
