"""What an ablation plans: each run once, and a folder that belongs to one plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash
from topk_ortho.studies.grid import Axis
from topk_ortho.studies.plan import (
    Plan,
    baselines,
    control,
    read,
    runs_of,
    seeds_of,
    store,
    subjects,
)

TAU = Axis("penalty.tau", ("fixed", "mean-std"))
L0 = Axis("sae.k", (4.0, 8.0))
EVERY = ("none", "rate-matched-random", "ortsae", "matryoshka")


def plan(*axes: Axis, names=("none",), seeds=(100, 101), base=None, left_out=()) -> Plan:
    base = TrainConfig() if base is None else base
    return Plan(base, axes, names, left_out, seeds, runs_of(subjects(base, axes, names), seeds))


def labels(p: Plan) -> list[str]:
    return [label for label, _ in p.subjects()]


def test_arms_that_an_axis_does_not_touch_are_planned_once_per_seed():
    assert labels(plan(TAU, names=EVERY)) == [
        "none",
        "rate-matched-random, penalty.tau=fixed",
        "ortsae",
        "matryoshka",
        "rate-matched-random, penalty.tau=mean-std",
        "penalty.tau=fixed",
        "penalty.tau=mean-std",
    ]


def test_an_axis_of_the_dictionary_touches_every_arm():
    found = plan(L0, names=EVERY)
    assert labels(found)[:4] == [f"{name}, sae.k=4" for name in EVERY]
    for _, runs in found.subjects():
        assert runs[0].config.sae.k == runs[0].axis["sae.k"]


def test_an_axis_with_one_value_reaches_the_baselines_as_well():
    found = dict(plan(Axis("sae.k", (4.0,))).subjects())
    assert found["none, sae.k=4"][0].config.sae.k == 4.0


def test_rows_are_compared_with_none_in_the_same_cell():
    found = plan(TAU, L0)
    row = next(run for run in found.runs if run.label == "penalty.tau=mean-std, sae.k=8")
    assert control(row.axis, found.runs) == "none, sae.k=8"
    assert control({"penalty.tau": "fixed"}, plan(TAU).runs) == "none"
    assert control({"penalty.tau": "fixed"}, plan(TAU, names=()).runs) is None


def test_seeds_are_paired_and_early_results_are_paired_already():
    found = plan(TAU)
    by_seed = [run.seed for run in found.runs]
    assert by_seed == sorted(by_seed)
    assert all(run.config.seed == run.seed for run in found.runs)
    assert len({run.hash for run in found.runs}) == len(found.runs) == 6


def test_what_changes_no_figure_changes_no_hash():
    config = TrainConfig()
    for other in (
        replace(config, log_every=1),
        replace(config, threads=3),
        replace(config, checkpoint_every=7, keep_checkpoints=5),
        replace(config, with_baseline=True),
    ):
        assert config_hash(other) == config_hash(config)
    assert config_hash(replace(config, steps=3)) != config_hash(config)


def test_seeds_from_100_on_or_as_they_are_given():
    assert seeds_of((3,)) == (400, 401, 402)
    assert seeds_of((5, 9)) == (5, 9)
    for wrong in ((), (0,), (4, 4)):
        with pytest.raises(ConfigError, match="--seeds"):
            seeds_of(wrong)


def test_a_baseline_is_left_out_by_name():
    assert baselines(TrainConfig(), ("ortsae", "none")) == ("rate-matched-random", "matryoshka")
    with pytest.raises(ConfigError, match="perhaps you meant ortsae"):
        baselines(TrainConfig(), ("orthsae",))


def test_further_arms_stand_beside_those_that_are_always_there():
    base = TrainConfig()
    names = baselines(base, ("ortsae",), ("matryoshka+constraint", "random", "fixed-tau"))
    assert names == ("none", "random", "rate-matched-random", "matryoshka",
                     "matryoshka+constraint", "fixed-tau")  # fmt: skip
    for wrong in ("ortsae", "default", "fixed-taus"):
        with pytest.raises(ConfigError, match=f"--with-arm {wrong}"):
            baselines(base, (), (wrong,))


def test_a_recipe_as_an_arm_is_what_its_name_trains():
    from topk_ortho.studies.recipes import RECIPES

    subject, _ = subjects(TrainConfig(steps=70), (), ("stability",))
    assert (subject.label, subject.arm) == ("stability", "stability")
    assert subject.config == check(RECIPES["stability"].config(TrainConfig(steps=70)))
    (same,) = {s.label for s in subjects(TrainConfig(), (TAU,), ("stability",))} - {
        s.label for s in subjects(TrainConfig(), (TAU,), ())
    }
    assert same == "stability", "an axis of the varied arm does not touch a recipe"


def test_a_run_keeps_its_name_when_its_data_are_moved():
    at = {"activations": "language-model", "hook": "h", "model": "here/stories",
          "text": (Path("here/a.txt"), Path("here/b.txt"))}  # fmt: skip
    config = TrainConfig(**at)
    moved = replace(config, model="/there/stories", text=(Path("/t/a.txt"), Path("/t/b.txt")))
    assert config_hash(moved) == config_hash(config)
    assert config_hash(replace(config, model="here/other")) != config_hash(config)
    assert config_hash(replace(config, text=config.text[::-1])) != config_hash(config)
    files = TrainConfig(activations="files", data=Path("here/acts"))
    assert config_hash(replace(files, data=Path("/there/acts"))) == config_hash(files)
    assert config_hash(replace(files, data=Path("here/others"))) != config_hash(files)


def test_a_cell_that_cannot_be_trained_is_named():
    with pytest.raises(ConfigError, match=r"sae.k=300: --sae.k 300"):
        plan(Axis("sae.k", (8.0, 300.0)))


def test_the_stored_plan_says_everything(tmp_path: Path):
    root = tmp_path / "a"
    store(plan(TAU, left_out=("ortsae",)), root)
    table = json.loads((root / "ablation.json").read_text())
    assert table["version"] == 1
    assert table["axes"] == {"penalty.tau": ["fixed", "mean-std"]}
    assert (table["arms"], table["seeds"]) == (["none"], [100, 101])
    assert table["left_out_arms"] == ["ortsae"]
    assert "[penalty]" in table["base"]
    run = table["runs"][1]
    assert run["label"] == "penalty.tau=fixed" and run["arm"] == "variant"
    assert run["axis"] == {"penalty.tau": "fixed"} and run["seed"] == 100
    assert run["folder"] == f"runs/{run['hash']}"


def test_a_plan_may_grow_but_not_become_another(tmp_path: Path):
    root = tmp_path / "a"
    store(plan(TAU), root)
    first = read(root)
    store(plan(TAU), root)
    assert read(root) == first
    store(plan(Axis("penalty.tau", ("fixed", "mean-std", "strength")), seeds=(100, 101, 102)), root)
    assert read(root)["created"] == first["created"]
    assert len(read(root)["runs"]) == 12
    for other in (plan(TAU), plan(TAU, base=TrainConfig(steps=5))):
        with pytest.raises(ConfigError, match="holds another ablation"):
            store(other, root)


@pytest.mark.fault("a damaged plan of an ablation")
def test_a_folder_in_use_or_a_damaged_plan_is_refused(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="in use"):
        store(plan(TAU), tmp_path)
    for text in ("", "{", "[]", '{"version": 9}'):
        (tmp_path / "ablation.json").write_text(text)
        with pytest.raises(ConfigError, match=r"ablation\.json"):
            store(plan(TAU), tmp_path)
