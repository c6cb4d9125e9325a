"""Axes as they are written, the values they become, and the ready-made grids."""

from __future__ import annotations

import pytest

from topk_ortho.activations.synthetic import SyntheticSource
from topk_ortho.config import ConfigError, PairsConfig, PlantConfig, SAEConfig, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.studies.grid import (
    GRIDS,
    Axis,
    cells,
    choose,
    parse_axis,
    shown,
    true_l0,
    with_values,
)

READ = [
    ("penalty.tau=fixed,mean_std", Axis("penalty.tau", ("fixed", "mean-std"))),
    ("--pairs.per_feature=1,2.5,None", Axis("pairs.per-feature", (1.0, 2.5, None))),
    ("batch-size=64, 128", Axis("batch-size", (64, 128))),
    ("sae.prefixes=32/96/256,64/256", Axis("sae.prefixes", ((32, 96, 256), (64, 256)))),
    ("history.enabled=true,false", Axis("history.enabled", (True, False))),
]


@pytest.mark.parametrize(("text", "axis"), READ)
def test_an_axis_has_values_of_its_options_type(text, axis):
    assert parse_axis(text) == axis


WRONG = [
    ("penalty.tua=fixed", "penalty.tau"),
    ("penalty.tau", "--vary penalty.tau=fixed,mean-std"),
    ("penalty.tau=", "a name and values"),
    ("penalty.tau=fixed,mean-sdt", "meant mean-std"),
    ("batch-size=64,many", "a whole number"),
    ("lr=1e-3,fast", "a number"),
    ("history.enabled=maybe", "true or false"),
    ("seed=1,2", "--seeds 10"),
    ("log-every=1,2", "an ordinary option"),
    ("threads=1,2", "an ordinary option"),
    ("text=a.txt,b.txt", "a single value"),
    ("lr=1e-3,0.001", "twice"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_cannot_be_varied_is_refused(text, said):
    with pytest.raises(ConfigError, match=r"--vary") as error:
        parse_axis(text)
    assert said in str(error.value)


def test_saying_k_in_one_way_takes_out_the_other():
    base = TrainConfig(pairs=PairsConfig(per_feature=2.0))
    changed = with_values(base, {"pairs.fraction": 0.01})
    assert (changed.pairs.fraction, changed.pairs.per_feature) == (0.01, None)
    check(changed)
    back = with_values(changed, {"pairs.per-feature": 1.0})
    assert (back.pairs.fraction, back.pairs.per_feature) == (None, 1.0)


def test_values_change_what_they_name_and_nothing_else():
    base = TrainConfig()
    assert with_values(base, {}) == base
    changed = with_values(base, {"penalty.tau": "strength", "sae.prefixes": (64, 256)})
    assert changed.penalty.tau == "strength" and changed.sae.prefixes == (64, 256)
    assert with_values(changed, {"penalty.tau": "fixed", "sae.prefixes": ()}) == base


def test_varying_what_is_planted_plants():
    assert with_values(TrainConfig(), {"plant.roots": 4}).plant == PlantConfig(
        enabled=True, roots=4
    )


def test_cells_are_every_combination():
    axes = (Axis("penalty.tau", ("fixed", "strength")), Axis("sae.k", (4.0, 8.0)))
    assert [shown(cell) for cell in cells(axes)] == [
        "penalty.tau=fixed, sae.k=4",
        "penalty.tau=fixed, sae.k=8",
        "penalty.tau=strength, sae.k=4",
        "penalty.tau=strength, sae.k=8",
    ]
    assert cells(()) == [{}]


@pytest.mark.parametrize("plant", [False, True])
def test_the_true_l0_is_that_of_the_data(plant):
    config = TrainConfig(plant=PlantConfig(enabled=plant))
    fired = SyntheticSource(config.synthetic, seed=0).block(0, "train").fired
    assert fired is not None
    known = float(fired.sum(1).double().mean())
    if plant:
        from topk_ortho.activations import prepare

        fired = prepare(config).source.block(0, "train").fired
        assert fired is not None
        known += float(fired.sum(1).double().mean())
    assert true_l0(config) == pytest.approx(known, rel=0.02)


@pytest.mark.parametrize("name", GRIDS)
def test_every_ready_made_grid_can_be_trained(name):
    base, axes = choose(TrainConfig(), grid=name, vary=())
    found = [check(with_values(base, cell)) for cell in cells(axes)]
    assert len(found) >= 2
    assert len(set(map(repr, found))) == len(found)


def test_the_l0_grid_goes_from_half_to_twice_the_true_one():
    _, (axis,) = choose(TrainConfig(), grid="l0", vary=())
    true = true_l0(TrainConfig())
    assert axis.values[0] == pytest.approx(true / 2, abs=0.01)
    assert axis.values[-1] == pytest.approx(true * 2, abs=0.01)
    _, (whole,) = choose(TrainConfig(sae=SAEConfig(kind="topk")), grid="l0", vary=())
    assert all(k == int(k) for k in whole.values)


def test_the_cosine_grid_turns_the_planted_directions_where_something_is_planted():
    planted = TrainConfig(plant=PlantConfig(enabled=True))
    assert choose(planted, grid="cosine", vary=())[1][0].option == "plant.parent-child-cosine"
    axis = choose(TrainConfig(), grid="cosine", vary=())[1][0]
    assert axis == Axis("synthetic.parent-child-cosine", (0.0, 0.2, 0.4, 0.6))


def test_grids_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="perhaps you meant tau"):
        choose(TrainConfig(), grid="taus", vary=())
    with pytest.raises(ConfigError, match="given twice"):
        choose(TrainConfig(), grid="tau", vary=("penalty.tau=fixed",))
    with pytest.raises(ConfigError, match="only synthetic"):
        choose(TrainConfig(activations="files"), grid="l0", vary=())
    with pytest.raises(ConfigError, match="--plant"):
        choose(TrainConfig(activations="files"), grid="cosine", vary=())
