"""SynthSAEBench (arXiv 2602.14687): all arms on SAELens' own synthetic model, by its own measures.

    make test-integrations    # once; makes .venv-integrations with SAELens
    PYTHONPATH=python .venv-integrations/bin/python benches/synth_saebench.py

The model is the benchmark's, at an eighth of its size for two cores: 2,048 features in 256
dimensions, 16 trees of depth 3. `--features 16384 --width 768 --trees 128 --d-sae 4096 --k 25` is
its own size. Activations are sampled once; every arm trains on them over paired seeds, with its own
default coefficient. MCC, F1 and the rest are SAELens' `eval_sae_on_synthetic_data`; excess is this
package's, over the edges of the trees. What is finished is not computed again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import ablated, table
from machine import parser, write
from sae_lens import SAE
from sae_lens.synthetic import (
    FoldedNormalMagnitudeConfig,
    HierarchyConfig,
    LinearMagnitudeConfig,
    ZipfianFiringProbabilityConfig,
    eval_sae_on_synthetic_data,
)
from sae_lens.synthetic.synthetic_model import (
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
)
from tqdm import tqdm

from topk_ortho.metrics.absorption import AbsorptionMeter, match_by_cosine

ROWS = 8192  # sampled at a time
THEIRS = ("explained_variance", "mcc", "f1", "precision", "recall", "uniqueness", "l0", "dead")
OURS = ("absorption_rate", "base_miss", "excess")


def made(o: argparse.Namespace, folder: Path) -> SyntheticModel:
    """The synthetic model, read where it is stored."""
    if (folder / "synthetic_model_config.json").is_file():
        return SyntheticModel.load_from_disk(folder)
    config = SyntheticModelConfig(
        num_features=o.features,
        hidden_dim=o.width,
        firing_probability=ZipfianFiringProbabilityConfig(
            max_prob=0.4, min_prob=5e-4, exponent=0.5
        ),
        hierarchy=HierarchyConfig(
            total_root_nodes=o.trees,
            branching_factor=4,
            max_depth=3,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
        orthogonalization=OrthogonalizationConfig(num_steps=100, lr=3e-4),
        bias=0.5,
        seed=42,
    )
    model = SyntheticModel(config)
    model.save(folder)
    return model


def sampled(model: SyntheticModel, rows: int, folder: Path) -> None:
    """Writes activations, `ROWS` in a file, that `--data` reads."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    for start in tqdm(range(0, rows, ROWS), desc="sampling", disable=None):
        x = model.sample(ROWS)
        file = folder / f"{start // ROWS:05d}.npy"
        if not file.is_file():
            np.save(file, x.numpy().astype(np.float16))


def edges(model: SyntheticModel) -> list[tuple[int, int]]:
    """Parent and child of every edge of the trees."""

    def below(node: Any) -> Iterator[tuple[int, int]]:
        for child in node.children:
            yield node.feature_index, child.feature_index
            yield from below(child)

    assert model.hierarchy is not None
    return [edge for root in model.hierarchy.roots for edge in below(root)]


@torch.no_grad()
def measured(sae: Any, model: SyntheticModel, rows: int) -> dict[str, float | None]:
    """SAELens' measures, and this package's absorption over the edges; both on new samples."""
    torch.manual_seed(2)
    theirs = eval_sae_on_synthetic_data(
        sae, model.feature_dict, model.activation_generator, num_samples=rows, batch_size=ROWS
    )
    known = theirs.classification
    directions = model.feature_dict.feature_vectors.detach()
    meter = AbsorptionMeter(edges(model), match_by_cosine(sae.W_dec.detach(), directions))
    for _ in range(0, rows, ROWS):
        x, features = model.sample_with_features(ROWS)
        meter.update(sae.encode(x), features > 0)
    return {
        "explained_variance": theirs.explained_variance,
        "mcc": theirs.mcc,
        "f1": known.f1_score,
        "precision": known.precision,
        "recall": known.recall,
        "uniqueness": theirs.uniqueness,
        "l0": theirs.sae_l0,
        "dead": theirs.dead_latents / sae.cfg.d_sae,
        **{name: meter.result().summary()[name] for name in OURS},
    }


def trained(o: argparse.Namespace, activations: Path) -> list[dict[str, Any]]:
    """The finished runs of every arm."""
    return ablated(
        o.out / "ablation", "--data", activations, "--jobs", o.jobs, "--seeds", *o.seeds,
        "--with-arm", "c2r", "matryoshka+constraint", "--sae.d-sae", o.d_sae, "--sae.k", o.k,
        "--steps", o.steps, "--batch-size", 1024,
    )  # fmt: skip


def of_all(o: argparse.Namespace, runs: Sequence[dict[str, Any]], model: SyntheticModel) -> None:
    """Adds to every run what was measured of it."""
    for run in tqdm(runs, desc="measuring", disable=None):
        file = o.out / "measured" / f"{run['folder'].name}.json"
        file.parent.mkdir(exist_ok=True)
        if not file.is_file():
            sae = SAE.load_from_disk(str(run["folder"] / "sae"))
            file.write_text(json.dumps(measured(sae, model, o.eval_rows)))
        run["measured"] = json.loads(file.read_text())


def printed(runs: Sequence[Mapping[str, Any]]) -> str:
    """The tables."""
    lines = [*table(runs, "measured", THEIRS[:4]), "", *table(runs, "measured", THEIRS[4:])]
    return "\n".join([*lines, "", *table(runs, "measured", OURS)])


def main() -> None:
    """Make the model, train, measure, print and write everything."""
    arguments = parser(__doc__ or "")
    arguments.set_defaults(out=Path("runs/synth-saebench"))
    arguments.add_argument("--features", type=int, default=2048)
    arguments.add_argument("--width", type=int, default=256)
    arguments.add_argument("--trees", type=int, default=16)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--eval-rows", type=int, default=100_000)
    arguments.add_argument("--d-sae", type=int, default=1024)
    arguments.add_argument("--k", type=float, default=8)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[5])
    arguments.add_argument("--jobs", type=int, default=2)
    o = arguments.parse_args()
    if o.quick:
        o.features, o.width, o.trees, o.rows, o.eval_rows = 256, 32, 2, 2 * ROWS, ROWS
        o.d_sae, o.k, o.steps, o.seeds = 128, 4, 20, [1]
    o.out.mkdir(parents=True, exist_ok=True)
    model = made(o, o.out / "model")
    activations = o.out / "activations"
    done = o.out / "sampled"
    if not done.is_file():
        sampled(model, o.rows, activations)
        done.touch()
    runs = trained(o, activations)
    of_all(o, runs, model)
    print(printed(runs))
    rows = [{**run, "folder": run["folder"].name} for run in runs]
    sizes = {name: getattr(o, name) for name in ("features", "width", "trees", "d_sae", "k")}
    write("synth-saebench", o, rows=rows, sizes=sizes)


if __name__ == "__main__":
    main()
