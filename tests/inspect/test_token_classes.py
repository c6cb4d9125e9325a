"""Classes from a file, random classes like them, the gate, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import tiny_llama
from tests.system.tiny_run import over
from topk_ortho import cli
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.models.remembering import Remembering
from topk_ortho.activations.text import pack_contexts, text_documents
from topk_ortho.config import ConfigError
from topk_ortho.formats import saelens
from topk_ortho.inspect.absorption.classes import TokenClasses, on, read_classes
from topk_ortho.inspect.absorption.gate import NOT_MEASURABLE, ProbedText, judge
from topk_ortho.inspect.absorption.random_classes import RandomClasses
from topk_ortho.metrics.probe import LinearProbe

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HOOK = "blocks.3.hook_resid_post"
BOS = 1


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama.shared())


def classes_file(folder: Path, text: str, name: str = "classes.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


ANIMALS = """
edges = ["any animal > dog", "any animal > cat", "dog > old dog"]

[classes]
"any animal" = [40, "fish"]
dog = ["dog"]
cat = ["cat", "Cat"]
"old dog" = ["old dog"]
"""


def test_a_parent_has_the_members_of_its_children(tmp_path, tokenizer):
    def ids(text):
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    path = classes_file(tmp_path, ANIMALS)
    found = read_classes(path, tokenizer, d_vocab=63)
    assert found.names == ("any animal", "dog", "cat", "old dog")
    assert found.edges == ((0, 1), (0, 2), (1, 3))
    assert found.members[3] == {ids("old dog"), ids(" old dog")}
    assert found.members[1] == {ids("dog"), ids(" dog")} | found.members[3]
    assert found.members[0] >= found.members[1] | found.members[2] | {(40,), ids(" fish")}
    table = {
        "edges": ["any animal > dog", "any animal > cat", "dog > old dog"],
        "classes": {"any animal": [40, "fish"], "dog": ["dog"], "cat": ["cat", "Cat"],
                    "old dog": ["old dog"]},
    }  # fmt: skip
    same = classes_file(tmp_path, json.dumps(table), "classes.json")
    assert read_classes(same, tokenizer, d_vocab=63) == found


def test_a_string_with_a_blank_before_it_is_only_that(tmp_path, tokenizer):
    text = 'edges = ["word > cat"]\n[classes]\nword = [" dog"]\ncat = ["c"]'
    found = read_classes(classes_file(tmp_path, text), tokenizer, d_vocab=63)
    assert tuple(tokenizer(" dog", add_special_tokens=False)["input_ids"]) in found.members[0]
    assert tuple(tokenizer("dog", add_special_tokens=False)["input_ids"]) not in found.members[0]
    assert found.members[1] == {tuple(tokenizer("c", add_special_tokens=False)["input_ids"])}


WRONG = {
    "no file": (None, "cannot be read"),
    "not TOML": ("edges = [", "cannot be read"),
    "no edges": ("[classes]\na = ['a']", "has ['classes']"),
    "empty edges": ("edges = []\n[classes]\na = ['a']", "no edge"),
    "an edge to nowhere": ("edges = ['d > cab']\n[classes]\nd = ['d']\ncat = ['c']", "meant cat"),
    "no arrow": ("edges = ['dog']\n[classes]\ndog = ['d']", "parent > child"),
    "twice": ("edges = ['d > c', 'd > c']\n[classes]\nd = ['d']\nc = ['c']", "twice"),
    "a circle": ("edges = ['d > c', 'c > d']\n[classes]\nd = ['d']\nc = ['c']", "d > c > d"),
    "no members": ("edges = ['d > c']\n[classes]\nd = []\nc = []", "'d' has no member"),
    "not a list": ("edges = ['d > c']\n[classes]\nd = 'd'\nc = ['c']", "expected a list"),
    "an id too large": ("edges = ['d > c']\n[classes]\nd = [63]\nc = ['c']", "0 to 62"),
    "a blank": ("edges = ['d > c']\n[classes]\nd = [' ']\nc = ['c']", "not blank"),
    "not to be spelled": ("edges = ['d > c']\n[classes]\nd = ['ж']\nc = ['c']", "cannot spell"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_cannot_be_used_is_refused(name, tmp_path, tokenizer):
    text, said = WRONG[name]
    path = tmp_path / "none.toml" if text is None else classes_file(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        read_classes(path, tokenizer, d_vocab=63)
    assert said in str(error.value)


def test_a_member_is_on_at_its_last_token_and_not_across_rows():
    contexts = torch.tensor([[1, 5, 6, 7, 5], [1, 6, 7, 5, 6]])
    assert on(contexts, [(5, 6), (7,)]).tolist() == [
        [False, False, True, True, False],
        [False, False, True, False, True],
    ]
    assert not on(contexts, [(5, 6, 7, 5, 6, 7)]).any()


def zipf(n: int, seed: int) -> torch.Tensor:
    """`[n, 33]` token ids from 2 on with rates 1 / rank, BOS first."""
    rng = torch.Generator().manual_seed(seed)
    rate = 1 / torch.arange(1, 101).double()
    body = torch.multinomial(rate, n * 32, replacement=True, generator=rng).view(n, 32) + 2
    return torch.cat([torch.full((n, 1), BOS), body], dim=1)


def test_random_classes_have_the_size_and_about_the_frequency():
    contexts = zipf(400, 0)
    random = RandomClasses(contexts, bos=BOS)
    members = frozenset({(10,), (20,), (21,), (30,), (60,), (5, 4), (999,)})
    there = random.present(members)
    assert there == members - {(999,)}
    rng = torch.Generator().manual_seed(0)
    frequency = on(contexts, there).double().mean()
    drawn = [random.draw(there, rng) for _ in range(50)]
    assert len(set(drawn)) > 45
    for other in drawn:
        assert not other & members
        assert sorted(map(len, other)) == sorted(map(len, there))
        assert not any(BOS in member for member in other)
        assert 0.75 < on(contexts, other).double().mean() / frequency < 1.35
    assert len(random.draw(frozenset((t,) for t in range(2, 60)), rng)) < 58


def embedded(contexts: torch.Tensor, direction: torch.Tensor, members) -> torch.Tensor:
    """Activations that hold which token it is and, on a class, one direction more."""
    rng = torch.Generator().manual_seed(7)
    table = torch.randn(102, 24, generator=rng)
    x = table[contexts] + 1.5 * on(contexts, members)[..., None] * direction
    x = x + 0.3 * torch.randn(x.shape, generator=rng)
    return x[contexts != BOS]


def probed(members) -> ProbedText:
    halves = {"train": zipf(150, 1), "eval": zipf(150, 2)}
    direction = torch.randn(24, generator=torch.Generator().manual_seed(8))
    rows = [embedded(halves[half], direction, members) for half in ("train", "eval")]
    return ProbedText(halves, BOS, LinearProbe(*rows))


def test_the_gate_tells_a_class_of_the_model_from_one_drawn_by_lot():
    real = frozenset((t,) for t in (12, 18, 25, 31, 40, 44, 52, 58))
    text = probed(real)
    random = RandomClasses(torch.cat([*text.contexts.values()]), bos=BOS)
    rng = torch.Generator().manual_seed(3)
    drawn = [random.draw(real, rng) for _ in range(20)]
    classes = TokenClasses(
        ("real", *(f"random {i}" for i in range(20)), "one", "rare"),
        (real, *drawn, frozenset({(12,)}), frozenset({(1000,), (1001,)})),
        ((0, 21),),
    )
    first, *others, one, rare = judge(classes, text, draws=19, seed=0)
    assert first.verdict == "measurable"
    assert first.probe_f1 > max(first.random_f1)
    assert len(first.random_f1) == 19
    assert first.random_frequency == pytest.approx(first.frequency, rel=0.3)
    passed = [verdict for verdict in others if verdict.verdict == "measurable"]
    assert len(passed) <= 4  # binomial with p = 1/20: more than 4 of 20 have a chance of .3 %
    refused = next(v for v in others if v.verdict == NOT_MEASURABLE)
    assert "of 19 random classes" in refused.why
    assert not refused.counts
    assert (one.verdict, one.counts, one.counts_as_child) == ("one member", False, True)
    assert (rare.verdict, rare.probe_f1, rare.members) == (NOT_MEASURABLE, None, 0)


def test_a_class_of_nearly_all_tokens_is_told_that_too_few_others_are_left():
    most = frozenset((t,) for t in range(2, 60))
    text = probed(most)
    everything = TokenClasses(("most", "few"), (most, frozenset({(12,), (18,)})), ((0, 1),))
    most_of_it, few = judge(everything, text, draws=3, seed=0)
    assert most_of_it.why == "the text has too few other tokens to draw random classes from"
    assert (most_of_it.verdict, most_of_it.random_f1) == (NOT_MEASURABLE, ())
    assert most_of_it.probe_f1 is not None
    assert not most_of_it.counts and not most_of_it.counts_as_child
    assert len(few.random_f1) == 3


def test_a_class_that_is_seldom_on_is_told_how_many_tokens_it_needs():
    seldom = frozenset({(98,)})
    text = probed(seldom)
    fewest = min(int(text.on(seldom, half).sum()) for half in ("train", "eval"))
    assert 0 < fewest < 20
    (verdict,) = judge(TokenClasses(("seldom",), (seldom,), ()), text, draws=3, seed=0)
    assert verdict.why == f"on for {fewest} tokens of one half, and 20 are needed"
    assert verdict.probe_f1 is None


def sae_folder(folder: Path, d_in: int, *, healthy: bool, hook: str = "") -> Path:
    """`relu(x)` and `relu(-x)` reconstruct x; with small decoder rows they do not."""
    eye = torch.eye(d_in)
    W_enc = torch.cat([eye, -eye], dim=1)
    return saelens.export(
        folder,
        kind="relu",
        W_enc=W_enc,
        b_enc=torch.zeros(2 * d_in),
        W_dec=W_enc.T * (1.0 if healthy else 0.05),
        b_dec=torch.zeros(d_in),
        threshold=None,
        k=None,
        hook=hook,
        model="",
    )


def command(folder: Path, sae: Path, *more: str) -> list[str]:
    text = classes_file(folder, "\n\n".join(tiny_llama.stories(120)), "text.txt")
    classes = classes_file(
        folder,
        'edges = ["vowel > e", "vowel > o"]\n[classes]\n'
        'vowel = ["a", "i", "u"]\ne = ["e"]\no = ["o"]',
    )
    return ["absorption", str(sae), "--model", str(tiny_llama.shared()), "--text", str(text),
            "--hook", "blocks.1.hook_resid_post", "--classes", str(classes), "--context", "32",
            *more]  # fmt: skip


def test_the_command_prints_a_table_and_writes_the_same_as_json(tmp_path, capsys):
    sae, out = sae_folder(tmp_path / "sae", tiny_llama.D_MODEL, healthy=True), tmp_path / "a.json"
    assert cli.main([*command(tmp_path, sae, "--draws", "3"), "--out", str(out)]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert [verdict["name"] for verdict in found["classes"]] == ["vowel", "e", "o"]
    vowel, *children = found["classes"]
    assert [child["verdict"] for child in children] == ["one member"] * 2
    assert (vowel["members"], len(vowel["random_f1"])) == (4, 3)  # the text has no u
    assert 0 < vowel["probe_f1"] <= 1
    edges = found["absorption"]["edges"]
    assert [(e["parent_name"], e["child_name"]) for e in edges] == [("vowel", "e"), ("vowel", "o")]
    assert found["measurable"] == (vowel["verdict"] == "measurable") == edges[0]["eligible"]
    assert found["absorption"]["summary"]["edges_total"] == 2
    assert found["figures"]["explained_variance"] > 0.999
    assert found["invalid"] is None
    assert "vowel > e" in printed
    assert "invalid" not in printed
    if found["measurable"]:
        assert f"excess {found['absorption']['summary']['excess']:.3f}" in printed
    else:
        assert f"absorption: {NOT_MEASURABLE} (0 of 2 edges eligible)" in printed


def test_an_sae_of_another_width_is_refused_before_any_is_measured(tmp_path, capsys):
    good = sae_folder(tmp_path / "good", tiny_llama.D_MODEL, healthy=True)
    wide = sae_folder(tmp_path / "wide", tiny_llama.D_MODEL + 1, healthy=True)
    verb, first, *rest = command(tmp_path, good)
    assert cli.main([verb, first, str(wide), *rest]) == 2
    caught = capsys.readouterr()
    assert f"the SAE {wide} has d_in {tiny_llama.D_MODEL + 1}" in caught.err
    assert caught.out == ""


def test_without_contexts_there_is_no_ce_score(tmp_path, capsys):
    sae = sae_folder(tmp_path / "sae", tiny_llama.D_MODEL, healthy=True)
    assert (
        cli.main([*command(tmp_path, sae, "--draws", "1"), "--eval-contexts", "4", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["figures"]["ce_score"] > 0.99
    assert (
        cli.main([*command(tmp_path, sae, "--draws", "1"), "--eval-contexts", "0", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert "ce_score" not in found["figures"]
    assert found["invalid"] is None


def test_absorption_of_an_unhealthy_sae_is_marked_invalid(tmp_path, capsys):
    sae = sae_folder(tmp_path / "an\nsae", tiny_llama.D_MODEL, healthy=False)
    assert cli.main([*command(tmp_path, sae, "--draws", "1"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "explained variance" in found["invalid"]
    assert cli.main(command(tmp_path, sae, "--draws", "1")) == 0
    printed = capsys.readouterr().out
    assert f"* invalid: {found['invalid']}" in printed
    assert "/an\\nsae at " in printed.splitlines()[0], "a name breaks no line"


def test_several_saes_are_measured_as_each_alone_and_probed_once(tmp_path, capsys, monkeypatch):
    good, bad = (
        sae_folder(tmp_path / name, tiny_llama.D_MODEL, healthy=name == "good")
        for name in ("good", "bad")
    )
    alone = []
    for sae in (good, bad):
        assert cli.main([*command(tmp_path, sae, "--draws", "2"), "--json"]) == 0
        alone.append(json.loads(capsys.readouterr().out))
    probes = []
    fit = LinearProbe.f1
    monkeypatch.setattr(LinearProbe, "f1", lambda *a, **k: probes.append(1) or fit(*a, **k))
    passes = []
    run = Remembering.run_with_hooks
    monkeypatch.setattr(
        Remembering, "run_with_hooks", lambda *a, **k: passes.append(1) or run(*a, **k)
    )
    verb, first, *rest = command(tmp_path, good, "--draws", "2")
    assert cli.main([verb, first, str(bad), *rest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"saes": alone}
    assert len(probes) == 3 + 2  # each class, and the random ones of `vowel`
    batches = len(passes) // 6
    assert len(passes) == (4 + 2) * batches > 0  # the second: its own and the original alone
    assert cli.main([verb, first, str(bad), *rest]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == [str(good), f"{bad}*"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--draws", "0"], "--draws 0"),
        (["--tokens", "0"], "--tokens 0"),
        (["--context", "65"], "at most 64 tokens"),
        (["--out", "none/a.json"], "--out none/a.json was given"),
        (["--hook", "blocks.1.attn.hook_q"], "width"),
    ],
)
def test_options_that_cannot_be_used_are_refused(more, said, tmp_path, capsys):
    d_in = tiny_llama.D_MODEL + ("attn" in more[1])
    sae = sae_folder(tmp_path / "sae", d_in, healthy=True)
    assert cli.main(over(command(tmp_path, sae), *more)) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert said in error


@pytest.mark.fault("an SAE of another hook point or model")
def test_an_sae_of_another_hook_is_refused_before_the_model_loads(tmp_path, capsys):
    hook = "blocks.0.hook_resid_post"
    sae = sae_folder(tmp_path / "sae", tiny_llama.D_MODEL, healthy=True, hook=hook)
    assert cli.main(command(tmp_path, sae)) == 2
    assert f"names {hook} as its own; give that one" in capsys.readouterr().err


PRONOUNS = """
edges = ["pronoun > she", "by lot > was"]

[classes]
pronoun = ["it", "you", "we", "He", "She", "They", " he", "they", "I"]
she = ["she"]
"by lot" = ["ou", "with", "play", "nd", "ck", "to", "day"]
was = ["was"]
"""


@pytest.mark.skipif(not DATA.exists(), reason=f"the language model is not at {DATA}")
def test_on_a_small_model_a_plain_gate_passes_classes_drawn_by_lot(tmp_path):
    model = LanguageModel.load(DATA / "stories260k")
    documents = text_documents([DATA / "text" / "stories.txt"])
    contexts = pack_contexts(model.tokenizer, documents, 128, max_tokens=20_000)
    halves = {"train": contexts[:78], "eval": contexts[78:]}
    x = {half: model.activations(c, HOOK)[c != model.bos] for half, c in halves.items()}
    probe = LinearProbe(x["train"], x["eval"])
    text = ProbedText(halves, model.bos, probe)
    path = classes_file(tmp_path, PRONOUNS)
    classes = read_classes(path, model.tokenizer, d_vocab=model.d_vocab)
    pronoun, she, by_lot, _ = judge(classes, text, draws=19, seed=0)
    assert pronoun.verdict == "measurable"
    assert she.verdict == "one member"
    assert by_lot.verdict == NOT_MEASURABLE
    # A plain bar of .6 would let many sets of three tokens pass that mean nothing.
    random = RandomClasses(contexts, bos=model.bos)
    frequent = frozenset((model.tokenizer.convert_tokens_to_ids(t),) for t in (".", ",", "▁and"))
    rng = torch.Generator().manual_seed(0)
    drawn = [random.draw(frequent, rng) for _ in range(20)]
    f1 = [probe.f1(text.on(d, "train"), text.on(d, "eval")) for d in drawn]
    assert sum(value > 0.6 for value in f1) >= 10, f1
