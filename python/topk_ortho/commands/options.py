"""What each command of `topk-ortho` takes, unless it takes the options of `train` too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class CacheOptions:
    """Write a language model's activations to a folder that `--activations files` trains on."""

    out: Path
    """Folder of the shards; it must not exist, or be empty."""
    model: str
    """Model name or local folder."""
    hook: str
    """Hook point, such as `blocks.3.hook_resid_post`."""
    text: tuple[Path, ...] = ()
    """Text files; blank lines separate documents."""
    dataset: str = ""
    """Name of a Hugging Face dataset instead of text files."""
    context: int = 128
    """Tokens per context, BOS included."""
    rows_per_shard: int = 65_536
    """Activations per shard."""
    max_rows: int | None = None
    """Stop after so many activations."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type of the stored activations."""
    device: str = "auto"
    """Where the model runs."""


@dataclass(frozen=True)
class BarsOptions:
    """Train the arms of a setting over paired seeds, print their means, and check the bars."""

    setting: Annotated[str, tyro.conf.Positional]
    """forest-240, forest-256, planted-6 or planted-12."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Paired seeds."""
    arms: tuple[str, ...] = ()
    """Some of the setting's arms; all unless given."""
    out: Path = Path("runs/bars")
    """Run folders; finished ones are reused, interrupted ones go on."""
    model: str = ""
    """Language model of the planted settings."""
    text: tuple[Path, ...] = ()
    """Text files of the planted settings."""
    hook: str = "blocks.3.hook_resid_post"
    """Hook point of the planted settings."""


@dataclass(frozen=True)
class RecipesOptions:
    """List the runs of the source documents, or train them all.

    `topk-ortho train --recipe NAME` trains one. With --out, every option of `train` sets what all
    of them share; what is finished is not run again.
    """

    out: Path | None = None
    """Train every recipe, each in a process of its own, with its run folder in here."""


@dataclass(frozen=True)
class ResultsOptions:
    """Run everything that docs/results.md states, and write its tables anew.

    Interrupted anywhere, the same command goes on and computes nothing twice.
    """

    out: Path = Path("runs/results")
    """Folder of the parts and of the runs that they share."""
    model: str = ""
    """Language model of the parts that need one, a name or a local folder."""
    text: tuple[Path, ...] = ()
    """Its text files."""
    hook: str = "blocks.3.hook_resid_post"
    """Its hook point."""
    jobs: int = 1
    """Runs at a time, each in a process of its own."""
    only: tuple[str, ...] = ()
    """Some of the parts; all unless given."""
    page: Path | None = None
    """The page whose tables are written, part by part."""


@dataclass(frozen=True)
class PairsOptions:
    """Show the pairs that a run chose most persistently, and what their features are."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run's folder."""
    top: int = 20
    """How many pairs."""
    contexts: int = 3
    """Language models: contexts shown for each feature and each pair."""
    samples: int | None = None
    """Held-out activations to look at; as many as the run was measured on unless given."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ReproduceOptions:
    """Train a finished run again and say whether every figure is the same, bit for bit."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run's folder."""
    out: Path | None = None
    """Folder of the second run; without it nothing is kept."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ReportOptions:
    """Draw runs, bars and ablations: one HTML page that needs no network, and PNG and SVG files."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, folders of `topk-ortho bars`, ablations, or folders around them."""
    out: Path | None = None
    """Folder of `index.html` and `plots/`; `report` in the first path unless given."""


@dataclass(frozen=True)
class PushOptions:
    """Upload a trained SAE to the Hugging Face hub; the repository is made where it is new."""

    sae: Annotated[Path, tyro.conf.Positional]
    """A run folder, or a folder of SAELens, dictionary_learning or sparsify."""
    repo: Annotated[str, tyro.conf.Positional]
    """OWNER/NAME."""
    subfolder: str = ""
    """Folder inside the repository; its root unless given."""
    public: bool = False
    """Make a new repository public; private otherwise."""


@dataclass(frozen=True)
class PullOptions:
    """Download a trained SAE from the Hugging Face hub, whatever its layout."""

    repo: Annotated[str, tyro.conf.Positional]
    """OWNER/NAME."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the SAE; it must not exist, or hold an SAE of the same layout."""
    subfolder: str = ""
    """Folder inside the repository; its root unless given."""
    revision: str | None = None
    """Branch, tag or commit; the main branch unless given."""
