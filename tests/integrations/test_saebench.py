"""SAEBench from outside: what is asked of it, what is read from its files, what is said of them.

`saebench/*.json` are files in its schema: `core.json` from a run of it, the others written by its
own output classes with made-up figures. A stand-in for its Python hands them out; the last tests
run the package itself, where `make saebench` has been.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_llama
from topk_ortho.cli import main
from topk_ortho.formats import saelens
from topk_ortho.integrations.saebench import worker
from topk_ortho.integrations.saebench.results import as_json, as_text, read_result
from topk_ortho.integrations.saebench.suite import EVALS, OPENWEBTEXT, WORKER

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).with_name("saebench")
DATA = ROOT.parent / "shared" / "data"
SAEBENCH = ROOT / ".venv-saebench" / "bin" / "python"
needs_saebench = pytest.mark.skipif(
    not SAEBENCH.is_file(), reason="no .venv-saebench; `make saebench` builds it"
)
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")

STAND_IN = """#!{python}
import json, shutil, sys
from pathlib import Path
assert sys.argv[1] == "-E" and sys.argv[2].endswith("worker.py"), sys.argv
asked = Path(sys.argv[3])
name = json.loads(asked.read_text())["eval"]
with open({count!r}, "a") as file:
    file.write(name + "\\n")
if name == "tpp":
    sys.exit(3)
reply = {{"status": "unreachable", "reason": "the data set X cannot be reached"}}
if name != "sparse_probing":
    results = asked.parent / "results"
    results.mkdir(exist_ok=True)
    shutil.copy(Path({files!r}) / (name + ".json"), results / "a_eval_results.json")
    reply = {{"status": "done", "reason": "", "result": str(results / "a_eval_results.json")}}
asked.with_name("reply.json").write_text(json.dumps(reply))
"""


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    axes = torch.eye(64)
    return saelens.export(
        tmp_path / "axes",
        kind="relu",
        W_enc=torch.cat([axes, -axes], 1),
        b_enc=torch.full((128,), -0.4),
        W_dec=torch.cat([axes, -axes]),
        b_dec=torch.zeros(64),
        threshold=None,
        k=8,
        hook="blocks.3.hook_resid_post",
        model="gemma-2-2b",
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> tuple[Path, Path]:
    """A Python that answers as the worker would, and the file in which it counts its calls."""
    python, count = tmp_path / "python", tmp_path / "calls.txt"
    script = STAND_IN.format(python=sys.executable, count=str(count), files=str(FILES))
    python.write_text(script, encoding="utf-8")
    python.chmod(0o755)
    return python, count


def suite(sae: Path, python: Path, tmp_path: Path, *options: Any) -> tuple[int, dict[str, Any]]:
    """Run the command; its exit code and the JSON it wrote."""
    out = tmp_path / "figures.json"
    where = ["--saebench-python", python, "--saebench-folder", tmp_path / "bench", "--out", out]
    code = main(["evaluate", str(sae), "--suite", "saebench", *map(str, [*where, *options])])
    return code, json.loads(out.read_text())


def test_one_eval_that_cannot_run_stops_no_other(sae, stand_in, tmp_path, capsys):
    code, found = suite(sae, stand_in[0], tmp_path, "--evals", ",".join(EVALS))
    assert code == 0
    status = {name: one["status"] for name, one in found["evals"].items()}
    done = dict.fromkeys(("core", "absorption", "scr", "unlearning"), "done")
    assert status == {**done, "sparse_probing": "unreachable", "tpp": "failed"}
    assert found["evals"]["tpp"]["reason"] == "it ended with exit code 3 and no reply"
    assert found["evals"]["absorption"]["figures"]["mean_absorption_fraction_score"] == 0.1
    assert found["health"]["healthy"]
    shown = capsys.readouterr().out
    assert "sparse_probing: not run, what it needs cannot be reached: the data set X" in shown
    assert shown.count("a 2026 audit of SAEBench advises against") == 2
    assert "unlearning_score" in shown


def test_the_wrong_explained_variance_is_not_shown(sae, stand_in, tmp_path, capsys):
    _, found = suite(sae, stand_in[0], tmp_path, "--evals", "core")
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0] for line in lines if line.startswith("  ")}
    assert "explained_variance_legacy" in shown
    assert "explained_variance" not in shown
    assert "explained_variance is left out" in found["evals"]["core"]["note"]


def test_finished_evals_are_kept_for_the_same_question_alone(sae, stand_in, tmp_path):
    python, count = stand_in
    for options in (("core,tpp",), ("core,tpp",), ("core", "--core-batches", 1, 1)):
        suite(sae, python, tmp_path, "--evals", *options)
    assert count.read_text().split() == ["core", "tpp", "tpp", "core"]
    stored = saelens.read(sae)
    saelens.export(sae, kind="relu", **{n: stored[n] for n in ("W_enc", "W_dec", "b_dec")},
                   b_enc=stored["b_enc"] + 0.1, threshold=None, k=8, hook=stored["hook"],
                   model=stored["model"])  # fmt: skip
    suite(sae, python, tmp_path, "--evals", "core", "--core-batches", 1, 1)
    assert count.read_text().split()[4:] == ["core"]


def test_absorption_is_invalid_without_a_healthy_core(sae, stand_in, tmp_path, capsys):
    code, found = suite(sae, stand_in[0], tmp_path, "--evals", "absorption")
    assert code == 0
    assert found["health"]["reason"] == "explained variance was not measured"
    assert "mean_full_absorption_score" in found["health"]["invalid"]
    shown = capsys.readouterr().out
    assert "run core as well" in shown
    assert "0.1*" in shown
    core = read_result("core", FILES / "core.json", tmp_path / "log.txt")
    sick = {**core.figures, "ce_loss_score": 0.5}
    outcomes = {"core": type(core)("done", "", core.log, core.file, sick)}
    outcomes["absorption"] = read_result("absorption", FILES / "absorption.json", core.log)
    assert as_json(outcomes)["health"]["reason"] == "CE score 0.500 is below 0.9"
    assert "health: INVALID" in as_text(outcomes)


GATED = """#!{python}
import json, sys
from pathlib import Path
print({log!r})
reply = {{"status": {status!r}, "reason": "SAEBench wrote no result"}}
Path(sys.argv[3]).with_name("reply.json").write_text(json.dumps(reply))
"""
GATE = "Cannot evaluate absorption: the probe's F1 is 0.4."


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (f"loading\n  {GATE}\nbye", "SAEBench wrote no result"),
        (f"loading\n{GATE}  \nCannot evaluate more\nbye", f"{GATE}; SAEBench wrote no result"),
        ("loading\nbye", "SAEBench wrote no result"),
        ("", "SAEBench wrote no result"),
    ],
)
def test_what_a_gate_of_its_own_stopped_is_told_in_its_own_words(
    log, reason, sae, tmp_path, capsys
):
    python = tmp_path / "python"
    python.write_text(GATED.format(python=sys.executable, log=log, status="unmeasurable"))
    python.chmod(0o755)
    code, found = suite(sae, python, tmp_path, "--evals", "absorption")
    absorption = found["evals"]["absorption"]
    assert code == 1
    assert (absorption["status"], absorption["reason"]) == ("unmeasurable", reason)
    assert (absorption["figures"], absorption["file"]) == ({}, None)
    assert Path(absorption["log"]).read_text().strip() == log.strip()
    assert f"absorption: not measurable: {reason} (log: " in capsys.readouterr().out


def written(folder: Path) -> None:
    results = folder / "results"
    results.mkdir()
    (results / "a_eval_results.json").write_text("{}")


def refused(folder: Path) -> None:
    logging.getLogger("core").error("no tokens\nat line 3")


@pytest.mark.parametrize(
    ("does", "status", "reason"),
    [
        (written, "done", ""),
        (refused, "failed", "no tokens"),
        (lambda folder: None, "unmeasurable", "SAEBench wrote no result"),
    ],
)
def test_what_the_worker_replies_to_an_eval_that_ran(does, status, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(worker, "open_sae", lambda request: None)
    monkeypatch.setitem(worker.RUNNERS, "core", lambda request, saes: does(tmp_path))
    monkeypatch.setattr(worker, "set_seeds", lambda: None)
    request = {"eval": "core", "name": "x", "dataset": str(tmp_path), "model_folder": None}
    monkeypatch.setattr(worker, "unreachable", lambda request: [])
    reply = worker.run(request)
    assert (reply["status"], reply["reason"]) == (status, reason)
    assert ("result" in reply) == (status == "done")


def test_a_gate_that_lets_too_few_letters_pass_says_how_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert worker.letters_found() == ""
    folder = tmp_path / "artifacts" / "absorption"
    folder.mkdir(parents=True)
    rows = [{"letter": letter, "f1_probe": f1} for letter, f1 in (("a", 0.61), ("b", 0.6))]
    (folder / "x_k_sparse_probing.json").write_text(json.dumps(rows))
    assert worker.letters_found() == (
        "a linear probe finds 1 of 2 first letters with an F1 above 0.6, and 20 were expected"
    )


def test_probes_are_kept_by_weights_and_words(tmp_path):
    def name(words: int, folder: Path | None) -> str:
        given = None if folder is None else str(folder)
        return worker.artifacts_name({"model": "m", "model_folder": given, "words": words})

    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "model.safetensors").write_bytes(bytes([number]) * 9)
    first, second = tmp_path / "1", tmp_path / "2"
    names = {name(words, folder) for words in (0, 500) for folder in (None, first, second)}
    assert len(names) == 6 and {"m", "m-500-words"} < names
    assert name(0, first) == name(0, first)


def test_nothing_done_is_a_failure(sae, stand_in, tmp_path):
    assert suite(sae, stand_in[0], tmp_path, "--evals", "sparse-probing,tpp")[0] == 1


def test_what_the_worker_is_asked(sae, stand_in, tmp_path):
    text, bench = tmp_path / "text.txt", tmp_path / "bench"
    text.write_text("One.\n\nTwo.", encoding="utf-8")
    suite(sae, stand_in[0], tmp_path, "--evals", "core")
    asked = json.loads((bench / "core" / "request.json").read_text())
    assert (asked["dataset"], asked["model"], asked["model_folder"]) == (
        OPENWEBTEXT,
        "gemma-2-2b",
        None,
    )
    assert asked["core_batches"] == [200, 2000]
    model = tiny_llama.shared()
    suite(sae, stand_in[0], tmp_path, "--evals", "core", "--text", text, "--model", model)
    asked = json.loads((bench / "core" / "request.json").read_text())
    assert (asked["model"], asked["model_folder"]) == (model.name, str(model.resolve()))
    lines = (Path(asked["dataset"]) / "documents.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["One.", "Two."]
    assert len(asked["text_sha256"]) == 64
    assert {path.name for path in Path(asked["sae"]).iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
    }


@pytest.mark.parametrize("name", EVALS)
def test_its_schema_is_read(name, tmp_path):
    read = read_result(name, FILES / f"{name}.json", tmp_path / "log.txt")
    assert read.status == "done"
    groups = json.loads((FILES / f"{name}.json").read_text())["eval_result_metrics"]
    counted = {"num_letters": 1, "num_probe_true_positives": 30} if name == "absorption" else {}
    assert read.figures == {k: v for group in groups.values() for k, v in group.items()} | counted


@pytest.mark.parametrize("broken", ["{", "[]", '{"eval_type_id": "core"}', '{"eval_type_id": "x"}'])
def test_a_file_that_is_none_of_its_results_is_a_failure(broken, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(broken)
    read = read_result("core", path, tmp_path / "log.txt")
    assert read.status == "failed"
    assert str(path) in read.reason


def test_the_worker_says_what_it_could_not_do(sae, tmp_path):
    """In an environment without sae-bench: an answer all the same."""
    asked = tmp_path / "request.json"
    request = {"eval": "core", "sae": str(sae), "model_folder": str(tmp_path), "device": "cpu"}
    asked.write_text(json.dumps({**request, "dataset": str(tmp_path), "name": "x"}))
    offline = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1"}
    code = "import sys; sys.modules['sae_lens'] = sys.modules['sae_bench'] = None; "
    code += f"import runpy; sys.argv = ['worker', {str(asked)!r}]; "
    code += f"runpy.run_path({str(WORKER)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], env=offline, check=False)
    assert done.returncode == 0
    reply = json.loads((tmp_path / "reply.json").read_text())
    assert reply["status"] == "failed"
    assert "sae_lens" in reply["reason"] or "sae_bench" in reply["reason"]


def test_a_reply_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    reply = tmp_path / "reply.json"
    with monkeypatch.context() as patch:
        patch.setattr(worker.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            worker.write_reply(reply, {"status": "done"})
    assert not reply.exists()
    worker.write_reply(reply, {"status": "done"})
    assert json.loads(reply.read_text()) == {"status": "done"}
    assert list(tmp_path.iterdir()) == [reply]


@needs_saebench
def test_the_files_here_are_in_its_schema():
    code = """
import json, sys
from pathlib import Path
from pydantic import TypeAdapter
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput as A
from sae_bench.evals.core.eval_output import CoreEvalOutput as C
from sae_bench.evals.scr_and_tpp.eval_output import ScrEvalOutput as S, TppEvalOutput as T
from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput as P
from sae_bench.evals.unlearning.eval_output import UnlearningEvalOutput as U
for name, kind in dict(core=C, absorption=A, scr=S, tpp=T, sparse_probing=P, unlearning=U).items():
    read = TypeAdapter(kind).validate_python(json.loads((Path(sys.argv[1]) / f"{name}.json").read_text()))
    assert type(read) is kind
"""  # noqa: E501
    subprocess.run([SAEBENCH, "-E", "-c", code, str(FILES)], check=True)


@needs_saebench
@needs_data
def test_core_on_the_local_model(sae, tmp_path):
    """The package itself: our export in SAELens' class, the model from its folder."""
    text = tmp_path / "stories.txt"
    stories = (DATA / "text" / "stories.txt").read_text(encoding="utf-8")
    text.write_text(stories[:60_000], encoding="utf-8")
    code, found = suite(
        sae, SAEBENCH, tmp_path, "--evals", "core,scr", "--text", text, "--model",
        DATA / "stories260k", "--core-batches", 1, 1,
    )  # fmt: skip
    core, scr = found["evals"]["core"], found["evals"]["scr"]
    assert (code, core["status"]) == (0, "done"), core["reason"]
    assert 0.5 < core["figures"]["explained_variance_legacy"] < 1
    assert 1 < core["figures"]["l0"] < 64
    assert core["figures"]["total_tokens_eval_reconstruction"] == 16 * 128
    assert scr["status"] in ("unreachable", "done")


@needs_saebench
def test_a_model_runs_only_as_far_as_the_hook_point_that_is_read():
    """The same activations as of a whole pass, for prompts and for tokens; logits are not made."""
    code = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import worker
from transformer_lens import HookedTransformer
worker.open_folder(sys.argv[2])
model = HookedTransformer.from_pretrained_no_processing("m", device="cpu", dtype=torch.float32)
whole = type(model).run_with_cache
hook = "blocks.0.hook_resid_post"
prompts = ["Once there was a dog", "Once there was a cat"]
for given in (prompts, model.to_tokens(prompts)):
    logits, cache = model.run_with_cache(given, names_filter=[hook])
    assert logits is None and set(cache) == {hook}
    assert torch.equal(cache[hook], whole(model, given, names_filter=[hook])[1][hook])
assert model.run_with_cache(prompts, names_filter=None)[0] is not None
assert "blocks.1.hook_resid_post" in model.run_with_cache(prompts)[1]
"""
    command = [SAEBENCH, "-E", "-c", code, str(WORKER.parent), str(tiny_llama.shared())]
    subprocess.run(command, check=True)


@needs_saebench
def test_a_sample_of_words_is_the_same_everywhere():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import worker
from sae_bench.evals.absorption import common, feature_absorption
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
every = common.get_alpha_tokens(tokenizer)
worker.sample_words(30)
some = common.get_alpha_tokens(tokenizer)
assert some == feature_absorption.get_alpha_tokens(tokenizer)
assert len(set(some)) == 30 and set(some) < set(every)
"""
    command = [SAEBENCH, "-E", "-c", code, str(WORKER.parent), str(tiny_llama.shared())]
    subprocess.run(command, check=True)
