"""SAELens' own `run_evals` and `topk-ortho evaluate` on the same SAE and the same tokens.

The arithmetic on one side is theirs alone: their SAE class on our export, their store of tokens,
TransformerLens' bridge of the same local model. Needs SAELens, which is no dependency.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from topk_ortho import cli
from topk_ortho.commands.reader import parse
from topk_ortho.inspect.evaluate.asked import understand
from topk_ortho.inspect.evaluate.data import measurable
from topk_ortho.training import train

pytest.importorskip("sae_lens", reason="SAELens is not installed here; `make test-integrations`")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
if not DATA.is_dir():
    pytest.skip(f"no {DATA}", allow_module_level=True)
HOOK = "blocks.3.hook_resid_post"
PROMPTS, BATCHES = 16, 4
SHARED = {
    "reconstruction_quality": {"explained_variance", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    },
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories of somewhat more than 64 contexts."""
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = (DATA / "text" / "stories.txt").read_text(encoding="utf-8")
    path.write_text(stories[:40_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["batch-topk", "topk", "relu"])
def run(request: Any, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for a short while."""
    out = tmp_path_factory.mktemp("runs") / request.param
    options = (
        f"--activations language-model --model {DATA / 'stories260k'} --text {text} --hook {HOOK} "
        f"--sae.kind {request.param} --sae.d-sae 256 --sae.k 12 --steps 150 --batch-size 256 "
        "--buffer-rows 8192 --eval-samples 1024 --log-every 150"
    )
    train(parse(options.split()).settings, out, progress=False)
    return out


@pytest.fixture(scope="module")
def ours(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What our command writes."""
    out = tmp_path_factory.mktemp("figures") / "figures.json"
    arguments = [*whole(run), "--eval-samples", str(_samples(run)), "--out", str(out)]
    assert cli.main(["evaluate", *arguments]) == 0
    return json.loads(out.read_text())


def whole(run: Path) -> list[str]:
    """The run on its text from the beginning, so that a little text is enough."""
    return [str(run), "--split", "all"]


def _contexts(run: Path) -> torch.Tensor:
    asked = understand(run, {}, split="all")
    data = measurable(asked.config, split=asked.split)
    contexts = data.contexts(10**9)
    assert len(contexts) >= PROMPTS * BATCHES
    return contexts[: PROMPTS * BATCHES]


def _samples(run: Path) -> int:
    """Activations that make up exactly those contexts."""
    return int((_contexts(run) != 1).sum())


@pytest.fixture(scope="module")
def theirs(run: Path) -> dict[str, Any]:
    """What `run_evals` gives."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from sae_lens import SAE, ActivationsStore
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(DATA / "stories260k"), device="cpu")
    sae = SAE.load_from_disk(str(run / "sae"))
    sae.cfg.metadata.prepend_bos = True
    tokens = Dataset.from_dict({"input_ids": _contexts(run).tolist()})
    store = ActivationsStore.from_sae(model, sae, tokens, context_size=128, total_tokens=1)
    config = get_eval_everything_config(
        batch_size_prompts=PROMPTS,
        n_eval_reconstruction_batches=BATCHES,
        n_eval_sparsity_variance_batches=BATCHES,
    )
    figures, features = run_evals(sae, store, model, ActivationScaler(), config)
    return figures | {"features": features}


@pytest.mark.filterwarnings("ignore")
def test_every_figure_of_run_evals_to_four_significant_digits(ours, theirs):
    for group, names in SHARED.items():
        assert names == set(ours["saelens"][group]) == set(theirs[group])
        for name in names:
            value = theirs[group][name]
            assert ours["saelens"][group][name] == pytest.approx(value, rel=5e-5), (group, name)


@pytest.mark.filterwarnings("ignore")
def test_our_own_figures_are_theirs_where_the_definition_is_the_same(ours, theirs):
    figures = ours["figures"]
    quality, shrinkage = theirs["reconstruction_quality"], theirs["shrinkage"]
    same = {
        "explained_variance": quality["explained_variance"],
        "l2": quality["mse"],
        "cosine_similarity": quality["cossim"],
        "l2_ratio": shrinkage["l2_ratio"],
        "l0": theirs["sparsity"]["l0"],
        "l1": theirs["sparsity"]["l1"],
        "kl_reconstructed": theirs["model_behavior_preservation"]["kl_div_with_sae"],
    }
    for name, value in same.items():
        assert figures[name] == pytest.approx(value, rel=5e-5), name
    assert figures["mse"] * 64 == pytest.approx(quality["mse"], rel=5e-5)
    density = torch.tensor(theirs["features"]["feature_density"])
    assert figures["dead_features"] == pytest.approx(float((density == 0).float().mean()))
    assert figures["dense_features"] == pytest.approx(float((density > 0.1).float().mean()))


@pytest.mark.filterwarnings("ignore")
def test_where_the_definitions_differ_so_do_the_figures(ours):
    """BOS is ablated and predicted there, so that the two scores are not the same thing."""
    their = ours["saelens"]["model_performance_preservation"]["ce_loss_score"]
    assert abs(ours["figures"]["ce_score"] - their) > 1e-3
