"""Activations that are kept on disk equal those of the model, and are computed once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from topk_ortho.activations import Block, prepare
from topk_ortho.activations.harvest import HarvestedSource, harvest_folder
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.config import ConfigError, TrainConfig

SPLITS = ("train", "eval")


class Model:
    """Stands in for a language model's source, and counts what it is asked for."""

    d_in, hook, hook_out, truth = 5, "blocks.0.hook_resid_post", "", None
    model, loaded = object(), {"backend": "transformers"}

    def __init__(self):
        self.opened, self.asked = 0, []

    def open(self):
        self.opened += 1
        return self

    def n_blocks(self, split):
        return {"train": 4, "eval": 1}[split]

    def contexts(self, split):
        return torch.arange(12).view(-1, 3)[: self.n_blocks(split)]

    def kept(self, split):
        return torch.ones(self.n_blocks(split), 3, dtype=torch.bool)

    def block(self, index, split):
        self.asked.append((split, index))
        generator = torch.Generator().manual_seed(10 * index + (split == "eval"))
        return Block(torch.randn(7 + index, self.d_in, generator=generator), None)


def test_blocks_are_those_of_the_model_and_are_computed_once(tmp_path: Path):
    model, plain = Model(), Model()
    first = HarvestedSource(tmp_path / "a", model.open)
    assert (first.d_in, first.hook, first.loaded) == (5, Model.hook, Model.loaded)
    for split in SPLITS:
        assert first.n_blocks(split) == plain.n_blocks(split)
        assert torch.equal(first.contexts(split), plain.contexts(split))
        for index in (*range(plain.n_blocks(split)), 0):
            assert torch.equal(first.block(index, split).x, plain.block(index, split).x)
    assert len(model.asked) == len(set(model.asked)) == 5

    later = Model()
    again = HarvestedSource(tmp_path / "a", later.open)
    assert torch.equal(again.block(2, "train").x, plain.block(2, "train").x)
    assert (later.opened, later.asked) == (0, [])
    assert again.model is Model.model and later.opened == 1


def test_what_is_not_asked_for_is_not_computed(tmp_path: Path):
    model = Model()
    HarvestedSource(tmp_path / "a", model.open).block(3, "train")
    assert model.asked == [("train", 3)]


def test_a_block_may_be_changed_by_who_asked_for_it(tmp_path: Path):
    source = HarvestedSource(tmp_path / "a", Model().open)
    source.block(0, "train").x.zero_()
    assert source.block(0, "train").x.any()


@pytest.mark.fault("several runs that harvest the same activations")
def test_readers_side_by_side_compute_a_block_once(tmp_path: Path):
    models = [Model() for _ in range(4)]
    found: list[torch.Tensor] = []

    def read(model: Model) -> None:
        source = HarvestedSource(tmp_path / "a", model.open)
        found.extend(source.block(i, "train").x for i in range(4))

    threads = [threading.Thread(target=read, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert sorted(asked for model in models for asked in model.asked) == [
        ("train", i) for i in range(4)
    ]


@pytest.mark.fault("a half written block of activations")
def test_a_half_written_block_is_no_block(tmp_path: Path):
    model = Model()
    source = HarvestedSource(tmp_path / "a", model.open)
    (tmp_path / "a" / ".train-000001.npy.tmp").write_bytes(b"half")
    assert torch.equal(source.block(1, "train").x, Model().block(1, "train").x)


@pytest.mark.fault("a damaged file of harvested activations")
@pytest.mark.parametrize("name", ["harvest.json", "contexts-train.npy", "train-000000.npy"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str):
    HarvestedSource(tmp_path / "a", Model().open).block(0, "train")
    (tmp_path / "a" / name).write_bytes(b"\x93NUMPY but no more")
    with pytest.raises(ConfigError, match=name):
        HarvestedSource(tmp_path / "a", Model().open).block(0, "train")


def test_no_such_block(tmp_path: Path):
    source = HarvestedSource(tmp_path / "a", Model().open)
    for index, split in ((4, "train"), (-1, "train"), (1, "eval")):
        with pytest.raises(IndexError):
            source.block(index, split)


def test_a_run_reads_the_same_activations_from_disk(tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(tiny_llama.stories(20)))
    config = TrainConfig(
        activations="language-model", model=str(tiny_llama.shared()), text=(text,),
        hook="blocks.0.hook_resid_post", context=16,
    )  # fmt: skip
    plain = prepare(config)
    folder = harvest_folder(tmp_path, config)
    kept = HarvestedSource(folder, lambda: open_language_model(config, device="cpu"))
    data = prepare(config, language=kept)
    assert (data.scale, data.variance) == (plain.scale, plain.variance)
    for split in SPLITS:
        assert torch.equal(data.source.block(0, split).x, plain.source.block(0, split).x)
    other = replace(config, hook="blocks.1.hook_resid_post")
    assert harvest_folder(tmp_path, other) != folder
