"""Tiny finished runs, trained once for all tests here. Nothing may change them: copy first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_llama
from tests.system.tiny_run import SHAPE, over, tiny
from topk_ortho.training import train

SHORT = ["--steps", "30", "--checkpoint-every", "10"]
HOOK = "blocks.0.hook_resid_post"


def language_model(text: Path, *options: str) -> list[str]:
    """Options of a run on the random Llama."""
    return over(SHAPE, *SHORT, "--activations", "language-model",
                "--model", str(tiny_llama.shared()), "--text", str(text), "--hook", HOOK,
                "--context", "16", *options)  # fmt: skip


@pytest.fixture(scope="package", autouse=True)
def _quick_calibration() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
        yield


@pytest.fixture(scope="package")
def synthetic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "run"
    train(tiny(*SHORT, "--with-baseline"), folder, progress=False)
    return folder


@pytest.fixture(scope="package")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n\n".join(tiny_llama.stories(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def language(tmp_path_factory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("language") / "run"
    train(tiny(base=language_model(text)), folder, progress=False)
    return folder


@pytest.fixture(scope="package")
def planted(tmp_path_factory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "run"
    options = language_model(text, "--plant.roots", "3", "--plant.children", "2")
    train(tiny(base=options), folder, progress=False)
    return folder
