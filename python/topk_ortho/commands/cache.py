"""Write a language model's activations to files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topk_ortho.commands.reader import build, read
from topk_ortho.config import TrainConfig
from topk_ortho.config.option import ROWS, option, whole
from topk_ortho.config.rules import check
from topk_ortho.config.train import CONTEXT, TOKENS, Attention, ModelBackend, ModelType


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a language model's activations to a folder that `train --data` reads.

    Token ids and positions are in its folder `tokens/`, and `shards.json` lists every shard with
    its sha256. A command that was stopped is continued by giving it again.
    """

    out: Path
    """Folder of the shards; it must not exist, or be empty."""
    model: str
    """Model name, local folder or GGUF file."""
    hook: str
    """Hook point, such as `blocks.3.hook_resid_post`."""
    text: tuple[Path, ...] = ()
    """Text files, where blank lines separate documents, or .jsonl, .parquet and .arrow files."""
    dataset: str = ""
    """Name of a Hugging Face dataset instead of text files."""
    context: int = option(128, within=CONTEXT)
    """Tokens per context, BOS included."""
    tokens: int | None = option(None, within=TOKENS)
    """Training tokens that are read of the text; all of it unless given."""
    leave_out: Literal["special"] | None = None
    """`special` leaves out the tokenizer's special tokens; BOS is always left out."""
    skip_positions: int | None = option(None, within=whole(1, 2**20))
    """Positions at the beginning of every context that are left out, BOS among them."""
    chat_roles: tuple[str, ...] | None = None
    """Roles whose tokens are kept, of chats in a column `messages`."""
    rows_per_shard: int = option(65_536, within=whole(1, 2**24))
    """Activations per shard."""
    max_rows: int | None = option(None, within=ROWS)
    """Stop after so many activations."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the stored activations; bfloat16 has the range of float32 in half the space."""
    part: str = "1/1"
    """Write this part alone, such as `2/8`; the folder is whole once all parts are there, each
    written by a process of its own."""
    append: bool = False
    """Continue a whole folder up to a higher --max-rows, with the text that it was begun with."""
    device: str = "auto"
    """Where the model runs."""
    device_map: str = ""
    """Spread the model over several devices, such as `auto`; needs the package accelerate."""
    backend: ModelBackend = "auto"
    """What runs the model; `auto` takes transformers where it has the hook point, and else
    transformer-lens."""
    model_dtype: ModelType = "float32"
    """Type of the model's weights, `auto` for the stored one."""
    attn: Attention = "auto"
    """Implementation of attention, with the backend transformers."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    config = check(
        TrainConfig(
            activations="language-model",
            model=o.model,
            hook=o.hook,
            text=o.text,
            dataset=o.dataset,
            context=o.context,
            tokens=o.tokens,
            leave_out=o.leave_out,
            skip_positions=o.skip_positions,
            chat_roles=o.chat_roles,
            device=o.device,
            backend=o.backend,
            dtype=o.model_dtype,
            attn=o.attn,
            device_map=o.device_map,
        )
    )
    from topk_ortho.activations.cache import check_space, size_on_disk, write_cache
    from topk_ortho.activations.part import Part
    from topk_ortho.activations.preparation import open_language_model
    from topk_ortho.machine.hardware import choose_device

    part = Part.parse(o.part)
    source = open_language_model(config, device=str(choose_device(o.device)), cache_bytes=0)
    rows, each = size_on_disk(source, dtype=o.dtype, max_rows=o.max_rows, part=part)
    if rows is not None:
        size = rows * each
        print(f"{rows} activations of width {source.d_in} will take {size / 1e9:,.3f} GB")
        check_space(o.out, size - _there(o.out))
    described = {"model": o.model, "hook": o.hook, "context": o.context}
    described["text"] = [path.name for path in o.text] or o.dataset
    for name in ("leave_out", "skip_positions", "chat_roles"):
        described |= {name: getattr(o, name)} if getattr(o, name) else {}
    written = write_cache(
        source,
        o.out,
        rows_per_shard=o.rows_per_shard,
        dtype=o.dtype,
        max_rows=o.max_rows,
        describe=described,
        part=part,
        append=o.append,
    )
    print(f"{written['rows']} activations of width {written['d_in']} in {o.out}")
    return 0


def _there(folder: Path) -> int:
    """Returns the bytes that an earlier call has written."""
    files = folder.rglob("*") if folder.is_dir() else ()
    return sum(path.stat().st_size for path in files if path.is_file())
