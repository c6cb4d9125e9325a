"""One eval of the published SAEBench on one SAE: `python worker.py REQUEST.json`.

Runs by its path in the environment that `make saebench` builds, where this package need not be
installed. Everything that is measured is measured by `sae_bench`; what happens here is opening: our
export in SAELens' own class, and a local model folder where its loader knows names alone. A model
of a local folder runs only up to the hook point that SAEBench reads, with the same activations; a
sample of the vocabulary and the seeds that it leaves open are set here too. Writes the JSON file
that SAEBench makes of the eval, and `reply.json` beside the request:

- `status`: `done`; `unreachable` (data or a model that it needs); `unmeasurable` (it ran and gave
  nothing); `failed`,
- `reason`: in words, empty when done,
- `result`: path of SAEBench's own file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import socket
import sys
import traceback
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 42
"""SAEBench's own."""
PROMPTS = 16
FORGET_CORPUS = "sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl"
CONNECT_SECONDS = 5
LEAST_F1, LEAST_LETTERS = 0.6, 20
"""The gate of absorption: F1 of a probe, and letters that have it (min_GT_probe_f1 and
min_feats_for_eval of its configuration)."""
HASHED_BYTES = 1 << 20
"""Of each weights file of a model, which tell it from another of the same name."""
DTYPE = "float32"


def main(path: Path) -> None:
    """Run what the request asks for and write the reply."""
    request = json.loads(path.read_text(encoding="utf-8"))
    os.chdir(path.parent)  # SAEBench keeps artifacts beside where it is run
    if not online():
        os.environ["HF_HUB_OFFLINE"] = "1"  # what is cached still works, and nothing waits
    try:
        reply = run(request)
    except Exception as error:
        traceback.print_exc()
        reply = {"status": "failed", "reason": _first_line(error)}
    write_reply(path.with_name("reply.json"), reply)


def write_reply(path: Path, reply: dict[str, Any]) -> None:
    """Write the reply as a whole or not at all, like `checkpoint.atomic`, which is not here."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(reply, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def online() -> bool:
    """Returns whether the hub answers at all; its own client would try for half a minute."""
    endpoint = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one eval; returns the contents of `reply.json`."""
    missing = list(unreachable(request))
    if missing:
        return {"status": "unreachable", "reason": "; ".join(missing)}
    sae = open_sae(request)
    if request["model_folder"]:
        open_folder(request["model_folder"])
    set_seeds()
    errors = _Errors()
    logging.getLogger().addHandler(errors)  # SAEBench logs what stops core, and continues
    RUNNERS[request["eval"]](request, [(request["name"], sae)])
    found = sorted(Path("results").rglob("*_eval_results.json"))
    if found:
        return {"status": "done", "reason": "", "result": str(found[0].resolve())}
    if errors.messages:
        return {"status": "failed", "reason": errors.messages[-1]}
    return {"status": "unmeasurable", "reason": letters_found() or "SAEBench wrote no result"}


def letters_found() -> str:
    """Returns in how many first letters a linear probe found, where absorption stopped at that."""
    for path in sorted(Path("artifacts", "absorption").glob("*_k_sparse_probing.json")):
        f1 = [float(row["f1_probe"]) for row in json.loads(path.read_text(encoding="utf-8"))]
        found = sum(value > LEAST_F1 for value in f1)
        return (
            f"a linear probe finds {found} of {len(f1)} first letters with an F1 above {LEAST_F1}, "
            f"and {LEAST_LETTERS} were expected"
        )
    return ""


def unreachable(request: dict[str, Any]) -> Iterator[str]:
    """Returns a sentence for each thing that the eval needs and cannot have."""
    if not request["model_folder"]:
        yield from _model_unreachable(request["model"])
    for name in datasets_of(request):
        yield from _dataset_unreachable(name)
    if request["eval"] == "unlearning" and not Path(FORGET_CORPUS).exists():
        yield (
            f"{FORGET_CORPUS} is not in {Path.cwd()} (given out on request by the authors of "
            "cais/wmdp-corpora)"
        )


def datasets_of(request: dict[str, Any]) -> list[str]:
    """Names on the hub of the data sets that an eval reads."""
    if request["eval"] == "core":
        return [] if Path(request["dataset"]).is_dir() else [request["dataset"]]
    if request["eval"] == "sparse_probing":
        from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig as Config
    elif request["eval"] in ("scr", "tpp"):
        from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig as Config
    else:
        return ["cais/wmdp", "cais/mmlu", "wikitext"] if request["eval"] == "unlearning" else []
    # one data set stands for several tasks, as sae_bench_utils/dataset_utils.py cuts names
    names = [n.split("_class_set")[0].split("_sentiment")[0] for n in Config().dataset_names]
    return list(dict.fromkeys(names))


def _dataset_unreachable(name: str) -> Iterator[str]:
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    try:
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            load_dataset_builder(name)
        else:
            HfApi().dataset_info(name)
    except Exception as error:
        if "trust_remote_code" not in str(error):  # it is there, and SAEBench trusts it
            yield f"the data set {name} cannot be reached ({type(error).__name__})"


def _model_unreachable(name: str) -> Iterator[str]:
    from transformer_lens import loading_from_pretrained
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(
            loading_from_pretrained.get_official_model_name(name), trust_remote_code=False
        )
    except Exception as error:
        yield f"the model {name} cannot be reached ({_first_line(error)})"


def open_folder(folder: str) -> None:
    """Have SAEBench's own call for a model open this folder, whatever name it asks for."""
    import torch
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    def from_folder(name: str, *_: Any, **how: Any) -> Any:
        dtype = how.get("dtype", DTYPE)
        bridge = TransformerBridge.boot_transformers(
            folder,
            device=str(how.get("device", "cpu")),
            dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype,
            trust_remote_code=False,
        )
        bridge.cfg.model_name = name  # artifacts are kept under it, not in the folder
        vars(bridge)["run_with_cache"] = only_as_far(bridge)
        return bridge

    HookedTransformer.from_pretrained_no_processing = staticmethod(from_folder)


def only_as_far(bridge: Any) -> Any:
    """Returns `bridge.run_with_cache` that ends behind the last hook point asked for.

    Where names of hook points alone are asked for, SAEBench reads the cache and not the logits,
    which are None then. Every other call is the bridge's own.
    """
    import torch

    whole = bridge.run_with_cache

    def run_with_cache(prompts: Any, *given: Any, names_filter: Any = None, **how: Any) -> Any:
        names = names_filter if isinstance(names_filter, list) else []
        layers = [re.match(r"blocks\.(\d+)\.", str(name)) for name in names]
        if given or how or not layers or None in layers:
            return whole(prompts, *given, names_filter=names_filter, **how)
        seen: dict[str, Any] = {}

        def keep(name: str) -> Any:
            return lambda x, hook: seen.update({name: x})

        last = max(int(layer[1]) for layer in layers if layer is not None) + 1
        tokens = bridge.to_tokens(prompts) if not isinstance(prompts, torch.Tensor) else prompts
        hooks = [(name, keep(name)) for name in names]
        bridge.run_with_hooks(tokens, fwd_hooks=hooks, return_type=None, stop_at_layer=last)
        return None, seen

    return run_with_cache


def artifacts_name(request: dict[str, Any]) -> str:
    """Returns the name of a model under which absorption keeps probes for all SAEs: other weights
    and other words have another one."""
    name, folder = request["model"], request["model_folder"]
    if request["words"]:
        name += f"-{request['words']}-words"
    if not folder:
        return name
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(str(path.stat().st_size).encode() + file.read(HASHED_BYTES))
    return f"{name}-{digest.hexdigest()[:8]}"


def sample_words(count: int) -> None:
    """Have absorption take a sample of the words of the vocabulary, the same for every SAE."""
    from sae_bench.evals.absorption import common, feature_absorption

    every = common.get_alpha_tokens

    def some(*given: Any, **how: Any) -> list[str]:
        words = sorted(every(*given, **how))
        return random.Random(SEED).sample(words, min(count, len(words)))

    common.get_alpha_tokens = feature_absorption.get_alpha_tokens = some


def set_seeds() -> None:
    """Seed what SAEBench draws from: its prompts have random examples, its probes random starts."""
    import numpy as np
    import torch

    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def open_sae(request: dict[str, Any]) -> Any:
    """Our export as SAELens' class, with what SAEBench asks its metadata for."""
    import torch
    from sae_lens import SAE

    sae = SAE.load_from_disk(request["sae"], device=request["device"])
    norms = sae.W_dec.detach().norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-5):
        sae.fold_W_dec_norm()  # SAEBench expects unit rows
    sae.cfg.metadata.model_name = request["model"]
    sae.cfg.metadata.hook_name = request["hook"]
    sae.cfg.metadata.prepend_bos = True
    sae.cfg.metadata.context_size = request["context"]
    return sae


def _core(request: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    from sae_bench.evals.core.main import multiple_evals

    losses, rest = request["core_batches"]
    multiple_evals(
        selected_saes=saes,
        n_eval_reconstruction_batches=losses,
        n_eval_sparsity_variance_batches=rest,
        eval_batch_size_prompts=PROMPTS,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=request["dataset"],
        context_size=request["context"],
        output_folder="results",
        verbose=True,
        dtype=DTYPE,
        device=request["device"],
        force_rerun=True,
    )


def _absorption(request: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    from sae_bench.evals.absorption.main import AbsorptionEvalConfig, run_eval

    Path("results").mkdir(exist_ok=True)
    if request["words"]:
        sample_words(request["words"])
    # the codes of all words at once, where they take no more than a gigabyte
    few = request["words"] and request["words"] * int(saes[0][1].cfg.d_sae) <= 2**28
    settings = _settings(request) | {"model_name": artifacts_name(request)}
    config = AbsorptionEvalConfig(**settings, precalc_k_sparse_probe_sae_acts=bool(few))
    run_eval(config, saes, request["device"], "results", True)


def _sparse_probing(request: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    from sae_bench.evals.sparse_probing.main import SparseProbingEvalConfig, run_eval

    config = SparseProbingEvalConfig(**_settings(request))
    run_eval(config, saes, request["device"], "results", True, True, False)


def _scr_or_tpp(request: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    from sae_bench.evals.scr_and_tpp.main import ScrAndTppEvalConfig, run_eval

    config = ScrAndTppEvalConfig(**_settings(request), perform_scr=request["eval"] == "scr")
    run_eval(config, saes, request["device"], "results", True, True, False)


def _unlearning(request: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    from sae_bench.evals.unlearning.main import UnlearningEvalConfig, run_eval

    run_eval(UnlearningEvalConfig(**_settings(request)), saes, request["device"], "results", True)


def _settings(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of every config but that of core."""
    return {
        "model_name": request["model"],
        "random_seed": SEED,
        "llm_batch_size": request["llm_batch_size"],
        "llm_dtype": DTYPE,
    }


RUNNERS = {
    "core": _core,
    "absorption": _absorption,
    "sparse_probing": _sparse_probing,
    "scr": _scr_or_tpp,
    "tpp": _scr_or_tpp,
    "unlearning": _unlearning,
}


class _Errors(logging.Handler):
    """Keeps what was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().splitlines()[0])


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
