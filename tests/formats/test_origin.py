"""An SAE is measured where it says that it belongs, or refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from topk_ortho.config import ConfigError
from topk_ortho.formats.origin import check_origin, same_hook, same_model

OWN = {"model": "EleutherAI/pythia-70m-deduped", "hook": "blocks.3.hook_resid_post"}


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("blocks.3.hook_resid_post", "blocks.3.hook_resid_post", True),
        ("blocks.3.hook_resid_post", "blocks.4.hook_resid_pre", True),
        ("blocks.3.hook_out", "blocks.3.hook_resid_post", True),
        ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post", False),
        ("blocks.3.hook_resid_post", "blocks.2.hook_resid_post", False),
        ("blocks.3.hook_mlp_out", "blocks.3.hook_resid_post", False),
    ],
)
def test_hooks_are_places(a: str, b: str, same: bool) -> None:
    assert same_hook(a, b) is same_hook(b, a) is same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("gpt2", "openai-community/gpt2", True),
        ("google/gemma-2-2b", "gemma-2-2b", True),
        ("Pythia-70m", "EleutherAI/pythia-70m", True),
        ("gpt2", "gpt2-small", True),  # TransformerLens' name for it
        ("gpt2", "gpt2-medium", False),
        ("google/gemma-2-2b", "google/gemma-2-2b-it", False),
        ("/somewhere/stories", "../else/stories/", True),
    ],
)
def test_models_are_told_by_name(a: str, b: str, same: bool) -> None:
    assert same_model(a, b) is same_model(b, a) is same


def test_a_renamed_folder_is_known_by_what_it_was_made_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "roneneldan/TinyStories"}))
    assert same_model(str(tmp_path), "TinyStories")
    assert not same_model(str(tmp_path), "gpt2")
    (tmp_path / "config.json").write_text("[]")
    assert not same_model(str(tmp_path), "TinyStories")


@pytest.mark.parametrize(
    "given",
    [OWN, {}, {"model": "", "hook": ""}, {"hook": OWN["hook"]}, {"model": "pythia-70m-deduped"}],
)
def test_what_is_the_same_or_not_said_passes(given: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_origin(sae=Path("sae"), named=OWN, given=given)
        check_origin(sae=Path("sae"), named=given, given=OWN)


@pytest.mark.fault("an SAE of another hook point or model")
@pytest.mark.parametrize(
    ("what", "other"), [("hook", "blocks.1.hook_resid_post"), ("model", "gpt2-medium")]
)
def test_another_one_is_refused_unless_it_is_meant(what: str, other: str) -> None:
    given = OWN | {what: other}
    with pytest.raises(ConfigError, match=f"{what} {other} was given, but the SAE of sae names"):
        check_origin(sae=Path("sae"), named=OWN, given=given)
    with pytest.warns(UserWarning, match="it is measured there anyway"):
        check_origin(sae=Path("sae"), named=OWN, given=given, insist=True)


@pytest.mark.fault("an SAE of another hook point or model")
def test_a_folder_that_may_be_the_same_model_is_a_warning(tmp_path: Path) -> None:
    given = OWN | {"model": str(tmp_path)}
    with pytest.warns(UserWarning, match="only if both are the same model"):
        check_origin(sae=Path("sae"), named=OWN, given=given)
