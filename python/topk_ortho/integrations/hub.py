"""Trained SAEs to and from the Hugging Face hub, through its own client.

The two files of a layout (`formats/__init__.py`) are transferred, under a subfolder of the
repository where one is named; whatever else lies there is left alone. Address and token are the
client's own business (`HF_ENDPOINT`, `hf auth login`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topk_ortho import formats
from topk_ortho.checkpoint.folders import write_folder
from topk_ortho.config import ConfigError


def push(
    folder: str | Path,
    repo: str,
    *,
    subfolder: str = "",
    private: bool = True,
    message: str = "Upload a sparse autoencoder",
    endpoint: str | None = None,
) -> str:
    """Upload an SAE's folder, or the SAE of a run folder; a repository that is new is created.

    Args:
        folder: any layout; nothing in it is opened.
        repo: `OWNER/NAME`.
        subfolder: of the repository, its root unless given.
        private: whether a new repository is private; an existing one is not changed.
        message: of the commit.
        endpoint: the hub's address; the client's own unless given.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: no SAE there, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    layout, path = formats.detect(folder)
    api = HfApi(endpoint=endpoint)
    with _told(repo, "written to"):
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=path,
            path_in_repo=subfolder or None,
            allow_patterns=list(formats.FILES[layout]),
            commit_message=message,
        )
    return str(commit.commit_url)


def pull(
    repo: str,
    folder: str | Path,
    *,
    subfolder: str = "",
    revision: str | None = None,
    endpoint: str | None = None,
) -> formats.Layout:
    """Download an SAE of any layout into a folder, which appears whole or not at all.

    Args:
        repo: `OWNER/NAME`.
        folder: becomes a folder of exactly the layout's two files.
        subfolder: of the repository, its root unless given.
        revision: branch, tag or commit; the main branch unless given.
        endpoint: the hub's address; the client's own unless given.

    Returns:
        The layout; nothing that was downloaded has been opened.

    Raises:
        ConfigError: no SAE there, the hub refuses or cannot be reached, or the folder holds
            anything else.
    """
    from huggingface_hub import snapshot_download

    inside = f"{subfolder.strip('/')}/" if subfolder.strip("/") else ""
    wanted = [inside + name for names in formats.FILES.values() for name in names]
    with tempfile.TemporaryDirectory(prefix="topk-ortho-pull-") as temporary:
        with _told(repo, "read"):
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=wanted,
                local_dir=temporary,
                endpoint=endpoint,
            )
        try:
            layout, path = formats.detect(Path(temporary) / inside)
        except ConfigError:
            names = ", ".join(weights for _, weights in formats.FILES.values())
            raise ConfigError(
                f"{repo} was given, but {inside or 'its root'} holds no SAE, where one of {names} "
                "was expected; name its folder with --subfolder."
            ) from None
        missing = [name for name in formats.FILES[layout] if not (path / name).is_file()]
        if missing:
            raise ConfigError(f"{repo} holds no {inside}{missing[0]}; the SAE is not complete.")
        write_folder(
            Path(folder), {name: (path / name).read_bytes() for name in formats.FILES[layout]}
        )
    return layout


@contextmanager
def _told(repo: str, what: str) -> Iterator[None]:
    """Turn what the client raises into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # the client raises its transport's errors, for an answer as for a lack of one
    ancestors = (kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception))
    met: tuple[type[Exception], ...] = (LocalEntryNotFoundError, OSError)
    met += tuple(kind for kind in ancestors if kind is not Exception)
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(
            f"{repo} was given, but OWNER/NAME was expected ({str(error).splitlines()[0]})."
        ) from error
    except met as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"{repo} cannot be {what} ({reason[0] if reason else type(error).__name__}); check the "
            "name and the network, and log in with hf auth login where the repository is private."
        ) from error
