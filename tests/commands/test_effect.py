"""A setting that was given has an effect, or is refused by its name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.system.tiny_run import words
from topk_ortho import cli
from topk_ortho.commands.reader import parse
from topk_ortho.commands.reader.options import options_of
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.option import without_effect
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash, config_text, read_config

MODEL = "--model m --text t.txt --hook blocks.0.hook_resid_post"

# options, and what the message has to name
UNUSED = [
    ("--activations synthetic --data x", ["--data", "--activations synthetic"]),
    ("--activations files --data x --model m", ["--model", "--activations files"]),
    ("--data x --model m", ["--data", "--activations language-model"]),
    ("--data x --hook h", ["--data", "--activations language-model"]),
    ("--data x --context 9", ["--context", "--activations files"]),
    ("--data-layer 1", ["--data-layer", "--activations synthetic"]),
    ("--evaluate-samples 9", ["--evaluate-samples", "--evaluate-every 0"]),
    ("--context 9", ["--context", "--activations synthetic"]),
    ("--data x --eval-contexts 9", ["--eval-contexts", "--activations files"]),
    ("--eval-contexts 0", ["--eval-contexts", "--activations synthetic"]),
    ("--data x --tokens 9", ["--tokens", "--activations files"]),
    ("--data x --skip-positions 4", ["--skip-positions", "--activations files"]),
    ("--data x --leave-out special", ["--leave-out", "--activations files"]),
    ("--chat-roles user", ["--chat-roles", "--activations synthetic"]),
    ("--max-norm 10", ["--max-norm", "--activations synthetic"]),
    ("--data x --synthetic.noise .1", ["--synthetic.noise", "--activations files"]),
    (f"{MODEL} --synthetic.roots 3", ["--synthetic.roots", "--activations language-model"]),
    ("--sae.bandwidth .5", ["--sae.bandwidth", "--sae.kind jumprelu"]),
    ("--sae.prefixes 32 256", ["--sae.prefixes", "--sae.kind matryoshka"]),
    ("--sae.aux-k 0 --sae.aux-coefficient .1", ["--sae.aux-coefficient", "--sae.aux-k 0"]),
    ("--pairs.min-support 3", ["--pairs.min-support", "--pairs.criterion correlation"]),
    ("--pairs.final-fraction .1", ["--pairs.final-fraction", "--pairs.schedule constant"]),
    ("--pairs.schedule-steps 9", ["--pairs.schedule-steps", "--pairs.schedule constant"]),
    ("--pairs.criterion none --pairs.per-feature 1", ["--pairs.per-feature", "criterion none"]),
    ("--pairs.criterion none --penalty.coefficient 1", ["--penalty.coefficient", "none"]),
    ("--pairs.criterion none --history.decay .9", ["--history.decay", "--pairs.criterion none"]),
    ("--pairs.criterion none --with-baseline", ["--with-baseline", "--pairs.criterion none"]),
    ("--penalty.tau mean-std --penalty.threshold .1", ["--penalty.threshold", "tau mean-std"]),
    ("--penalty.tau strength --penalty.threshold .1", ["--penalty.threshold", "tau strength"]),
    ("--penalty.coefficient 0 --penalty.ramp .1", ["--penalty.ramp", "--penalty.coefficient 0;"]),
    ("--penalty.coefficient 0 --penalty.units absolute", ["--penalty.units", "coefficient 0;"]),
    (
        "--penalty.coefficient 0 --penalty.gradient symmetric",
        ["--penalty.gradient", "give another"],
    ),
    ("--no-plant --plant.roots 3", ["--plant.roots", "--plant.no-enabled"]),
    ("--no-history --history.queue 3", ["--history.queue", "--history.no-enabled"]),
    ("--history.no-enabled --history.queue 3", ["--history.queue", "--history.no-enabled"]),
    ("--plant.no-enabled --plant.roots 3", ["--plant.roots", "--plant.no-enabled"]),
    ("--allow-pickle", ["--allow-pickle", "no --init-from"]),
    ("--init-sha256 0", ["--init-sha256", "no --init-from"]),
]


def refusal(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a command ends in."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


@pytest.mark.fault("an option that is given and not used")
@pytest.mark.parametrize("command", ["train", "doctor"])
@pytest.mark.parametrize(("options", "named"), UNUSED, ids=[o for o, _ in UNUSED])
def test_an_option_without_effect_is_refused_by_name(
    command: str, options: str, named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(command, *words(options), capsys=capsys)
    assert "no effect" in said
    for part in named:
        assert part in said


def test_no_to_what_does_not_happen_anyway_is_no_mistake() -> None:
    config = TrainConfig().without_constraint()
    assert not config.with_baseline
    assert not list(without_effect(["with-baseline"], config))
    assert [name for name, _ in without_effect(["history.enabled"], config)] == ["history.enabled"]


@pytest.mark.fault("an option that is given and not used")
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("data = 'x'\nmodel = 'm'", "model"),
        ("context = 9", "context in c.toml"),
        ("[sae]\nbandwidth = 0.5", "sae.bandwidth in c.toml"),
        ("[pairs]\nmin_support = 3", "pairs.min-support in c.toml"),
        ("[history]\nenabled = false\nqueue = 9", "history.queue in c.toml"),
        ("activations = 'files'\ndata = 'x'\n[synthetic]\nnoise = 0.1", "synthetic.noise"),
    ],
)
@pytest.mark.parametrize("command", ["train", "doctor", "ablate", "calibrate"])
def test_so_is_a_key_of_a_file(
    command: str,
    text: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(text)
    said = refusal(command, "--config", "c.toml", capsys=capsys)
    assert named in said or (command in ("ablate", "calibrate") and "--data x was given" in said)


@pytest.mark.fault("activations other than those that were asked for")
@pytest.mark.parametrize("command", ["train", "doctor", "ablate", "calibrate", "recipes"])
def test_the_source_follows_from_what_is_given(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text("data = 'nowhere'\n")
    out = {"train": "r", "ablate": "a", "calibrate": "c"}.get(command)
    extra = ["--out", out] if out else []
    for given in (["--data", "nowhere"], ["--config", "c.toml"]):
        said = refusal(command, *given, *extra, "--steps", "5", capsys=capsys)
        if command == "recipes":
            assert "no effect without --out" in said
        else:
            assert "nowhere" in said
        assert not list(tmp_path.glob("**/result.json"))


def test_sources_are_told_apart() -> None:
    assert TrainConfig().activations == "synthetic"
    assert TrainConfig(data=Path("x")).activations == "files"
    assert TrainConfig(hook="h").activations == "language-model"
    assert parse(words(MODEL)).settings.activations == "language-model"
    assert parse(["--data", "x"]).settings.activations == "files"
    with pytest.raises(ConfigError, match="--data was given"):
        check(dataclasses.replace(TrainConfig(), data=Path("x")))
    with pytest.raises(ConfigError, match="without any text"):
        parse(["--model", "m"])


def test_a_stored_configuration_is_no_choice(tmp_path: Path) -> None:
    """It states every setting, used or not; what is given beside it wins."""
    path = tmp_path / "config.toml"
    config = parse(words("--sae.kind topk --pairs.criterion none")).settings
    path.write_text(config_text(config))
    assert parse(["--config", str(path)]).settings == config
    other = parse(["--config", str(path), "--data", "x"]).settings
    assert (other.activations, other.data) == ("files", Path("x"))
    with pytest.raises(ConfigError, match=r"--sae\.bandwidth was given"):
        parse(["--config", str(path), "--sae.bandwidth", "0.6"])


def test_a_name_of_the_source_changes_no_hash(tmp_path: Path) -> None:
    assert config_hash(TrainConfig()) == config_hash(TrainConfig(activations="synthetic"))
    assert 'activations = "synthetic"' in config_text(TrainConfig())
    (tmp_path / "c.toml").write_text("data = 'x'")
    files = TrainConfig(activations="files", data=Path("x"))
    assert read_config(tmp_path / "c.toml") == files


@pytest.mark.parametrize(
    ("options", "arms"),
    [
        (["--sae.prefixes", "8", "64"], []),  # of the arm matryoshka
        (["--pairs.per-feature", "2"], ["--without-arm", "matryoshka"]),
    ],
)
def test_an_option_that_one_arm_uses_is_used(options, arms, tmp_path, capsys) -> None:
    small = words("--sae.d-sae 64 --sae.k 4 --steps 3 --seeds 1")
    out = ["--out", str(tmp_path / "a"), "--dry-run"]
    code = cli.main(["ablate", *small, *options, *arms, *out])
    assert code == 0, capsys.readouterr().err


@pytest.mark.fault("an option that is given and not used")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--sae.bandwidth .5", "--sae.bandwidth"),
        ("--sae.k 4 --vary sae.k=4,8", "--sae.k was given together with an axis"),
        ("--shards 2", "--shards"),
        ("--cluster local", "--cluster"),
        ("--launcher submitit --shard 1/2", "--shard"),
        ("--dry-run --retry-failed", "--retry-failed"),
    ],
)
def test_an_option_that_no_arm_uses_is_refused(arguments, named, tmp_path, capsys) -> None:
    said = refusal("ablate", *words(arguments), "--out", str(tmp_path / "a"), capsys=capsys)
    assert named in said


def test_every_condition_can_be_told() -> None:
    """Each setting is used by some configuration, and its condition has words."""
    config = TrainConfig()
    for name in options_of(TrainConfig):
        for _, condition in without_effect([name], config):
            assert condition.option in options_of(TrainConfig)
            assert condition.now(config).startswith(("--", "no --"))
