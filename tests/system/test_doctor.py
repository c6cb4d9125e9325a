"""`topk-ortho doctor`: what a run would need, before there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.system.tiny_run import OPTIONS, over, tiny
from topk_ortho import cli
from topk_ortho.machine import doctor, hardware, memory
from topk_ortho.training import announce, train

GB = 10**9


def test_it_prints_memory_disk_and_device(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", *OPTIONS]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "device: cpu", "d_in 24", "weights", "Adam's moments", "--sae.d-sae",
                 "peak", "in use already", "disk:"):  # fmt: skip
        assert word in said, word
    assert "problem" not in said
    assert list(tmp_path.iterdir()) == []


C2R = Path(__file__).resolve().parents[2] / "benches" / "protocols" / "c2r-gemma-2-2b.toml"


def test_a_gpu_that_is_not_here_is_predicted_for(capsys, tmp_path: Path, monkeypatch) -> None:
    """Nothing is opened: the model of the file is not on this machine."""
    monkeypatch.chdir(tmp_path)
    asked = ["doctor", "--config", str(C2R), "--gpu", "h100"]
    assert cli.main([*asked, "--d-in", "2304"]) == 0
    said = capsys.readouterr().out
    assert "H100" in said and "d_in 2304; d_sae 65536, batch 2048, 244140 steps" in said
    peak = re.search(r"peak +(\d\.\d+) GB", said)
    assert peak is not None and 4.8 < float(peak[1]) < 12, "weights, gradient and moments and more"
    operations = 2 * 5 * 2048 * 2304 * 65_536
    hours = 244_140 * operations / (67e12 / 2) / 3600
    assert f"steps: {hours:.1f} hours, derived and not measured" in said
    assert cli.main([*asked, "--d-in", "2304", "--sae.d-sae", "2000000"]) == 1
    assert "problem: the peak is above the 80.00 GB" in capsys.readouterr().out
    assert cli.main(asked) == 2
    assert "add --d-in" in capsys.readouterr().err
    assert cli.main(["doctor", "--d-in", "9", *OPTIONS]) == 2
    assert "--gpu" in capsys.readouterr().err


def test_a_configuration_file_and_a_run_folder(capsys, tmp_path: Path) -> None:
    train(tiny("--sae.d-sae", "128"), tmp_path / "run", progress=False)
    capsys.readouterr()
    assert cli.main(["doctor", "--config", str(tmp_path / "run" / "config.toml")]) == 0
    assert "d_sae 128" in capsys.readouterr().out
    assert cli.main(["doctor", "--resume", str(tmp_path / "run")]) == 0
    assert "d_sae 128" in capsys.readouterr().out


def test_files_are_opened_for_their_width(capsys, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "a.npy", np.zeros((50, 17), np.float32))
    assert cli.main(["doctor", "--activations", "files", "--data", str(tmp_path)]) == 0
    assert "d_in 17" in capsys.readouterr().out


def test_what_cannot_be_used_is_refused(capsys, tmp_path: Path) -> None:
    assert cli.main(["doctor", "--activations", "files", "--data", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.fault("less memory than a run needs")
def test_too_little_memory_is_a_problem_with_a_remedy(capsys, monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_available", lambda device: 10**6)
    assert cli.main(["doctor", *over(OPTIONS, "--sae.d-sae", "65536", "--buffer-rows", "64")]) == 1
    said = capsys.readouterr().out
    problem = next(line for line in said.splitlines() if line.startswith("problem: "))
    assert re.search(r"expected to need [\d.]+ .B more memory on cpu, but 1.0 MB is", problem)
    assert "lower --" in problem


def test_too_little_disk_is_a_problem(capsys, monkeypatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("U", (), {"free": 1}))
    assert cli.main(["doctor", *OPTIONS]) == 1
    assert "lower --keep-checkpoints" in capsys.readouterr().out


def test_checkpoints_take_no_more_disk_than_was_said(tmp_path: Path) -> None:
    config = tiny("--keep-checkpoints", "1", "--pairs.per-feature", "1")
    train(config, tmp_path / "run", progress=False)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    said, _ = doctor._disk(config, 24, tmp_path / "run")
    assert size < said


def test_a_run_says_at_its_start_what_it_will_need(tmp_path: Path, capsys) -> None:
    config = tiny()
    train(config, tmp_path / "run", progress=True)
    what, need = capsys.readouterr().err.splitlines()[:2]
    assert what == (
        "training a batch-topk SAE of 64 features, k 4, on synthetic forest-240 (d_in 24): 60 "
        f"steps of 32 activations, {config.pairs.criterion}, on cpu, in {tmp_path / 'run'}"
    )
    assert re.fullmatch(r"memory: .* in use, .* more at the peak, in [a-z -]+: .*, \.\.\.", need)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    expected = manifest["memory_forecast"]
    assert (
        expected["peak_bytes"]["host"]
        > sum(part["bytes"] for part in expected["components"] if "geometry" in part["when"]) // 2
        > 0
    )


def test_where_no_option_lowers_the_peak_the_data_is_named(capsys, monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_available", lambda device: 10**6)
    monkeypatch.setattr(doctor, "still_to_load", lambda: 0)
    assert cli.main(["doctor", *over(OPTIONS, "--synthetic.d-in", "768")]) == 1
    assert "take data of fewer dimensions (measuring their variance" in capsys.readouterr().out


def test_code_that_is_not_loaded_yet_is_counted(monkeypatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert announce.still_to_load() == announce.LOADED
    monkeypatch.setitem(sys.modules, "torch._dynamo", sys)
    assert announce.still_to_load() == 0


def test_freed_memory_can_be_given_back() -> None:
    import torch

    memory.release_freed()
    assert memory.memory_in_use(torch.device("cpu"))[0] > 0


def test_a_run_that_will_hardly_fit_is_warned_of(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_available", lambda device: 1)
    with pytest.warns(UserWarning, match="expected to need .* more memory on cpu"):
        train(tiny(), tmp_path / "run", progress=False)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch) -> None:
    import torch

    device = torch.device("cpu")
    machine = memory._machine()
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert machine is None or abs((memory.memory_available(device) or 0) - machine) < GB
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 500\n")
    assert memory.memory_available(device) == 5500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.memory_available(device) != 5500


@pytest.mark.fault("a setting that is slower on this machine")
def test_a_prefilter_on_a_processor_without_bfloat16_products_is_warned_of(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "CPUINFO", cpuinfo)
    assert hardware.has_bf16_products() is None
    for flags, expected in (("avx2 avx512f", False), ("avx512f amx_bf16", True)):
        cpuinfo.write_text(f"model name : A\nflags : fpu {flags}\n")
        assert hardware.has_bf16_products() is expected
    options = ["--sae.bf16-prefilter", "--steps", "2"]
    words = over(OPTIONS, *options)
    assert cli.main(["doctor", *words]) == 0
    assert "bf16-prefilter" not in capsys.readouterr().out
    cpuinfo.write_text("model name : A\nflags : fpu avx2\n")
    assert cli.main(["doctor", *words]) == 0
    assert "this processor has no bfloat16 products" in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r"--sae\.bf16-prefilter was given, but this processor"):
        train(tiny(*options), tmp_path / "run", progress=False)
