"""The options of `topk-ortho absorption`; importing them loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class AbsorptionOptions:
    """Measure absorption between classes of tokens, such as "any pronoun" > "she".

    A class counts only if a linear probe for it beats the same probe on random classes of the same
    size and frequency; else it is not measurable on this model. docs/absorption.md has the file's
    format and the definitions.
    """

    sae: Annotated[Path, tyro.conf.Positional]
    """A run folder, or a folder with an SAE."""
    model: str
    """Model name or local folder."""
    text: tuple[Path, ...]
    """Text files; blank lines separate documents."""
    hook: str
    """Hook point that the SAE was trained on, such as `blocks.3.hook_resid_post`."""
    classes: Path
    """TOML or JSON file of classes and edges."""
    context: int = 128
    """Tokens per context, BOS included."""
    tokens: int = 200_000
    """Tokens of the text that are used: half to fit probes and match features, half to measure."""
    draws: int = 19
    """Random classes that each class has to beat."""
    match: Literal["f1", "correlation"] = "f1"
    """Score by which a feature is matched to each class."""
    seed: int = 0
    """Seed of the random classes."""
    device: str = "auto"
    """Where model, SAE and probes run."""
    out: Path | None = None
    """Write the JSON to this file as well."""
    allow_pickle: bool = False
    """Open an SAE of dictionary_learning, which is a pickle; nothing but tensors is taken."""
    allow_mismatch: bool = False
    """Measure although the SAE names another model or hook point as its own."""
    json: bool = False
    """Print JSON instead of the table."""
