"""Find candidates for absorption in an SAE without labels (experimental)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.data import check_one_text, data_settings
from topk_ortho.commands.reader.output import check_out, say, write_json
from topk_ortho.config import PlantConfig, SyntheticConfig
from topk_ortho.config.option import (
    ABOVE_0,
    ROWS,
    SEED,
    STEPS_FROM_1,
    option,
    table,
    unless,
    when,
    whole,
)
from topk_ortho.config.train import CONTEXT, Attention, ModelBackend, ModelType, Source

if TYPE_CHECKING:
    from topk_ortho.inspect.atlas.measure import Atlas


@dataclass(frozen=True, kw_only=True)
class Options:
    """Find which features of an SAE may be silent because of which others, without labels.

    Experimental: on data with known features most of what it lists is right; on a language model
    there is no positive evidence yet, and edges are candidates to look at (docs/atlas.md). Takes a
    run folder, or the folder of any SAE that can be loaded with the data in options.
    """

    sae: Path = option(positional=True)
    """A run folder, or the folder of an SAE."""
    out: Path | None = None
    """Write everything that was found to this JSON file."""
    graph: Path | None = None
    """Write the graph of parents and children to this file: nodes and edges as JSON, or GraphML
    where its name ends in .graphml."""
    neuronpedia: str = option("", used=unless("graph", None))
    """Model and SAE as Neuronpedia names them, such as `gpt2-small/6-res-jb`, for links in the
    graph."""
    samples: int = option(200_000, within=ROWS)
    """Activations to look at; a child wants some 300 firings."""
    least_z: float = option(3.0, within=ABOVE_0)
    """How far the variance of an edge has to stand out of its child's column, in robust standard
    deviations."""
    neighbours: int | None = option(None, within=whole(1, 65_536))
    """Candidate parents of each feature, the nearest decoder rows; 32, and more in narrow SAEs,
    unless given."""
    memory_budget: int = option(2**30, within=whole(2**20, 2**50))
    """Bytes beside the SAE."""
    spike_in: bool = False
    """Measure the rules on this data as well: plant known hierarchies and confounds in it, train an
    SAE of the same kind on it, and print precision and recall there beside the edges."""
    spike_in_steps: int = option(2000, within=STEPS_FROM_1, used=when("spike_in", True))
    """Steps of that training."""
    allow_pickle: bool = False
    """Open an SAE of dictionary_learning, which is a pickle; only tensors are read from it."""
    allow_mismatch: bool = False
    """Measure even though the SAE names another model or hook point."""
    json: bool = False
    """Print JSON in place of the table."""
    split: Literal["auto", "eval", "all"] = "auto"
    """`eval`: what training leaves out of the data, its last twentieth; `all`: from the beginning;
    `auto`: `eval` for a run on its own data, else `all`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""

    activations: Source = "auto"
    """Source of the activations; by the other options, or the run's own unless given."""
    model: str = ""
    """`language-model`: a model name or a local folder; the one the SAE names unless given."""
    text: tuple[Path, ...] = ()
    """`language-model`: text files; blank lines separate documents."""
    dataset: str = ""
    """`language-model`: name of a Hugging Face dataset instead of text files."""
    hook: str = ""
    """`language-model`: hook point; the one the SAE names unless given."""
    context: int = option(128, within=CONTEXT)
    """`language-model`: tokens per context, BOS included."""
    backend: ModelBackend = "auto"
    """`language-model`: what runs it; `auto` takes transformers where it has the hook point, and
    else transformer-lens."""
    dtype: ModelType = "float32"
    """`language-model`: type of its weights, `auto` for the stored one."""
    attn: Attention = "auto"
    """`language-model`: implementation of attention, with the backend transformers."""
    model_device: str = ""
    """`language-model`: where it runs, if not on --device."""
    device_map: str = ""
    """`language-model`: spread it over several devices, such as `auto`."""
    data: Path | None = None
    """`files`: folder of `.npy` or `.safetensors` shards."""
    seed: int = option(0, within=SEED)
    """Seed of synthetic data and of what is planted."""
    synthetic: SyntheticConfig = table(SyntheticConfig)
    plant: PlantConfig = table(PlantConfig)


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    given = read(Options, arguments, prog=prog)
    o = build(Options, given)
    check_one_text(given.values)
    data = data_settings(given.values, Options)
    for name, path in (("out", o.out), ("graph", o.graph)):
        check_out(path, name)
    from topk_ortho.inspect.atlas.measure import atlas
    from topk_ortho.inspect.atlas.text import as_text

    found = atlas(
        o.sae,
        data,
        samples=o.samples,
        least_z=o.least_z,
        neighbours=o.neighbours,
        memory_budget=o.memory_budget,
        spike_in_steps=o.spike_in_steps if o.spike_in else None,
        split=o.split,
        device=o.device,
        allow_pickle=o.allow_pickle,
        allow_mismatch=o.allow_mismatch,
    )
    record = found.as_json()
    write_json(o.out, record)
    _write_graph(o, found)
    say(json.dumps(record, indent=2) if o.json else as_text(found))
    return 0


def _write_graph(o: Options, found: Atlas) -> None:
    if o.graph is None:
        return
    from topk_ortho.inspect.atlas.graph import as_graph, as_graphml

    graph = as_graph(found, neuronpedia=o.neuronpedia)
    if o.graph.suffix == ".graphml":
        replace_file(o.graph, as_graphml(graph))
    else:
        write_json(o.graph, graph)
