"""Run SAEBench on an SAE, a model and text, eval by eval, each in its own process.

An eval that needs what cannot be reached, or that fails, stops no other. Finished ones are kept in
the folder with their request, and not run again for the same request.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from topk_ortho.activations.text import text_documents
from topk_ortho.checkpoint.atomic import filling, replace_file
from topk_ortho.config import ConfigError
from topk_ortho.config.toml import nearest
from topk_ortho.formats import saelens
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.integrations.saebench.results import Outcome, read_result

EVALS = ("core", "absorption", "sparse_probing", "scr", "tpp", "unlearning")
OPENWEBTEXT = "Skylion007/openwebtext"
"""What SAEBench measures core on."""
DOCUMENTS = "documents.jsonl"
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Suite:
    """A request to SAEBench.

    Attributes:
        sae: with `model` and `hook` filled in.
        digest: identifies the SAE, so that another one is measured again.
        evals: of `EVALS`.
        python: of the environment that has `sae-bench`.
        folder: where its files and logs go.
        text: files that core is measured on; `dataset` where there are none.
        dataset: name of a Hugging Face data set; SAEBench's own where that is empty too.
        context: tokens per context of core.
        device: `cpu` or `cuda`.
        core_batches: batches of 16 contexts for the losses, and for everything else of core.
        llm_batch_size: prompts at a time in the others.
        words: of the vocabulary that absorption takes, a sample that is the same for every SAE; 0
            for all.
    """

    sae: StoredSAE
    digest: str
    evals: tuple[str, ...]
    python: Path
    folder: Path
    text: tuple[Path, ...] = ()
    dataset: str = ""
    context: int = 128
    device: str = "cpu"
    core_batches: tuple[int, int] = (200, 2000)
    llm_batch_size: int = 32
    words: int = 0


def chosen(evals: str) -> tuple[str, ...]:
    """Evals from a list with commas, in SAEBench's names.

    Raises:
        ConfigError: an unknown eval, or none at all.
    """
    names = tuple(dict.fromkeys(e.strip().replace("-", "_") for e in evals.split(",") if e.strip()))
    for name in names:
        if name not in EVALS:
            raise ConfigError(
                f"--evals {name} was given, but one of {', '.join(EVALS)} was expected"
                f"{nearest(name, list(EVALS))}; correct it."
            )
    if not names:
        raise ConfigError(f"--evals names nothing; give some of {', '.join(EVALS)}.")
    return names


def run_suite(suite: Suite, *, progress: bool = True) -> dict[str, Outcome]:
    """Returns the outcome of each eval, in the order asked for.

    Raises:
        ConfigError: no environment, no model or hook, text that cannot be read.
    """
    _check(suite)
    suite.folder.mkdir(parents=True, exist_ok=True)
    exported = saelens.write_stored(suite.sae, suite.folder / "sae")
    dataset = _dataset(suite)
    outcomes = {}
    for name in tqdm(suite.evals, desc="SAEBench", unit="eval", disable=not progress):
        request = _request(suite, name, exported=exported, dataset=dataset)
        outcomes[name] = _run(suite.folder / name, request, suite.python)
    return outcomes


def _check(suite: Suite) -> None:
    if not suite.python.is_file():
        raise ConfigError(
            f"--saebench-python {suite.python} was given, but there is no Python there; run `make "
            "saebench`, which builds the environment in .venv-saebench, or give that of another "
            "environment with sae-bench."
        )
    for name, value in (("model", suite.sae.model), ("hook", suite.sae.hook)):
        if not value:
            raise ConfigError(
                f"the SAE names no {name}, and SAEBench measures at a hook point of a language "
                f"model; add --{name}."
            )


def _dataset(suite: Suite) -> str:
    """Returns the data set for core: a folder of the text files for `datasets`, or a name."""
    if not suite.text:
        return suite.dataset or OPENWEBTEXT
    folder = suite.folder / "text"
    folder.mkdir(exist_ok=True)
    with filling(folder / DOCUMENTS) as whole, whole.open("w", encoding="utf-8") as file:
        for document in text_documents(suite.text):
            file.write(json.dumps({"text": document}) + "\n")
    return str(folder.resolve())


def _request(suite: Suite, name: str, *, exported: Path, dataset: str) -> dict[str, Any]:
    model = Path(suite.sae.model).expanduser()
    local = model.is_dir()
    return {
        "eval": name,
        "name": "topk_ortho",
        "sae": str(exported.resolve()),
        "digest": suite.digest,
        "model": model.resolve().name if local else suite.sae.model,
        "model_folder": str(model.resolve()) if local else None,
        "hook": suite.sae.hook,
        "dataset": dataset,
        "text_sha256": _sha256(Path(dataset) / DOCUMENTS) if suite.text else None,
        "context": suite.context,
        "device": suite.device,
        "core_batches": list(suite.core_batches),
        "llm_batch_size": suite.llm_batch_size,
        "words": suite.words,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(folder: Path, request: dict[str, Any], python: Path) -> Outcome:
    asked, reply, log = (folder / name for name in ("request.json", "reply.json", "log.txt"))
    kept: Any = _json(reply) if _json(asked) == request else None
    if kept is None or kept["status"] != "done" or not Path(kept["result"]).is_file():
        for path in (reply, *_results(folder)):
            path.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        replace_file(asked, (json.dumps(request, indent=2) + "\n").encode())
        with log.open("wb") as file:
            # Its own interpreter and environment: nothing of ours is put on its path.
            command: Sequence[str] = [str(python.absolute()), "-E", str(WORKER), str(asked)]
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
        kept = _json(reply) or {
            "status": "failed",
            "reason": f"it ended with exit code {done.returncode} and no reply",
        }
    if kept["status"] != "done":
        reasons = dict.fromkeys(filter(None, (_why(log), kept["reason"])))
        return Outcome(kept["status"], "; ".join(reasons), log)
    return read_result(request["eval"], Path(kept["result"]), log)


def _why(log: Path) -> str:
    """Returns SAEBench's own words where one of its gates stopped an eval."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.startswith("Cannot evaluate")), "")


def _results(folder: Path) -> Iterator[Path]:
    """Remove results of another request, which must not be taken for those of this one."""
    yield from (folder / "results").rglob("*_eval_results.json")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
