"""Persistent pairs: against the history, the weights and the codes, computed again."""

from __future__ import annotations

import io
import json
import shutil
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_ortho import cli, load_sae
from topk_ortho.activations import prepare
from topk_ortho.activations.source import GroundTruth
from topk_ortho.config import ConfigError
from topk_ortho.config.toml import read_config
from topk_ortho.constraint.history import PairHistory
from topk_ortho.inspect.pairs import PairAnalysis, analyse, as_text
from topk_ortho.inspect.pairs.contexts import Excerpt
from topk_ortho.inspect.pairs.text import printable
from topk_ortho.inspect.pairs.truth import identify, relation
from topk_ortho.metrics.ground_truth import match
from topk_ortho.training import train

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def codes(folder: Path) -> np.ndarray:
    """`[rows, d_sae]` on the held-out rows that the run was measured on."""
    config = read_config(folder / "config.toml")
    data, sae = prepare(config), load_sae(folder)
    blocks, rows = [], 0
    for index in range(data.source.n_blocks("eval") or 1):
        x = data.source.block(index, "eval").x[: config.eval_samples - rows]
        rows += len(x)
        blocks.append(sae.encode(x / data.scale).detach())
    return torch.cat(blocks).numpy()


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


@pytest.mark.parametrize("name", ["synthetic", "language", "planted"])
def test_figures_are_those_of_history_weights_and_codes(name, request):
    folder = request.getfixturevalue(name)
    found = analyse(folder, top=7)
    history = PairHistory.from_bytes((folder / "history.bin").read_bytes())
    top, acts = history.top(7), codes(folder)
    rows = load_sae(folder).W_dec.detach().double().numpy()
    assert (found.observations, found.table, found.rows) == (30, len(history), len(acts))
    assert found.missing is None
    assert len(found.pairs) == 7
    for at, pair in enumerate(found.pairs):
        for field in top._fields:
            assert getattr(pair, field) == getattr(top, field)[at]
        a, b = rows[pair.i], rows[pair.j]
        assert pair.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        fires = {f: acts[:, f] > 0 for f in (pair.i, pair.j)}
        assert pair.n_both == (fires[pair.i] & fires[pair.j]).sum()
        other = pair.i + pair.j - pair.rarer
        assert fires[pair.rarer].sum() <= fires[other].sum()
        assert pair.n_rarer == fires[pair.rarer].sum()
        assert pair.n_rarer_alone == (fires[pair.rarer] & ~fires[other]).sum()
    assert [f.feature for f in found.features] == sorted({*top.i.tolist(), *top.j.tolist()})
    for report in found.features:
        assert report.rate == pytest.approx((acts[:, report.feature] > 0).mean())


@pytest.mark.parametrize("name", ["synthetic", "planted"])
def test_true_features_are_the_runs_own(name, request):
    folder = request.getfixturevalue(name)
    found = analyse(folder, top=10, contexts=0)
    truth = prepare(read_config(folder / "config.toml")).source.truth
    W_dec = load_sae(folder).W_dec.detach()
    feature_of, cosine_of = match(W_dec, truth.directions)
    cosines = (truth.directions @ W_dec.T).numpy()
    for report in found.features:
        matched = (feature_of == report.feature).nonzero().flatten().tolist()
        identity = report.identity
        if matched:
            assert identity.matched.index == matched[0]
            assert identity.matched.cosine == float(cosine_of[matched[0]])
        else:
            assert identity.matched is None
        assert identity.nearest.index == cosines[:, report.feature].argmax()
        assert identity.nearest.cosine == pytest.approx(cosines[:, report.feature].max(), abs=1e-6)
    text = as_text(found)
    assert "true features" in text
    assert "parent" in text or "child" in text or "independent" in text


def test_identities_and_relations_by_hand():
    # 0 has the children 2 and 3, 1 has 4, 5 is independent; features in another order
    truth = GroundTruth(torch.eye(6), torch.tensor([-1, -1, 0, 0, 1, -1]))
    order = [5, 4, 3, 2, 1, 0]
    spare = torch.tensor([[0.6, 0.0, 0.8, 0.0, 0.0, 0.0]])
    found = identify(torch.cat([torch.eye(6)[order], spare]), truth, range(7))
    assert [found[f].matched.index for f in range(6)] == order
    assert [found[f].matched.kind for f in range(6)] == [
        "independent", "child", "child", "child", "parent", "parent",
    ]  # fmt: skip
    assert [found[f].matched.parent for f in range(6)] == [None, 1, 0, 0, None, None]
    assert found[6].matched is None
    assert (found[6].nearest.index, found[6].nearest.cosine) == (2, pytest.approx(0.8))
    expected = {
        (3, 5): "j is the parent of i",
        (5, 3): "i is the parent of j",
        (2, 3): "siblings",
        (1, 2): "unrelated",
        (4, 5): "unrelated",
        (0, 4): "unrelated",
        (1, 5): "unrelated",
        (3, 6): "unmatched",
    }
    for (i, j), name in expected.items():
        assert relation(found[i], found[j]) == name, (i, j)


def check_excerpt(excerpt: Excerpt, acts: np.ndarray, folder: Path) -> int:
    """Its row; fails unless token, surroundings and activation are those of that row."""
    language = prepare(read_config(folder / "config.toml")).language
    contexts, bos = language.contexts("eval"), language.model.bos
    ids = contexts[excerpt.context].tolist()
    place = [excerpt.context, excerpt.position]
    row = (contexts != bos).nonzero().tolist().index(place)
    assert excerpt.activation == pytest.approx(acts[row], rel=1e-5)
    decode = language.model.tokenizer.decode
    shown = excerpt.before + excerpt.token + excerpt.after
    assert shown in decode(ids[1:], clean_up_tokenization_spaces=False)
    assert excerpt.token.strip() == decode([ids[excerpt.position]]).strip()
    assert decode(ids[1 : excerpt.position]).endswith(excerpt.before)
    return row


def test_contexts_show_the_tokens_on_which_features_fire(language):
    found, acts = analyse(language, top=3, contexts=2), codes(language)
    for report in found.features:
        own = acts[:, report.feature]
        rows = [check_excerpt(e, own, language) for e in report.contexts]
        assert own[rows[0]] == own.max()
        assert len({e.context for e in report.contexts}) == len(rows) == 2
    shown = 0
    for pair in found.pairs:
        other = pair.i + pair.j - pair.rarer
        for excerpt in pair.rarer_alone:
            row = check_excerpt(excerpt, acts[:, pair.rarer], language)
            assert acts[row, other] == 0
            shown += 1
        assert bool(pair.rarer_alone) == (pair.n_rarer_alone > 0)
    assert shown
    text = as_text(found)
    assert "true features" not in text
    assert f"feature {found.features[0].feature} fires on" in text
    assert "is silent (" in text


def test_planted_runs_have_both_truth_and_contexts(planted):
    found = analyse(planted, top=2, contexts=1)
    assert all(f.identity is not None and len(f.contexts) == 1 for f in found.features)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_a_real_language_model(tmp_path):
    from tests.system.tiny_run import SHAPE, tiny

    stories = (DATA / "text" / "stories.txt").read_text(encoding="utf-8")[:20_000]
    (tmp_path / "stories.txt").write_text(stories, encoding="utf-8")
    options = ["--activations", "language-model", "--model", str(DATA / "stories260k"), "--text",
               str(tmp_path / "stories.txt"), "--hook", "blocks.3.hook_resid_post"]  # fmt: skip
    folder = tmp_path / "run"
    train(tiny("--context", "32", *options, base=SHAPE), folder, progress=False)
    found, acts = analyse(folder, top=2, contexts=1), codes(folder)
    for report in found.features:
        row = check_excerpt(report.contexts[0], acts[:, report.feature], folder)
        assert acts[row, report.feature] == acts[:, report.feature].max()


# --- data that is not there ----------------------------------------------------------------------


def test_without_its_text_a_run_still_shows_its_pairs(language, text, tmp_path):
    folder, moved = copied(language, tmp_path), text.with_suffix(".away")
    text.rename(moved)
    try:
        found = analyse(folder, top=3)
    finally:
        moved.rename(text)
    assert "stories.txt" in found.missing
    assert (found.rows, found.pairs[0].n_both, found.pairs[0].rarer) == (0, None, None)
    assert found.rates_from.startswith("the last training batches")
    assert all(f.rate > 0 and f.contexts == () for f in found.features)
    assert found.pairs[0].cosine == analyse(language, top=1).pairs[0].cosine
    assert "no held-out tokens: " in as_text(found)
    shutil.rmtree(folder / "checkpoints")
    text.rename(moved)
    try:
        bare = analyse(folder, top=3)
    finally:
        moved.rename(text)
    assert all(f.rate is None for f in bare.features)
    assert "-" in as_text(bare)


def test_other_data_than_the_runs_is_not_looked_at(language, text):
    original = text.read_text(encoding="utf-8")
    text.write_text("Zzz! ZZ zz.\n\n" * 200, encoding="utf-8")
    try:
        found = analyse(language, top=3)
    finally:
        text.write_text(original, encoding="utf-8")
    assert "not what the run was trained on" in found.missing
    assert found.rows == 0


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: shutil.rmtree(f), "a run folder with a config.toml"),
        (lambda f: (f / "result.json").unlink(), "--resume"),
        (lambda f: (f / "result.json").write_text("[1]"), "no JSON object"),
        (lambda f: (f / "result.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), "cannot be read"),
        (lambda f: (f / "history.bin").unlink(), "no history.bin"),
        (lambda f: (f / "history.bin").write_bytes(b"no history"), "not a readable history"),
        (lambda f: (f / "config.toml").write_text("seed = 3\n"), "was changed since"),
    ],
)
def test_a_folder_that_cannot_be_used_ends_in_one_sentence(
    synthetic, tmp_path, damage, says, capsys
):
    folder = copied(synthetic, tmp_path)
    damage(folder)
    assert cli.main(["pairs", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert str(folder) in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_arm_without_pairs_says_why(synthetic):
    with pytest.raises(ConfigError, match="criterion = none chooses no pairs"):
        analyse(synthetic / "baseline")


@pytest.mark.parametrize("how", [{"top": 0}, {"samples": 0}, {"contexts": -1}])
def test_numbers_that_make_no_sense_are_refused(synthetic, how):
    with pytest.raises(ConfigError, match=f"--{next(iter(how))} "):
        analyse(synthetic, **how)


# --- what is printed -----------------------------------------------------------------------------


@pytest.mark.fault("token strings that act on a terminal")
@given(st.text())
def test_printed_text_has_no_character_that_acts(text):
    shown = printable(text)
    assert all(unicodedata.category(c)[0] != "C" and c.isprintable() for c in shown)
    assert shown.encode("ascii", "backslashreplace").isascii()


def test_characters_that_act_are_escaped_and_others_kept():
    assert printable("a\nb\x1b[2J\u202e\u200b\\ é日") == r"a\nb\x1b[2J\u202e\u200b\\ é日"


def hostile(found: PairAnalysis) -> PairAnalysis:
    excerpt = Excerpt(0, 1, 1.0, "\x1b]0;x\x07", "\u202e\r", "</script>\n")
    features = tuple(replace(f, contexts=(excerpt,)) for f in found.features)
    return replace(found, features=features, missing="\x1b[31m")


@pytest.mark.fault("token strings that act on a terminal")
def test_tokens_cannot_reach_the_terminal(synthetic):
    found = hostile(analyse(synthetic, top=2))
    text = as_text(found)
    assert all(c == "\n" or c.isprintable() for c in text)
    assert r"\x1b]0;x\x07⟦\u202e\r⟧</script>\n" in text
    assert json.dumps(found.as_json()).isascii()


def test_the_command_prints_a_table_or_json(synthetic, capsys):
    assert cli.main(["pairs", str(synthetic), "--top", "4"]) == 0
    text = capsys.readouterr().out
    assert text == as_text(analyse(synthetic, top=4)) + "\n"
    assert cli.main(["pairs", str(synthetic), "--top", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        json.dumps(analyse(synthetic, top=4).as_json())
    )


def test_a_terminal_that_knows_only_ascii_gets_escapes(language, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["pairs", str(language), "--top", "1"]) == 0
    stream.flush()
    assert rb"\u27e6" in stream.buffer.getvalue()
