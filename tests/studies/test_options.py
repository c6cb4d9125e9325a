"""Own options and those of `train` on one command line."""

from __future__ import annotations

import pytest

from tests.system.tiny_run import words
from topk_ortho.commands import ablate, calibrate
from topk_ortho.commands.reader import build, read, settings_of
from topk_ortho.commands.reader.training import OVER_MANY_RUNS
from topk_ortho.config import ConfigError


def given(text: str, command=ablate):
    return read(command.Options, words(text), prog="ablate", refused=OVER_MANY_RUNS)


def test_options_go_where_they_belong():
    found = given(
        "--vary a=1 --steps 20 --vary b=2,3 --sae.k=4 --without_arm none ortsae --plant "
        "--dry-run --seeds=3"
    )
    own = build(ablate.Options, found)
    assert own.vary == ("a=1", "b=2,3")
    assert (own.without_arm, own.dry_run, own.seeds) == (("none", "ortsae"), True, (3,))
    settings = settings_of(found).settings
    assert (settings.steps, settings.sae.k, settings.plant.enabled) == (20, 4, True)


def test_a_value_with_an_equals_sign_stays_whole():
    found = given("--vary=penalty.tau=fixed,mean-std")
    assert found.values["vary"] == ("penalty.tau=fixed,mean-std",)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--seed", "--seeds"),
        ("--resume", "same command"),
        ("--with-baseline", "always there"),
        ("--stop-after", "Ctrl-C"),
        ("--varry", "perhaps you meant --vary"),
        ("--sae.d-sa", "perhaps you meant --sae.d-sae"),
    ],
)
def test_what_means_nothing_here_is_refused(option, said):
    with pytest.raises(ConfigError, match="was given") as error:
        given(f"{option} 1")
    assert said in str(error.value)


def test_calibrate_has_options_of_its_own():
    found = given("--l0 6 12 --steps 9 --coefficients 1 3", calibrate)
    own = build(calibrate.Options, found)
    assert (own.l0, own.coefficients) == ((6.0, 12.0), (1.0, 3.0))
    assert settings_of(found).settings.steps == 9
    with pytest.raises(ConfigError, match="--vary"):
        given("--vary a=1", calibrate)


def test_a_shard_is_not_given_the_launcher():
    found = given(
        "--grid tau --launcher submitit --shards 4 --cluster local --jobs 2 --vary a=1 b=2 "
        "--history.no-enabled --tune"
    )
    same = found.command(without=ablate.LAUNCHING)
    assert not [word for word in same if word.startswith(("--launcher", "--shards", "--cluster"))]
    again = given(" ".join(same))
    left = {n: v for n, v in found.values.items() if n not in ablate.LAUNCHING}
    assert again.values == left
