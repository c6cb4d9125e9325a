"""Own options and those of `train` on one command line."""

from __future__ import annotations

import pytest

from tests.system.tiny_run import words
from topk_ortho.config import ConfigError
from topk_ortho.studies.launch import for_shards
from topk_ortho.studies.options import AblateOptions, CalibrateOptions, split


def test_options_go_where_they_belong():
    own, rest = split(
        words(
            "--vary a=1 --steps 20 --vary b=2,3 --sae.k=4 --without_arm none ortsae --plant "
            "--dry-run --seeds=3"
        ),
        AblateOptions,
    )
    assert own == words("--vary a=1 b=2,3 --without-arm none ortsae --dry-run --seeds 3")
    assert rest == words("--steps 20 --sae.k=4 --plant")


def test_a_value_with_an_equals_sign_stays_whole():
    own, _ = split(["--vary=penalty.tau=fixed,mean-std"], AblateOptions)
    assert own == ["--vary", "penalty.tau=fixed,mean-std"]


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
        split([option, "1"], AblateOptions)
    assert said in str(error.value)


def test_calibrate_has_options_of_its_own():
    own, rest = split(words("--l0 6 12 --steps 9 --coefficients 1 3"), CalibrateOptions)
    assert own == words("--l0 6 12 --coefficients 1 3")
    assert rest == ["--steps", "9"]
    with pytest.raises(ConfigError, match="--vary"):
        split(["--vary", "a=1"], CalibrateOptions)


def test_a_shard_is_not_given_the_launcher():
    own = words("--grid tau --launcher submitit --shards 4 --cluster local --jobs 2")
    assert for_shards(own) == words("--grid tau --jobs 2")
