"""Loads a language model: by name, from a folder in Hugging Face layout, or from a GGUF file.

The backend is chosen before any weights are read, by the hook points that will be asked for.
Refused: models that need remote code or pickled weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from topk_ortho.activations.models import forward_hooks, lens
from topk_ortho.activations.models.backend import Backend
from topk_ortho.activations.models.layouts import Layout, layout_of
from topk_ortho.config import ConfigError
from topk_ortho.config.errors import require

GGUF = ".gguf"


@dataclass(frozen=True)
class Place:
    """Where a model is.

    Attributes:
        name: a Hugging Face name or a folder.
        gguf: the file of the folder that it is in, None in Hugging Face layout.
    """

    name: str
    gguf: str | None = None

    @property
    def files(self) -> dict[str, Any]:
        """Returns the arguments that say where to read, for any `from_pretrained`."""
        gguf = {"gguf_file": self.gguf} if self.gguf else {}
        return {"pretrained_model_name_or_path": self.name, "trust_remote_code": False, **gguf}


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it.

    Attributes:
        backend: the name.
        layout: where hook points are, for the backend transformers.
        why: the reason, "" where there is nothing to explain.
    """

    backend: str
    layout: Layout | None = None
    why: str = ""


def load(
    name_or_dir: str | Path,
    *,
    device: str | torch.device = "cpu",
    hooks: Sequence[str] = (),
    backend: str = "auto",
    dtype: str = "float32",
    attn: str = "auto",
    device_map: str = "",
) -> tuple[str, Backend, str]:
    """Returns the name of a model, the model, and why it has its backend ("" if that is plain).

    Args:
        name_or_dir: a Hugging Face name, a folder, or a GGUF file.
        device: where it runs, unless `device_map` says so.
        hooks: hook points that will be asked for.
        backend: auto, transformers or transformer-lens.
        dtype: type of the weights: float32, bfloat16, float16, or auto for the stored one.
        attn: implementation of attention: auto, sdpa, eager or flash-attention-2.
        device_map: places the layers, as transformers takes it; "" puts all on `device`.

    Raises:
        ConfigError: the model cannot be loaded, or not with this backend.
    """
    _check_packages(attn, device_map)
    place = find(name_or_dir)
    name = str(Path(place.name) / place.gguf) if place.gguf else place.name
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        config = _config(place)
        choice = choose(backend, hooks, config, name=name)
        if choice.backend == lens.NAME and attn != "auto":
            raise _unused_attn(attn, choice, backend)
        stored = getattr(config, "dtype", None) or torch.float32
        how: dict[str, Any] = {"dtype": stored if dtype == "auto" else getattr(torch, dtype)}
        how |= {"device_map": device_map} if device_map else {"device": str(device)}
        if choice.layout is not None:
            model = _model(place, attn=attn, **how)
            loaded: Backend = forward_hooks.Transformers(model, _tokenizer(place), choice.layout)
        elif place.gguf:
            model = _model(place, attn="eager", **how)
            loaded = lens.bridge(place.name, model=model, tokenizer=_tokenizer(place))
        else:
            loaded = lens.bridge(place.name, **how)
    except ConfigError:
        raise
    except Exception as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the language model {name!r} cannot be loaded ({cause}); expected a folder in "
            "Hugging Face layout, a GGUF file, or a model name and a network connection."
        ) from error
    return name, loaded, choice.why


def find(name_or_dir: str | Path) -> Place:
    """Returns where a model is.

    Raises:
        ConfigError: no such folder or file, or none that holds a model.
    """
    name = str(name_or_dir)
    path = Path(name).expanduser()
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            raise ConfigError(
                f"{name!r} holds no .safetensors weights; expected a Hugging Face model folder "
                f"(config.json, *.safetensors, tokenizer.json){_gguf_inside(path)}."
            )
        return Place(str(path))
    if path.is_file() and path.suffix == GGUF:
        if find_spec("gguf") is None:
            raise ConfigError(
                f"--model {name} was given, but a GGUF file needs the package `gguf`: "
                "pip install 'topk-ortho[gguf]'."
            )
        return Place(str(path.parent), path.name)
    if path.exists() or name.startswith((".", "/", "~")) or name.endswith(GGUF) or not name:
        raise ConfigError(
            f"no model folder {name!r}: give an existing folder, a GGUF file or a Hugging Face "
            "model name."
        )
    return Place(name)


def choose(backend: str, hooks: Sequence[str], config: Any, *, name: str) -> Choice:
    """Returns the backend for some hook points of a model.

    Args:
        backend: as `--backend` has it; `auto` takes transformers, which is faster, where it has
            all of `hooks`.
        hooks: hook points that will be asked for; none means any.
        config: the model's configuration of transformers, None where it cannot be read.
        name: of the model, for the message.

    Raises:
        ConfigError: the backend does not have them.
    """
    if backend == lens.NAME:
        return Choice(lens.NAME)
    layout = None if config is None else layout_of(config)
    missing = [h for h in hooks if layout and h.rpartition(".")[2] not in layout.places]
    why = ""
    if layout is None:
        kind = getattr(config, "model_type", "unknown")
        why = f"where the hook points of a model of type {kind} are is known to it alone"
    elif missing:
        why = f"{missing[0]} is known to it alone"
    require(
        backend == "auto" or not why,
        f"--backend {backend} was given for {name!r}",
        f"a model and hook points that it knows were expected (for {lens.NAME}, {why})",
        f"leave it out, or give --backend {lens.NAME}",
    )
    if why or (backend == "auto" and not hooks):
        return Choice(lens.NAME, why=why)
    return Choice(forward_hooks.NAME, layout)


def _check_packages(attn: str, device_map: str) -> None:
    needed = {"accelerate": bool(device_map), "flash_attn": attn == "flash-attention-2"}
    for package, wanted in needed.items():
        if wanted and find_spec(package) is None:
            option = f"--device-map {device_map}" if package == "accelerate" else f"--attn {attn}"
            raise ConfigError(
                f"{option} was given, but it needs the package `{package}`, which is not "
                f"installed; pip install {package.replace('_', '-')}, or leave it out."
            )


def _unused_attn(attn: str, choice: Choice, backend: str) -> ConfigError:
    why = f" ({choice.why})" if choice.why else ""
    now = "with" if backend == lens.NAME else "as the model is run by"
    return ConfigError(
        f"--attn {attn} was given, but it has no effect {now} --backend {lens.NAME}, which "
        f"computes attention itself{why}; leave it out, or give --backend {forward_hooks.NAME}."
    )


def _gguf_inside(folder: Path) -> str:
    files = sorted(folder.glob(f"*{GGUF}"))
    return f", or a GGUF file such as {files[0]}" if files else ""


def _config(place: Place) -> Any:
    """The configuration of transformers, None where it knows no model of that name."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(**place.files)
    except (OSError, ValueError):
        if place.gguf:
            raise
        return None  # transformer_lens has names of its own


def _tokenizer(place: Place) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(**place.files)


def _model(
    place: Place, *, attn: str, dtype: torch.dtype, device: str = "", device_map: str = ""
) -> Any:
    from transformers import AutoModelForCausalLM

    how: dict[str, Any] = {"dtype": dtype}
    if attn != "auto":
        how["attn_implementation"] = attn.replace("-", "_")
    if device_map:
        how["device_map"] = device_map
    if not place.gguf:
        how["use_safetensors"] = True
    model: Any = AutoModelForCausalLM.from_pretrained(**place.files, **how)
    return model.to(device) if device else model
