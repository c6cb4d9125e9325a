"""A random one-layer Llama as a GGUF file, written with the package `gguf`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TOKENS = ["<unk>", "<s>", "</s>", *(chr(c) for c in range(97, 123)), "Ġ", "ab"]
D_MODEL, D_MLP, HEADS = 32, 64, 4


def build(path: Path) -> Path:
    """Writes float32 weights, all drawn with seed 0, and a tokenizer of letters."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(0)
    for name, shape in _shapes().items():
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32) * 0.2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes() -> dict[str, tuple[int, ...]]:
    square = {f"blk.0.attn_{name}.weight": (D_MODEL, D_MODEL) for name in ("q", "k", "v", "output")}
    return {
        "token_embd.weight": (len(TOKENS), D_MODEL),
        "output.weight": (len(TOKENS), D_MODEL),
        "output_norm.weight": (D_MODEL,),
        "blk.0.attn_norm.weight": (D_MODEL,),
        "blk.0.ffn_norm.weight": (D_MODEL,),
        "blk.0.ffn_gate.weight": (D_MLP, D_MODEL),
        "blk.0.ffn_up.weight": (D_MLP, D_MODEL),
        "blk.0.ffn_down.weight": (D_MODEL, D_MLP),
        **square,
    }
