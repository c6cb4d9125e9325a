"""The language-model source, on a tiny random Llama and, where present, on stories260k."""

from __future__ import annotations

import shutil
import socket
import sys
import types
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from topk_ortho.activations import language_model as lm
from topk_ortho.activations import text
from topk_ortho.activations.hub import Dataset
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.train import check_places

N, L = "contexts", "tokens"
HOOK = "blocks.0.hook_resid_post"
CONTEXT = 16
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


@pytest.fixture(scope="session")
def model() -> lm.LanguageModel:
    return lm.LanguageModel.load(tiny_llama.shared())


@pytest.fixture(scope="session")
def stories260k() -> lm.LanguageModel:
    return lm.LanguageModel.load(DATA / "stories260k")


@pytest.fixture(scope="session")
def contexts(model: lm.LanguageModel) -> torch.Tensor:
    return text.pack_contexts(model.tokenizer, tiny_llama.stories(), CONTEXT)


def hidden_states(folder: Path, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return plain(tokens, output_hidden_states=True).hidden_states


# --- the model ---------------------------------------------------------------------------------


def test_a_local_folder_loads_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = lm.LanguageModel.load(tiny_llama.shared())
    assert (loaded.bos, loaded.max_context, loaded.d_vocab) == (1, 64, 63)


def test_activations_are_the_plain_models_hidden_states(
    model: lm.LanguageModel, contexts: torch.Tensor
) -> None:
    tokens = contexts[:3]
    states = hidden_states(tiny_llama.shared(), tokens)
    torch.testing.assert_close(
        model.activations(tokens, "blocks.0.hook_resid_post"), states[1], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        model.activations(tokens, "blocks.1.hook_resid_pre"), states[1], atol=1e-5, rtol=1e-5
    )


def test_only_the_layers_up_to_the_hook_run(
    model: lm.LanguageModel, contexts: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    bridge = model._backend._bridge
    run = bridge.run_with_hooks
    monkeypatch.setattr(
        bridge,
        "run_with_hooks",
        lambda *a, **k: (asked.append(k["stop_at_layer"]), run(*a, **k))[1],
    )
    model.activations(contexts[:1], "blocks.0.hook_resid_post")
    model.activations(contexts[:1], "ln_final.hook_normalized")
    assert asked == [1, None]


def test_heads_are_flattened(model: lm.LanguageModel, contexts: torch.Tensor) -> None:
    z = model.activations(contexts[:2], "blocks.1.attn.hook_z")
    assert z.shape == (2, CONTEXT, tiny_llama.D_MODEL)


@pytest.mark.parametrize("hook", [HOOK, "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"])
def test_replacing_reaches_the_logits(
    model: lm.LanguageModel, contexts: torch.Tensor, hook: str
) -> None:
    tokens = contexts[:2]
    plain = model.run_with_hooks(tokens)
    seen = []
    same = model.run_with_hooks(tokens, hook, lambda x: seen.append(x) or x)
    assert torch.equal(plain, same)
    assert torch.equal(seen[0], model.activations(tokens, hook))
    assert not torch.allclose(plain, model.run_with_hooks(tokens, hook, torch.zeros_like))
    assert torch.equal(plain, model.run_with_hooks(tokens)), "a hook was left behind"


@pytest.mark.fault("a hook point that cannot be used")
@pytest.mark.parametrize(
    ("hook", "says"),
    [
        ("blocks.0.hook_resid_pots", "perhaps blocks.0.hook_resid_post"),
        ("blocks.7.hook_resid_post", "perhaps blocks.1.hook_resid_post"),
        ("nothing", "looks like `blocks.3.hook_resid_post`"),
        ("blocks.0.attn.hook_result", "switched off"),
        ("blocks.0.attn.hook_pattern", "one row per token"),
        ("blocks.0.attn.hook_attn_scores", "one row per token"),
        ("rotary_emb.hook_cos", "one row per token"),
        ("blocks.0.ln1.hook_scale", "the one number that a normalisation divides by"),
        ("embed.hook_in", "int64"),
    ],
)
def test_hooks_that_cannot_be_used(
    model: lm.LanguageModel, contexts: torch.Tensor, hook: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        lm.LanguageModelSource(model, contexts, hook)


@pytest.mark.fault("attention taken for activations")
@pytest.mark.parametrize("context", [3, tiny_llama.N_HEADS, tiny_llama.N_HEADS + 1, CONTEXT])
@pytest.mark.parametrize("hook", ["hook_pattern", "hook_attn_scores"])
def test_attention_is_no_activation_at_any_context(
    model: lm.LanguageModel, context: int, hook: str
) -> None:
    contexts = text.pack_contexts(model.tokenizer, tiny_llama.stories(), context)
    with pytest.raises(ConfigError, match=r"between tokens.* such as blocks\.1\.attn\.hook_z"):
        lm.LanguageModelSource(model, contexts, f"blocks.1.attn.{hook}")


@pytest.mark.fault("attention taken for activations")
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((N, L, 6), None),
        ((N, L, 2, 3), None),
        ((N, 4, L, L), "expected one row per token"),
        ((N, 4, L, 8), "expected one row per token"),
        ((1, L, 6), "expected one row per token"),
        ((N, L, 4, L), r"its width follows the number of tokens \(\[12, 16\]\)"),
        ((N, L, L), r"its width follows the number of tokens \(\[3, 4\]\)"),
    ],
)
def test_what_a_hook_gives_is_told_from_two_lengths(
    model: lm.LanguageModel, shape: tuple, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts of 4 tokens, where a single shape looks like one row for each of them."""

    def fire(tokens: torch.Tensor, hooks: tuple[str, ...]) -> dict[str, torch.Tensor]:
        lengths = {N: tokens.shape[0], L: tokens.shape[1]}
        return {hook: torch.zeros([lengths.get(n, n) for n in shape]) for hook in hooks}

    monkeypatch.setattr(model._backend, "capture", fire)
    tokens = torch.ones(5, 4, dtype=torch.int64)
    if said is None:
        assert model.width(HOOK, tokens) == 6
        return
    with pytest.raises(ConfigError, match=said):
        model.width(HOOK, tokens)


@pytest.mark.fault("a folder that is no model")
def test_folders_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model folder '.*/missing'"):
        lm.LanguageModel.load(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"no \.safetensors weights"):
        lm.LanguageModel.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"cannot be loaded \("):
        lm.LanguageModel.load(tmp_path)


@pytest.mark.fault("damaged weights of a language model")
def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama.shared(), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"cannot be loaded \("):
        lm.LanguageModel.load(folder)


# --- contexts ----------------------------------------------------------------------------------


def test_packing(model: lm.LanguageModel) -> None:
    letter = {c: model.tokenizer.convert_tokens_to_ids(c) for c in "abcdef"}
    rows = text.pack_contexts(model.tokenizer, ["ab", "cdef", "abc"], 4)
    a, b, c, d, e, f = letter.values()
    assert rows.dtype == torch.int64
    assert rows.tolist() == [[1, a, b, 1], [1, c, d, e], [1, f, 1, a]]


def test_special_tokens_in_the_text_are_text(model: lm.LanguageModel) -> None:
    rows = text.pack_contexts(model.tokenizer, ["a<unk>b</s>c<s>d" * 3], 22)
    assert model.tokenizer.decode(rows[0, 1:]) == "a b c d" * 3
    assert rows[0, 1:].min() > 2


def test_reading_stops_at_max_tokens(model: lm.LanguageModel) -> None:
    taken = []
    endless = (taken.append(i) or "abc" for i in range(10**9))
    rows = text.pack_contexts(model.tokenizer, endless, 11, max_tokens=100)
    assert rows.shape == (10, 11)
    assert len(taken) <= text.DOCUMENTS_PER_CALL


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\nmore\n\n \n\ntwo\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n\nthree", encoding="utf-8")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert list(text.text_documents(paths)) == ["one\nmore", "two", "three"]


@pytest.mark.fault("text that cannot be used")
def test_text_that_cannot_be_used(model: lm.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.txt"):
        list(text.text_documents([tmp_path / "absent.txt"]))
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.txt' is not UTF-8"):
        list(text.text_documents([tmp_path / "latin.txt"]))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="holds no text, and at least the 15 tokens"):
        text.pack_contexts(model.tokenizer, text.text_documents([tmp_path / "empty.txt"]), CONTEXT)
    with pytest.raises(ConfigError, match=r"holds 3 tokens, and at least .*lower --context"):
        text.pack_contexts(model.tokenizer, ["abc"], CONTEXT)
    with pytest.raises(ConfigError, match="--context 1 was given"):
        text.pack_contexts(model.tokenizer, ["abc"], 1)


@pytest.mark.fault("text that cannot be used")
@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no text"), (" \n\n\t\n", "holds no text"), ("ab", "holds 2 tokens"),
     ("a" * 40, r"contexts of shape \[2, 16\]")],
)  # fmt: skip
def test_text_that_is_too_short_is_named(
    content: str, said: str, model: lm.LanguageModel, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(lm.LanguageModel, "load", lambda *_, **__: model)
    assert text.text_name(["a", "b", "c"]) == "--text a and 2 more"
    path = tmp_path / "short.txt"
    path.write_text(content)
    config = TrainConfig(model="m", text=(path,), hook=HOOK, context=CONTEXT)
    with pytest.raises(ConfigError, match=rf"--text \S*short\.txt was given, but it .*{said}"):
        open_language_model(config, device="cpu")


@pytest.mark.fault("text that cannot be used")
def test_a_folder_is_told_that_it_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it is a folder.* give those in it, such as .*/\*\.txt"):
        list(text.text_documents([tmp_path]))
    with pytest.raises(ConfigError, match=r"it is a folder"):  # before many runs fail one by one
        check_places(TrainConfig(model="m", text=(tmp_path,), hook=HOOK))


def test_the_start_token_falls_back_to_eos() -> None:
    assert text.bos_token(types.SimpleNamespace(bos_token_id=0, eos_token_id=2)) == 0
    assert text.bos_token(types.SimpleNamespace(bos_token_id=None, eos_token_id=2)) == 2
    with pytest.raises(ConfigError, match="no BOS"):
        text.bos_token(types.SimpleNamespace())


def fake_datasets(monkeypatch: pytest.MonkeyPatch, rows: list[dict] | Exception) -> list:
    asked: list = []

    def load_dataset(*args: object, **kwargs: object) -> list[dict]:
        asked.append((args, kwargs))
        if isinstance(rows, Exception):
            raise rows
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def texts(name: str) -> list[str]:
    return [document.text for group, _ in Dataset(name).read() for document in group]


def test_datasets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_datasets(monkeypatch, [{"id": "x", "text": "one"}, {"id": "y", "text": "two"}])
    assert texts("some/set:small") == ["one", "two"]
    assert asked[:1] == [(("some/set", "small"), {"split": "train", "streaming": True})]


@pytest.mark.fault("a dataset that cannot be used")
def test_datasets_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, [{"story": "one", "n": 1}])
    assert texts("a") == ["one"]
    fake_datasets(monkeypatch, [{"question": "q", "answer": "a"}])
    with pytest.raises(ConfigError, match=r"\['answer', 'question'\]"):
        texts("a")
    fake_datasets(monkeypatch, OSError("offline"))
    with pytest.raises(ConfigError, match=r"'a' cannot be read \(offline\)"):
        texts("a")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="pip install"):
        texts("a")


@pytest.mark.fault("a dataset that cannot be used")
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ValueError("Bad split: train. Available splits: ['test']"), "with a split 'train'"),
        (ValueError("Config name is missing."), "name:configuration"),
        (ConnectionError("Couldn't reach the Hub"), "check the network connection"),
        (FileNotFoundError("Dataset 'a' doesn't exist"), "check the name"),
        (RuntimeError("odd"), "a Hugging Face dataset"),
    ],
)
def test_advice_fits_why_a_dataset_cannot_be_read(
    error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_datasets(monkeypatch, error)
    with pytest.raises(ConfigError) as found:
        texts("a")
    said = str(found.value)
    assert str(error) in said and advice in said
    assert ("network" in said) == isinstance(error, ConnectionError)


# --- the source --------------------------------------------------------------------------------


def test_blocks_are_all_rows_but_bos(model: lm.LanguageModel, contexts: torch.Tensor) -> None:
    source = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=20)
    tokens = contexts[20:40]
    whole = model.activations(tokens, HOOK)
    block = source.block(1, "train")
    expected = torch.cat([x[t != model.bos] for x, t in zip(whole, tokens, strict=True)])
    assert (tokens[:, 1:] == model.bos).any(), "no separator in the sample"
    assert block.fired is None and source.truth is None
    assert block.x.dtype == torch.float32 and block.x.shape == (len(expected), source.d_in)
    torch.testing.assert_close(block.x, expected, atol=1e-5, rtol=1e-5)
    bos_row = whole[0, 0]
    assert (block.x - bos_row).abs().amax(dim=1).min() > 1e-3


def test_splits_do_not_overlap_and_eval_comes_last(
    model: lm.LanguageModel, contexts: torch.Tensor
) -> None:
    source = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=4)
    blocks = len(contexts) // 4
    assert source.n_blocks("train") + source.n_blocks("eval") == blocks
    assert source.n_blocks("eval") == max(1, round(blocks * 0.05))
    held_out = source.contexts("eval")
    assert torch.equal(held_out, contexts[: blocks * 4][-len(held_out) :])
    torch.testing.assert_close(
        source.block(0, "eval").x,
        model.activations(held_out[:4], HOOK)[held_out[:4] != model.bos],
        atol=1e-5,
        rtol=1e-5,
    )
    with pytest.raises(IndexError):
        source.block(source.n_blocks("eval"), "eval")
    with pytest.raises(IndexError):
        source.block(-1, "train")


@pytest.mark.fault("contexts without anything to predict")
@pytest.mark.parametrize("context", [3, 4, 16])
def test_text_without_two_tokens_in_a_row_is_refused_before_training(
    model: lm.LanguageModel, context: int
) -> None:
    contexts = text.pack_contexts(model.tokenizer, ["a", "b", "c"] * 200, context)
    with pytest.raises(ConfigError, match=rf"contexts of {context} tokens .* which predicting"):
        lm.LanguageModelSource(model, contexts, HOOK)


def test_rows_of_a_block_are_known_without_the_model(
    model: lm.LanguageModel, contexts: torch.Tensor
) -> None:
    source = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=3)
    for split, index in (("train", 0), ("train", 2), ("eval", 0)):
        assert source.rows_of(index, split) == len(source.block(index, split).x)


@pytest.mark.parametrize(("n", "train", "evaluation"), [(5, 4, 1), (9, 8, 1), (33, 4, 1)])
def test_little_text_makes_smaller_blocks(
    model: lm.LanguageModel, contexts: torch.Tensor, n: int, train: int, evaluation: int
) -> None:
    source = lm.LanguageModelSource(model, contexts[:n], HOOK)
    assert (source.n_blocks("train"), source.n_blocks("eval")) == (train, evaluation)


def test_eval_takes_at_most_a_fifth(model: lm.LanguageModel, contexts: torch.Tensor) -> None:
    source = lm.LanguageModelSource(
        model, contexts[:40], HOOK, contexts_per_block=4, eval_fraction=0.9
    )
    assert (source.n_blocks("train"), source.n_blocks("eval")) == (8, 2)


def test_values_do_not_depend_on_the_cache(model: lm.LanguageModel, contexts: torch.Tensor) -> None:
    kept = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=4)
    never = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=4, cache_bytes=0)
    first = kept.block(3, "train").x
    expected = first.clone()
    first.mul_(7)
    assert torch.equal(kept.block(3, "train").x, expected), "a caller changed the cache"
    assert torch.equal(never.block(3, "train").x, expected)
    assert torch.equal(never.block(3, "train").x, expected)


def test_a_second_epoch_does_not_run_the_model(
    model: lm.LanguageModel, contexts: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=4).block(0, "train").x
    source = lm.LanguageModelSource(
        model, contexts, HOOK, contexts_per_block=4, cache_bytes=size.numel() * 4 + 64
    )
    source.block(0, "train")
    source.block(1, "train")
    calls = []
    run = model.activations_at
    monkeypatch.setattr(model, "activations_at", lambda *a: (calls.append(1), run(*a))[1])
    source.block(0, "train")
    assert not calls
    source.block(1, "train")
    assert calls, "more was kept than cache_bytes"


def test_rows_can_be_trained_on(model: lm.LanguageModel, contexts: torch.Tensor) -> None:
    x = lm.LanguageModelSource(model, contexts, HOOK).block(0, "train").x
    weight = torch.nn.Parameter(torch.ones(x.shape[1]))
    (x * weight).sum().backward()
    assert weight.grad is not None and not x.requires_grad


@pytest.mark.fault("a language model that gives NaN")
def test_activations_that_are_not_finite(
    model: lm.LanguageModel, contexts: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=4)
    run = model.activations_at

    def broken(tokens: torch.Tensor, hooks: list[str]) -> dict[str, torch.Tensor]:
        found = run(tokens, hooks)
        for x in found.values():
            x[0, 6, 2] = float("nan")
        return found

    monkeypatch.setattr(model, "activations_at", broken)
    with pytest.raises(ConfigError, match=r"row 5 of train block 2 is not finite"):
        source.block(2, "train")


def test_sources_that_cannot_be_built(model: lm.LanguageModel, contexts: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="at least 5 contexts"):
        lm.LanguageModelSource(model, contexts[:4], HOOK)
    long = text.pack_contexts(model.tokenizer, tiny_llama.stories(), 65)
    with pytest.raises(ConfigError, match=r"--context 65 was given.*at most 64"):
        lm.LanguageModelSource(model, long, HOOK)
    with pytest.raises(ConfigError, match="token id 63 is outside the 63"):
        lm.LanguageModelSource(model, contexts.clamp(min=63), HOOK)
    with pytest.raises(ConfigError, match="contexts_per_block is 0"):
        lm.LanguageModelSource(model, contexts, HOOK, contexts_per_block=0)


# --- real data ---------------------------------------------------------------------------------


@needs_data
def test_stories260k_hidden_states(stories260k: lm.LanguageModel) -> None:
    documents = text.text_documents([DATA / "text" / "stories.txt"])
    rows = text.pack_contexts(stories260k.tokenizer, documents, 128, max_tokens=128 * 12)
    source = lm.LanguageModelSource(stories260k, rows, "blocks.3.hook_resid_post")
    assert source.d_in == 64
    tokens = source.contexts("eval")
    per_block = len(source.contexts_by_block.block(0, "eval").tokens)
    states = hidden_states(DATA / "stories260k", tokens)
    torch.testing.assert_close(
        source.block(0, "eval").x,
        states[4][:per_block][tokens[:per_block] != 1],
        atol=2e-4,
        rtol=1e-4,
    )


@needs_data
def test_unk_of_wikitext_is_no_token(stories260k: lm.LanguageModel) -> None:
    documents = text.text_documents([DATA / "text" / "wikitext2-valid.txt"])
    rows = text.pack_contexts(stories260k.tokenizer, documents, 128, max_tokens=20_000)
    assert (rows != stories260k.tokenizer.unk_token_id).all()
    assert (rows[:, 0] == 1).all()
