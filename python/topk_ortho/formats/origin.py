"""A check that an SAE is measured at the model and hook point that it names."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from topk_ortho.config import ConfigError


def check_origin(
    *, sae: Path, named: Mapping[str, str], given: Mapping[str, str], insist: bool = False
) -> None:
    """Refuse to measure an SAE on activations of another hook point or model than its own.

    Values that either side lacks are not compared. A model in a folder may have been renamed: where
    it cannot be determined whether it is the same one, that is a warning.

    Args:
        sae: its folder, for the message.
        named: `model`, `hook` and `hook_out` as the SAE has them, empty where it does not say.
        given: the same of the activations.
        insist: warn in place of refusing.

    Raises:
        ConfigError: they are not the same.
    """
    for what, same in (("hook", same_hook), ("hook_out", same_hook), ("model", same_model)):
        own, other = named.get(what, ""), given.get(what, "")
        if not own or not other or same(own, other):
            continue
        name = what.replace("_", "-")
        said = f"the {name} {other} was given, but the SAE of {sae} names {own} as its own"
        unclear = what == "model" and (_is_folder(own) or _is_folder(other))
        if insist or unclear:
            told = (
                "it is measured there anyway"
                if insist
                else ("the metrics mean something only if both are the same model")
            )
            warnings.warn(f"{said}; {told}.", stacklevel=2)
            continue
        raise ConfigError(
            f"{said}; give that one, or add --allow-mismatch to measure it elsewhere on purpose."
        )


def same_hook(a: str, b: str) -> bool:
    """Returns whether two hook points of TransformerLens are the same place: a layer's input is
    the output of the one below it."""
    return _place(a) == _place(b)


def same_model(a: str, b: str) -> bool:
    """Returns whether two names or folders are the same model: by the path's last part, the name
    that a folder was made from, or by TransformerLens' other names for it."""
    mine, theirs = _names(a), _names(b)
    if mine & theirs or _is_folder(a) or _is_folder(b):
        return bool(mine & theirs)
    return bool(_with_aliases(mine) & _with_aliases(theirs))


def _place(hook: str) -> str:
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|in|resid_post|out)", hook)
    if found is None:
        return hook
    below = found[2] in ("resid_pre", "in")
    return f"residual stream after block {int(found[1]) - below}"


def _is_folder(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).expanduser().is_dir()


def _names(model: str) -> set[str]:
    path = Path(model).expanduser()
    names = {path.resolve().name if path.is_dir() else path.name}
    try:
        said = json.loads((path / "config.json").read_bytes()).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        said = None
    if isinstance(said, str) and said:
        names.add(Path(said).name)
    return {name.lower() for name in names}


def _with_aliases(names: set[str]) -> set[str]:
    from topk_ortho.activations.models.lens import other_names

    return names.union(*(other_names(name) for name in names))
