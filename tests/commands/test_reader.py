"""The one reader of command lines: every command, every option."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.system.tiny_run import words
from topk_ortho import cli
from topk_ortho.commands import ablate, evaluate, train
from topk_ortho.commands.reader import parse, read
from topk_ortho.commands.reader.help import help_text
from topk_ortho.commands.reader.options import Option, options_of
from topk_ortho.config import ConfigError, TrainConfig, renamed
from topk_ortho.config.option import Range
from topk_ortho.config.toml import from_table

COMMANDS = cli.names()
NEEDS_NOTHING = {"train", "doctor", "ablate", "calibrate", "recipes", "report"}


def error(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


def test_every_command_is_a_module() -> None:
    assert len(COMMANDS) >= 14
    for name in COMMANDS:
        module = cli.command(name)
        assert module.__doc__ and module.Options.__doc__ and callable(module.run)


@pytest.mark.fault("a command without what it needs")
@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in NEEDS_NOTHING])
def test_what_is_missing_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = error(name, capsys=capsys)
    for option in options_of(cli.command(name).Options).values():
        if option.default is not None and repr(option.default).startswith("<dataclasses._MISSING"):
            assert option.shown in said
    assert f"see topk-ortho {name} --help" in said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["1", "2", "5", "20", "80", "4000"])
def test_help_fits_any_terminal(
    name: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    began = time.process_time()
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert time.process_time() - began < 2
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(shown) < 100_000
    assert all(len(line) <= max(20, min(100, int(columns))) for line in shown.splitlines())
    together = "".join(shown.split())
    for option in options_of(cli.command(name).Options).values():
        assert option.shown in together


@pytest.mark.fault("a terminal of one column")
def test_help_takes_little_memory_in_a_narrow_terminal() -> None:
    limited = "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 30, 1 << 30)); "
    code = limited + "from topk_ortho import cli; cli.main(['evaluate', '--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment(), "COLUMNS": "1"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_option_has_its_words() -> None:
    for name in COMMANDS:
        shown = help_text(cli.command(name).Options, prog=name).splitlines()
        for line, below in itertools.pairwise(shown):
            if line.startswith("  --"):
                assert below.startswith("      "), f"{name}: {line}"


# --- one value, many values --------------------------------------------------------------------


@pytest.mark.fault("an option given twice")
@pytest.mark.parametrize(
    "options", ["--steps 3 --steps 4", "--steps 3 --steps 3", "--plant --plant.no-enabled"]
)
def test_an_option_of_one_value_stands_once(options: str) -> None:
    with pytest.raises(ConfigError, match="was given twice"):
        parse(words(options))


def test_an_option_of_many_values_adds_up() -> None:
    found = parse(words("--model m --hook h --text a.txt b.txt --steps 3 --text=c.txt"))
    assert found.settings.text == (Path("a.txt"), Path("b.txt"), Path("c.txt"))
    assert read(ablate.Options, words("--seeds 1 --seeds 2"), prog="x").values["seeds"] == (1, 2)


def test_arguments_stand_anywhere_and_after_two_hyphens() -> None:
    for line in ("run --device cpu", "--device cpu run", "--text a -- run", "--device=cpu -- run"):
        assert read(evaluate.Options, words(line), prog="x").values["sae"] == Path("run")
    found = read(evaluate.Options, ["--text=--odd.txt", "--", "--run"], prog="x").values
    assert (found["text"], found["sae"]) == ((Path("--odd.txt"),), Path("--run"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("run --core-batches 3", "2 values were expected"),
        ("run --core-batches 3 4 5", "'5' was given after --core-batches"),
        ("run --json=yes", "takes no value"),
        ("run --data=", "a path was expected"),
        ("run more", "'more' was given after no option"),
        ("run --synthetic.preset forest", "meant forest-2"),
        (f"run --eval-samples {'9' * 5000}", "--eval-samples 999"),
    ],
)
def test_what_cannot_be_read(options: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        read(evaluate.Options, words(options), prog="x")
    assert said in str(found.value)
    assert len(str(found.value)) < 400


# --- sizes -------------------------------------------------------------------------------------


def whole_numbers() -> list[tuple[str, Option]]:
    """Every option of a whole number of every command."""
    return [
        (name, option)
        for name in COMMANDS
        for option in options_of(cli.command(name).Options).values()
        if option.item is int and not (name != "train" and option.owner not in (
            cli.command(name).Options,))
    ]  # fmt: skip


def settings() -> list[tuple[str, Option]]:
    return [("train", o) for o in options_of(TrainConfig).values() if o.item is int]


@pytest.mark.fault("a size that no machine has")
@pytest.mark.parametrize(
    ("command", "option"),
    [*whole_numbers(), *settings()],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_every_whole_number_is_bounded(command: str, option: Option, capsys) -> None:
    if option.name == "sae.prefixes":
        return  # by d_sae
    field = option.name.rpartition(".")[2].replace("-", "_")
    within = option.owner.__dataclass_fields__[field].metadata.get("within")
    assert isinstance(within, Range), f"{command} --{option.name} has no range"
    needed = {
        "absorption": "x --model m --text t --hook h --classes c", "atlas": "x",
        "cache": "--out o --model m --hook h",
        "agreement": "x y", "evaluate": "x", "pairs": "x",
    }.get(command, "")  # fmt: skip
    for number in (10**30, -(10**30)):
        words_ = [*words(needed), f"--{option.name}={number}"]
        if option.count > 1:
            words_ = [*words(needed), f"--{option.name}", str(number), "5"]
        assert f"--{option.name} {number}" in error(command, *words_, capsys=capsys)


@pytest.mark.fault("a size that no machine has")
def test_threads_and_processes_are_bounded_by_the_cores(capsys) -> None:
    cores = str(os.cpu_count())
    for command, option in (("train", "threads"), ("ablate", "jobs"), ("calibrate", "jobs")):
        said = error(command, f"--{option}", "5000", capsys=capsys)
        assert f"--{option} 5000" in said
        assert f"{cores} cores" in said


# --- old names ---------------------------------------------------------------------------------


@pytest.mark.fault("an option by its old name")
def test_an_old_name_is_answered_with_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renamed.RENAMED, "sae.width", "sae.d-sae")
    monkeypatch.setitem(renamed.RENAMED_VALUES, "sae.kind", {"batchtopk": "batch-topk"})
    with pytest.raises(ConfigError, match=r"--sae\.width was given, .* --sae\.d-sae"):
        parse(words("--sae.width 3"))
    with pytest.raises(ConfigError, match="called batch-topk now"):
        parse(words("--sae.kind batchtopk"))
    with pytest.raises(ConfigError, match=r"sae\.width .* sae\.d-sae"):
        from_table({"sae": {"width": 3}})
    with pytest.raises(ConfigError, match="batch-topk"):
        from_table({"sae": {"kind": "batchtopk"}})


def test_every_old_name_has_a_new_one() -> None:
    options = options_of(train.Options)
    for old, new in renamed.RENAMED.items():
        assert new in options and old not in options
        with pytest.raises(ConfigError) as found:
            parse([f"--{old}", "1"])
        assert f"--{old} was given" in str(found.value) and f"--{new}" in str(found.value)
    for option, values in renamed.RENAMED_VALUES.items():
        if options[option].flag:  # had values under its old name, which is answered
            continue
        for old, new in values.items():
            with pytest.raises(ConfigError, match=str(new)):
                parse([f"--{option}", str(old)])


@pytest.mark.parametrize("name", ["results", "bars"])
def test_an_old_command_is_answered_with_the_target(name: str, capsys) -> None:
    assert f"make {name}" in error(name, "--anything", capsys=capsys)
