"""Selection, penalty and step on a pretended GPU: devices never mixed, every wait listed.

The lists are exact on purpose. A line that is added here costs a GPU a round trip on every step;
one that goes away is a gain: take it out.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.cuda.pretend import Pretend, pretend, waits
from tests.training.states import D_IN, Gaussian
from topk_ortho import OrthogonalityPenalty, PairSelector
from topk_ortho.activations import Activations
from topk_ortho.config.rules import check
from topk_ortho.config.toml import from_table
from topk_ortho.constraint.criteria import CRITERIA
from topk_ortho.constraint.penalty.orthogonality import TAUS
from topk_ortho.sae import ARCHITECTURES, build
from topk_ortho.training import evaluation
from topk_ortho.training.finite import NotFiniteError
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import Step, train_step

BATCH, D_SAE, WIDTH = 24, 400, 8

READ, HOST = "_local_scalar_dense", "copy to the host"
CODES = {("scores", "nonzero"): 1, ("scores", "tolist"): 1}
"""Of a dense batch: its entries, and the check that they are finite and not negative."""
BEST = {("selection", READ): 5, ("selection", "index"): 3}
PRODUCTS = {("scores", READ): 1}
"""How many products there are, where rows differ."""
SELECTION: dict[str, Counter[tuple[str, str]]] = {
    "coactivation": Counter(CODES) + Counter(PRODUCTS),
    "coactive-cosine": Counter(CODES) + Counter(PRODUCTS),
    "decoder-cosine": Counter(CODES)
    + Counter(BEST)
    + Counter({("scores", READ): 3, ("scores", "nonzero"): 2}),
    "magnitude": Counter(CODES) + Counter({("scores", READ): 1, ("scores", HOST): 1}),
    "random": Counter(CODES),
}
PENALTY = {("penalty", "tolist"): 1}
"""The check of pairs that come from elsewhere."""
STEP: dict[str, Counter[tuple[str, str]]] = {
    "topk": Counter(),
    "batch-topk": Counter(PRODUCTS),
    "matryoshka": Counter(PRODUCTS),
}
"""Of a step in torch alone; ReLU and JumpReLU count their entries besides. In Triton, none."""


def evidence() -> tuple[Tensor, dict[str, Tensor]]:
    """A batch of sparse codes, and everything that a criterion may look at."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    acts = torch.rand(BATCH, D_SAE, generator=generator)
    acts = acts * (acts > 0.98)
    return acts, {
        "W_dec": normal(D_SAE, WIDTH),
        "W_enc": normal(WIDTH, D_SAE),
        "x": normal(BATCH, WIDTH),
        "pre": normal(BATCH, D_SAE),
        "gradient": normal(BATCH, D_SAE),
        "threshold": normal(D_SAE).abs(),
        "energy": normal(D_SAE).abs(),
    }


@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_a_selection_on_the_device_is_that_on_cpu(criterion: str, gpu: torch.device) -> None:
    acts, given = evidence()
    how = {"per_feature": 0.5, "min_support": 1, "given": (9, 3, 5, 7)}
    select = PairSelector(criterion, backend="torch", **how)
    given = {name: tensor for name, tensor in given.items() if name in select.required_inputs}
    expected = select(acts, **given)
    there = {name: pretend(tensor) for name, tensor in given.items()}
    waits.clear()
    got = PairSelector(criterion, **how)(pretend(acts), **there)
    if criterion in SELECTION:
        assert waits == SELECTION[criterion]
    assert len(got) == len(expected) > 0
    for name in ("i", "j", "score"):
        column = getattr(got, name)
        assert isinstance(column, Pretend)
        assert torch.equal(column.cpu(), getattr(expected, name))


@pytest.mark.parametrize("gradient", ["child-only", "symmetric"])
@pytest.mark.parametrize("tau", TAUS)
def test_a_penalty_on_the_device_is_that_on_cpu(tau: str, gradient: str, gpu: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    W, rate = (torch.randn(D_SAE, WIDTH, generator=generator), torch.rand(D_SAE))
    i = torch.randint(0, D_SAE - 1, (900,), generator=generator)
    score, ema = torch.rand(900) + 0.1, torch.rand(900)

    def cost(here) -> tuple[Tensor, Tensor]:
        rows = torch.nn.Parameter(here(W))
        pairs = SimpleNamespace(i=here(i), j=here(i + 1), score=here(score))
        penalty = OrthogonalityPenalty(tau, gradient=gradient, backend="torch")
        value = penalty(rows, pairs, firing_rate=here(rate), ema=here(ema))
        value.backward()
        return value.detach(), rows.grad

    value, grad = cost(Tensor.clone)
    waits.clear()
    there, grad_there = cost(pretend)
    assert waits == Counter(PENALTY)
    assert isinstance(there, Pretend) and isinstance(grad_there, Pretend)
    assert torch.equal(there.cpu(), value) and torch.equal(grad_there.cpu(), grad)


def run_steps(device: torch.device, n: int = 4, **sae: object) -> tuple[TrainState, Step]:
    """A state after `n` steps on the dense path, and the last of them."""
    table = {"steps": 100, "batch_size": 32, "buffer_rows": 256, "warmup_steps": 0,
             "sae": {"d_sae": 256, "k": 4.0, "dead_after": 1, **sae},
             "pairs": {"per_feature": 0.25}}  # fmt: skip
    data = Activations(Gaussian(), scale=1.0, variance=float(D_IN), mean=torch.zeros(D_IN))
    state = TrainState.fresh(check(from_table(table)), data, device)
    for _ in range(n):
        state.density = 1.0
        waits.clear()
        step = train_step(state, state.buffer.next().to(device, non_blocking=True))
    return state, step


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("kind", ARCHITECTURES.names())
def test_a_step_on_the_device_is_that_on_cpu(kind: str, gpu: torch.device) -> None:
    expected, last = run_steps(torch.device("cpu"), kind=kind)
    state, step = run_steps(gpu, kind=kind)
    assert isinstance(step.loss, Pretend) and isinstance(step.penalty, Pretend)
    torch.testing.assert_close(step.loss.cpu(), last.loss)
    for name, parameter in state.sae.named_parameters():
        assert isinstance(parameter.grad, Pretend), name
        torch.testing.assert_close(
            parameter.detach().cpu(), dict(expected.sae.named_parameters())[name].detach()
        )


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("kind", STEP)
def test_the_waits_of_a_step_are_these(kind: str, gpu: torch.device) -> None:
    run_steps(gpu, kind=kind)
    assert waits == STEP[kind], waits - STEP[kind] or STEP[kind] - waits


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("kind", ["topk", "batch-topk"])
def test_a_step_with_kernels_waits_for_nothing(
    kind: str, kernels: Counter[str], gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topk_ortho.constraint.selection.owners.PROGRAMS", 8)
    monkeypatch.setattr("topk_ortho.constraint.selection.owners.HUBS", 8)
    expected, last = run_steps(torch.device("cpu"), n=2, kind=kind)
    state, step = run_steps(gpu, n=2, kind=kind)
    assert not waits
    assert kernels["accumulate"] == 2 * 4 and kernels["pair_penalty"] == 2
    assert state.constraint.selection.path == "owners"
    torch.testing.assert_close(step.loss.cpu(), last.loss)
    torch.testing.assert_close(step.penalty.cpu(), last.penalty)
    torch.testing.assert_close(state.sae.W_dec.detach().cpu(), expected.sae.W_dec.detach())
    recorded = state.constraint.history.top(5), expected.constraint.history.top(5)
    assert recorded[0].i.tolist() == recorded[1].i.tolist()


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_step_that_is_not_finite_moves_nothing_and_is_raised_by_the_next(
    gpu: torch.device,
) -> None:
    state, _ = run_steps(gpu, kind="topk")
    before = {name: p.detach().cpu() for name, p in state.sae.named_parameters()}
    bad = state.buffer.next()
    bad[3, 1] = torch.inf
    train_step(state, bad.to(gpu))
    for name, parameter in state.sae.named_parameters():
        torch.testing.assert_close(parameter.detach().cpu(), before[name], rtol=0, atol=1e-6)
    with pytest.raises(NotFiniteError, match=r"step 4: x \(the activations\) is not finite"):
        train_step(state, state.buffer.next().to(gpu))


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_evaluation_and_checkpoint_mix_no_devices(gpu: torch.device, monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "CALIBRATION_ROWS", 256)
    state, _ = run_steps(gpu)
    evaluation.calibrate(state.sae, state.buffer.fork())
    figures, _ = evaluation.evaluate(state.sae, state.data, samples=300)
    assert figures["rows"] == 300 and 0 < figures["l0"] < 256
    stored = {name: t.cpu() if isinstance(t, Pretend) else t for name, t in state.tensors().items()}
    other, _ = run_steps(gpu, n=1)
    other.restore(stored, state.numbers(), state.history())
    assert other.unread is None and other.firing.counted is None  # both were of its own past
    batch = state.buffer.next().to(gpu)
    again, there = train_step(state, batch), train_step(other, batch)
    assert torch.equal(again.loss.cpu(), there.loss.cpu())


class Autocast:
    """`torch.autocast("cuda", bfloat16)`, which switches itself off where there is no GPU."""

    def __enter__(self) -> None:
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_fake_tensors_give_bfloat16_products_and_a_float32_penalty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's own rules for shapes, types and devices of CUDA tensors.

    For the sampled product of a CSR matrix it has kernels on CPU and CUDA, but no such rules.
    """
    monkeypatch.setattr(
        "topk_ortho.constraint.penalty.cosine.dots", lambda crow, col, a, b: a.new_empty(col.shape)
    )
    config = check(from_table({"sae": {"d_sae": 256, "k": 4.0, "kind": "topk"}})).sae
    with FakeTensorMode():
        sae = build(config, d_in=D_IN, seed=0)
        for name, parameter in list(sae.named_parameters()):
            there = torch.empty(parameter.shape, device="cuda")
            setattr(sae, name, torch.nn.Parameter(there))
        x = torch.randn(32, D_IN, device="cuda")
        with Autocast():
            pre = sae.pre_acts(x)
            acts = sae.activate(pre)
            x_hat = sae.reconstructions(acts)[-1]
            i = torch.arange(100, device="cuda")
            pairs = SimpleNamespace(i=i, j=i + 1, score=torch.rand(100, device="cuda"))
            penalty = OrthogonalityPenalty("mean-std", gradient="symmetric")
            with torch.autocast("cuda", enabled=False):
                cosine = penalty._cosines(sae.W_dec, pairs.i, pairs.j, None)
                tau, weight = penalty._tau_and_weight(sae.W_dec.detach(), cosine, pairs.score, None)
        for tensor in (pre, acts, x_hat, cosine, tau, weight):
            assert tensor.device.type == "cuda"
        assert pre.dtype == acts.dtype == x_hat.dtype == torch.bfloat16
        assert cosine.dtype == torch.float32 and cosine.shape == tau.shape == (100,)
