"""What a person can get wrong on the command line ends in one sentence that helps."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import topk_ortho
import topk_ortho.train as command
from tests import tiny_llama
from tests.conftest import Run
from tests.system.tiny_run import OPTIONS, SHAPE, over, tiny, words
from topk_ortho import cli, training
from topk_ortho.commands.reader import parse
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import config_text, from_table, option_types, read_config

FILES = over(SHAPE, "--activations", "files", "--data", "shards")
HEAVY = ("torch", "transformers", "transformer_lens", "matplotlib", "scipy", "datasets")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentence(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The one line on stderr of a command line that fails with `code`."""
    capsys.readouterr()
    assert command.main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    # what a run is and expects to need is said before its first step
    before = ("training a ", "memory: ")
    lines = [line for line in captured.err.splitlines() if not line.startswith(before)]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert lines[0].endswith((".", "`."))
    return lines[0]


# name, options, what the sentence has to hold
WRONG = [
    ("unknown option", "--pairs.per-featur 3", ["--pairs.per-featur ", "--pairs.per-feature)"]),
    ("unknown option, underscore", "--sae.d_sa 3", ["--sae.d-sa ", "--sae.d-sae)"]),
    ("fraction 0", "--pairs.fraction 0", ["--pairs.fraction 0", "(0, 1]"]),
    ("fraction 2", "--pairs.fraction 2", ["--pairs.fraction 2", "(0, 1]"]),
    ("k above d_sae", "--sae.k 65", ["--sae.k 65", "d_sae = 64", "raise --sae.d-sae"]),
    ("k 0", "--sae.k 0", ["--sae.k 0", "d_sae = 64"]),
    ("k not whole in topk", "--sae.kind topk --sae.k 4.5", ["--sae.k 4.5", "batch-topk"]),
    ("d_sae 1", "--sae.d-sae 1 --sae.k 1", ["--sae.d-sae 1", "2 features"]),
    ("prefixes", "--sae.prefixes 8 32", ["--sae.prefixes 8 32", "d_sae = 64"]),
    ("steps 0", "--steps 0", ["--steps 0", "--steps 1 or more"]),
    ("stop-after 0", "--stop-after 0", ["--stop-after 0", "at least 1 step"]),
    ("not a number", "--steps many", ["--steps many", "a whole number"]),
    ("not finite", "--lr nan", ["--lr nan", "above 0"]),
    ("not a choice", "--sae.kind batchtopk", ["--sae.kind batchtopk", "meant batch-topk"]),
    ("no value", "--seed", ["--seed was given without a value", "a whole number"]),
    ("a value too many", "--steps 3 4", ["'4' was given after --steps"]),
    ("both sizes", "--pairs.fraction .1 --pairs.per-feature 2", ["in two ways", "leave one"]),
    (
        "ortsae sized",
        "--pairs.criterion ortsae --pairs.max-pairs 9",
        ["--pairs.max-pairs 9", "by itself"],
    ),
    (
        "ortsae of a pair",
        "--pairs.criterion ortsae --sae.d-sae 2 --sae.k 1",
        ["--sae.d-sae 2", "3"],
    ),
    ("unknown recipe", "--recipe gradiant", ["--recipe gradiant", "meant gradient", "recipes"]),
    ("recipe without a name", "--recipe", ["--recipe was given without a value"]),
    ("schedule alone", "--pairs.schedule linear", ["--pairs.final-fraction"]),
    ("stability without history", "--penalty.tau stability --history.no-enabled", ["history"]),
    ("decay", "--history.decay 1", ["--history.decay 1", "below 1"]),
    ("beta", "--beta2 1", ["--beta2 1", "below 1"]),
    ("threads", "--threads -1", ["--threads -1", "from 0 to"]),
    ("rate", "--synthetic.root-rate-high 0", ["--synthetic.root-rate-high 0", "above 0"]),
    ("width 0", "--synthetic.d-in 0", ["--synthetic.d-in 0", "from 1 to"]),
    ("device", "--device tpu", ["--device tpu", "cuda"]),
    ("device without a backend", "--device meta", ["--device meta", "cuda"]),
    ("no folder", "--activations files", ["--data DIR"]),
    ("no model", "--activations language-model", ["--model NAME_OR_DIR"]),
    ("missing configuration", "--config gone.toml", ["--config gone.toml", "no such file"]),
    ("configuration is a folder", "--config .", ["--config .", "TOML file"]),
    ("nothing to resume", "--resume .", ["--resume", "config.toml", "--out"]),
    ("resume and options", "--resume old --steps 9", ["--resume", "--", "leave the option out"]),
]


@pytest.mark.fault("a wrong option")
@pytest.mark.parametrize(("name", "options", "parts"), WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_option_ends_in_one_sentence(name, options, parts, here, capsys):
    base = [] if "--resume" in options else OPTIONS
    line = sentence(over(base, *options.split()), capsys)
    for part in parts:
        assert part in line
    assert not list(here.iterdir())  # no run folder for a run that never was


TOMLS = [
    ("unknown key", "stepz = 3", ["x.toml", "stepz", "meant steps"]),
    (
        "unknown key in a table",
        "[pairs]\nper_featur = 3",
        ["pairs.per_featur ", "pairs.per_feature)"],
    ),
    ("wrong type", 'steps = "three"', ["steps = 'three'", "type int"]),
    ("a truth for a number", "steps = true", ["steps = True", "type int"]),
    ("not a choice", '[sae]\nkind = "batch_top"', ["sae.kind", "batch-topk"]),
    ("no table", "plant = true", ["plant = True", "a table"]),
    ("not TOML", "steps = ", ["x.toml", "not TOML"]),
    ("out of range", "steps = 0", ["--steps 0"]),
]


@pytest.mark.fault("a wrong configuration file")
@pytest.mark.parametrize(("name", "text", "parts"), TOMLS, ids=[t[0] for t in TOMLS])
def test_a_wrong_toml_ends_in_one_sentence(name, text, parts, here, capsys):
    Path("x.toml").write_text(text)
    line = sentence(["--config", "x.toml"], capsys)
    for part in parts:
        assert part in line


@pytest.mark.fault("an output folder that exists")
def test_a_folder_in_use_is_left_alone_and_resume_is_named(here, capsys):
    Path("taken").mkdir()
    line = sentence(over(OPTIONS, "--out", "taken"), capsys)
    assert "--resume taken" in line
    assert not list(Path("taken").iterdir())


def test_a_shard_of_another_width_is_named(here, capsys):
    Path("shards").mkdir()
    np.save("shards/a.npy", np.ones((10, 8), np.float32))
    np.save("shards/b.npy", np.ones((10, 7), np.float32))
    line = sentence(over(FILES, "--out", "r"), capsys)
    for part in ("b.npy", "width 7", "expected 8"):
        assert part in line


@pytest.mark.fault("activations: NaN")
def test_nan_in_a_shard_is_named_by_file_and_row(here, capsys):
    Path("shards").mkdir()
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    x[123, 4] = np.nan
    np.save("shards/a.npy", x)
    line = sentence(over(FILES, "--out", "r"), capsys)
    assert "a.npy" in line
    assert "row 123" in line


def test_data_without_variance_is_refused(here, capsys):
    Path("shards").mkdir()
    np.save("shards/a.npy", np.ones((400, 8), np.float32))
    assert "total variance of 0" in sentence(over(FILES, "--out", "r"), capsys)


def test_fewer_rows_than_a_batch_are_refused(here, capsys):
    Path("shards").mkdir()
    np.save("shards/a.npy", np.random.default_rng(0).normal(size=(20, 8)))
    assert "--batch-size 32" in sentence(over(FILES, "--out", "r"), capsys)


def language(text: str, *, model: str = "", hook: str = "blocks.0.hook_resid_post") -> list[str]:
    return over(SHAPE, "--activations", "language-model", "--context", "32", "--text", text,
            "--model", model or str(tiny_llama.shared()), "--hook", hook)  # fmt: skip


@pytest.mark.fault("a missing text file")
def test_a_missing_text_is_named(here, capsys):
    line = sentence([*language("gone.txt"), "--out", "r"], capsys)
    assert "gone.txt was given" in line


@pytest.mark.fault("a missing model")
def test_a_missing_model_folder_is_named(here, capsys):
    Path("t.txt").write_text("\n\n".join(tiny_llama.stories()))
    line = sentence([*language("t.txt", model="./gone"), "--out", "r"], capsys)
    assert "'./gone'" in line
    assert "existing folder" in line


@pytest.mark.fault("a text without a token")
def test_an_empty_text_is_refused(here, capsys):
    Path("t.txt").write_text("\n\n \n")
    line = sentence([*language("t.txt"), "--out", "r"], capsys)
    assert "holds no text" in line
    assert "add text" in line


@pytest.mark.fault("a hook point that does not exist")
def test_a_hook_that_does_not_exist_is_named_with_the_nearest(here, capsys):
    Path("t.txt").write_text("\n\n".join(tiny_llama.stories()))
    line = sentence([*language("t.txt", hook="blocks.0.hook_resid_pots"), "--out", "r"], capsys)
    assert "'blocks.0.hook_resid_pots'" in line
    assert "blocks.0.hook_resid_post" in line.replace("hook_resid_pots", "")


@pytest.mark.fault("a disk that is full when the log is written")
def test_a_full_disk_ends_in_one_sentence(here, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr("topk_ortho.training.loop.EventLog.write", full)
    line = sentence(over(OPTIONS, "--out", "r", "--log-every", "60"), capsys, code=1)
    for part in ("metrics.jsonl", "No space left", "--resume"):
        assert part in line


def test_the_process_prints_the_sentence_and_fails(run: Run):
    done = run(["--pairs.fraction", "0"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--pairs.fraction 0.0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["trian"], "(perhaps you meant train)"), (["train", "--stepz", "3"], "--steps)")],
)
def test_the_other_entry_point_says_the_same(arguments, part, capsys):
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert part in lines[0]


def test_hyphens_and_underscores_are_the_same():
    hyphens = parse(words("--sae.kind batch-topk --sae.d-sae 96 --penalty.tau mean-std-all"))
    assert hyphens == parse(
        words("--sae.kind batch_topk --sae.d_sae=96 --penalty.tau=mean_std_all")
    )
    assert hyphens.settings.sae.d_sae == 96
    assert hyphens.settings.penalty.tau == "mean-std-all"
    # a value that only looks like one is not touched
    assert parse(words("--model my_model --text a_b.txt --hook x")).settings.model == "my_model"


def test_hyphens_and_underscores_are_the_same_in_toml():
    one = from_table({"batch-size": 64, "sae": {"d-sae": 96, "kind": "batch_topk"}})
    other = from_table({"batch_size": 64, "sae": {"d_sae": 96, "kind": "batch-topk"}})
    assert one == other == tiny("--batch-size", "64", "--sae.d-sae", "96", base=[])


def test_options_beat_the_toml(here):
    Path("c.toml").write_text("steps = 70\nseed = 5\n[sae]\nd_sae = 48\nk = 3\n")
    settings = parse(words("--config c.toml --steps 80 --sae.k 2")).settings
    assert (settings.steps, settings.seed, settings.sae.d_sae, settings.sae.k) == (80, 5, 48, 2)


@pytest.mark.parametrize("text", ["[plant]", "[plant]\nroots = 3"])
def test_a_plant_table_stands_for_plant(text, here):
    Path("c.toml").write_text(text)
    plant = parse(["--config", "c.toml"]).settings.plant
    assert plant.enabled
    assert plant.roots == (3 if "roots" in text else 8)


def test_any_option_of_plant_plants_unless_it_says_no(here):
    assert parse(["--plant"]).settings.plant.enabled
    assert parse(["--plant.roots", "3"]).settings.plant.enabled
    assert not parse(["--steps", "3"]).settings.plant.enabled
    Path("c.toml").write_text("[plant]\nenabled = false")
    assert not parse(["--config", "c.toml"]).settings.plant.enabled
    assert not parse(["--plant.no-enabled"]).settings.plant.enabled


configurations = st.builds(
    lambda **table: from_table(table),
    seed=st.integers(0, 2**63 - 1),
    lr=st.floats(1e-9, 10),
    steps=st.integers(1, 10**6),
    with_baseline=st.booleans(),
    model=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9),
    text=st.lists(st.sampled_from(["a.txt", "b c/'d'.txt", 'q"u.txt']), max_size=2),
    sae=st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from(["topk", "relu", "batch_topk"]),
            "k": st.floats(0.5, 64),
            "prefixes": st.just([32, 256]),
        },
    ),
    plant=st.fixed_dictionaries({"enabled": st.booleans()}, optional={"roots": st.integers(1, 9)}),
    penalty=st.fixed_dictionaries({}, optional={"coefficient": st.floats(0, 1e3)}),
)


@settings(deadline=None, max_examples=50)
@given(configurations)
def test_a_configuration_survives_toml(tmp_path_factory, config: TrainConfig):
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(config_text(config), encoding="utf-8")
    assert read_config(path) == config


def test_every_option_of_the_configuration_is_an_option():
    assert {"pairs.per-feature", "sae.d-sae", "penalty.every-n"} <= set(option_types())


def test_an_unusable_configuration_is_refused_in_python_too(tmp_path):
    with pytest.raises(ConfigError, match=r"^steps=0 was given"):
        topk_ortho.train(from_table({"steps": 0}), tmp_path / "r")


@pytest.mark.parametrize(
    "code",
    [
        "import topk_ortho; topk_ortho.__version__",
        "import topk_ortho.train as t; t.main(['--help'])",
        "import topk_ortho.cli as c; c.main(['--help'])",
        "import topk_ortho.cli as c; c.main(['train', '--help'])",
        "import topk_ortho.cli as c; c.main(['cache', '--help'])",
        "import topk_ortho.report",
    ],
)
def test_help_and_imports_load_nothing_heavy(code, run: Run):
    script = (
        "import atexit, sys\n"
        f"heavy = {HEAVY!r}\n"
        "atexit.register(lambda: print('LOADED', [m for m in heavy if m in sys.modules]))\n"
        f"{code}\n"
    )
    done = run(["-c", script], module="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
    if "--help" in code:
        assert "usage: " in done.stdout


def test_help_names_every_option(run: Run):
    done = run(["--help"])
    text = "".join(done.stdout.split())
    for option in option_types():
        assert "--" + option in text or option == "plant.enabled"


def test_every_public_name_resolves():
    for name in topk_ortho.__all__:
        assert getattr(topk_ortho, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        topk_ortho.no_such_name  # noqa: B018


def test_train_stays_a_function_after_its_module_was_imported(tmp_path):
    import topk_ortho.train

    assert callable(topk_ortho.train)
    assert topk_ortho.train.main is command.main
    result = topk_ortho.train(tiny("--steps", "3"), tmp_path / "r", progress=False)
    assert result["steps"] == 3
    assert training.train is not topk_ortho.train


def test_whoever_reads_the_output_may_leave() -> None:
    for arguments in (["recipes"], ["pairs", "--help"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "topk_ortho.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(), said) == (141, b"")
