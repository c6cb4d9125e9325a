"""The model of `make real-model`, where it was made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.text import pack_contexts
from topk_ortho.metrics.losses import cross_entropy

FOLDER = Path(__file__).resolve().parents[3] / "models" / "smollm2-135m"
HOOK = "blocks.9.hook_resid_post"
TEXT = (
    "The sun had set behind the mountains, and the village lay quiet in the cold evening air. "
    "An old man walked slowly along the road to his house, where a fire was burning. "
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no {FOLDER}: make real-model"),
]


def test_it_predicts_english_and_both_backends_agree() -> None:
    plain = LanguageModel.load(FOLDER, hooks=[HOOK])
    tokens = pack_contexts(plain.tokenizer, [TEXT], 32)
    everywhere = torch.ones(len(tokens), 31, dtype=torch.bool)
    loss = cross_entropy(plain.run_with_hooks(tokens), tokens, everywhere) / everywhere.sum()
    assert loss < math.log(plain.d_vocab) / 2
    lens = LanguageModel.load(FOLDER, backend="transformer-lens")
    x, y = plain.activations(tokens, HOOK), lens.activations(tokens, HOOK)
    assert float((x - y).abs().max() / y.abs().max()) < 1e-5
