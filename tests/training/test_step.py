"""One step: what it moves, what it leaves alone, and what stops it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import topk_ortho.train as command
from tests.system.tiny_run import OPTIONS, over, tiny
from tests.training.states import BATCH, D_SAE, state, weights
from topk_ortho.activations import ShuffleBuffer
from topk_ortho.checkpoint import store
from topk_ortho.sae import SAE
from topk_ortho.training import step as step_module
from topk_ortho.training import train
from topk_ortho.training.finite import NotFiniteError
from topk_ortho.training.step import train_step

KINDS = ("topk", "batch-topk", "relu", "matryoshka")


def steps(s, n: int) -> list[float]:
    return [float(train_step(s, s.buffer.next()).loss) for _ in range(n)]


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_rows_stay_unit_vectors_and_the_loss_falls(kind):
    s = state(sae={"kind": kind})
    losses = steps(s, 40)
    torch.testing.assert_close(s.sae.W_dec.norm(dim=1), torch.ones(D_SAE))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert s.step == 40


def test_the_gradient_has_no_part_along_a_row(monkeypatch):
    s = state()
    steps(s, 3)
    seen = []
    optimise = s.optimizer.step

    def look(lr):
        seen.append(((s.sae.W_dec.grad * s.sae.W_dec).sum(1), s.sae.W_dec.grad.norm(dim=1)))
        optimise(lr)

    monkeypatch.setattr(s.optimizer, "step", look)
    steps(s, 1)
    ((along, size),) = seen
    assert size.max() > 1e-3
    assert along.abs().max() < 1e-5 * size.max()


def test_the_loss_is_the_sum_of_its_terms():
    s = state(sae={"kind": "relu", "dead_after": 0}, penalty={"ramp": 0.0})
    steps(s, 5)
    with torch.no_grad():
        s.sae.b_enc[3] = -50.0  # dead from the next step on
    for _ in range(3):
        done = train_step(s, s.buffer.next())
    assert done.aux > 0
    assert done.penalty > 0
    expected = (
        done.l2
        + done.sparsity_coefficient * done.out.code.sum(1).mean()
        + s.config.sae.aux_coefficient * done.aux
        + done.penalty
    )
    torch.testing.assert_close(done.loss, expected.detach())


def test_the_learning_rate_is_the_schedules(monkeypatch):
    s = state(warmup_steps=10, lr=0.01)
    used, optimise = [], s.optimizer.step
    monkeypatch.setattr(s.optimizer, "step", lambda lr: (used.append(lr), optimise(lr)))
    assert train_step(s, s.buffer.next()).lr == pytest.approx(0.001)
    steps(s, 9)
    assert (used[0], used[-1]) == pytest.approx((0.001, 0.01))


@pytest.mark.parametrize("gradient", ["child-only", "symmetric"])
def test_the_penalty_moves_only_the_rarer_feature_of_a_pair(gradient, monkeypatch):
    """The decoder's gradient with the penalty, less the one without it."""
    gradients = []
    for coefficient in (0.0, 50.0):
        s = state(
            penalty={"gradient": gradient, "ramp": 0.0, "coefficient": coefficient},
            pairs={"max_pairs": 1},
            grad_clip=0.0,
        )
        with torch.no_grad():
            s.sae.W_dec[:] = torch.nn.functional.normalize(s.sae.W_dec + 0.5, dim=1)
        monkeypatch.setattr(SAE, "remove_parallel_gradient_", lambda self: None)
        monkeypatch.setattr(s.optimizer, "step", lambda lr: None)
        x = s.buffer.next()
        train_step(s, x)
        gradients.append(s.sae.W_dec.grad.clone())
        rate, pair = s.firing.rate, s.constraint.selection
    moved = (gradients[1] - gradients[0]).abs().sum(1) > 1e-6
    i, j = int(pair.i), int(pair.j)
    child = i if rate[i] < rate[j] else j
    expected = [child] if gradient == "child-only" else [i, j]
    assert moved.nonzero().flatten().tolist() == expected


def test_a_large_gradient_is_scaled_down(monkeypatch):
    s = state(grad_clip=0.01)
    norms = []
    optimise = s.optimizer.step

    def look(lr):
        norms.append(torch.cat([p.grad.flatten() for p in s.sae.parameters()]).norm())
        optimise(lr)

    monkeypatch.setattr(s.optimizer, "step", look)
    steps(s, 1)
    assert float(norms[0]) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.fault("a batch that is not finite")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_bad_activations_stop_before_anything_moves(value):
    s = state()
    steps(s, 5)
    before, x = weights(s), s.buffer.next()
    x[3, 2] = value
    with pytest.raises(NotFiniteError, match=r"step 5: ") as stop:
        train_step(s, x)
    named = "x (the activations)" if value != 1e30 else "the loss"
    assert named in str(stop.value)
    assert torch.equal(stop.value.batch.nan_to_num(), x.nan_to_num())
    for name, after in weights(s).items():
        assert torch.equal(after, before[name]), name
    assert s.step == 5


@pytest.mark.fault("a weight that is not finite")
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_dec"])
def test_a_bad_weight_is_named(name):
    s = state()
    with torch.no_grad():
        getattr(s.sae, name).view(-1)[1] = float("nan")
    with pytest.raises(NotFiniteError, match=rf"{name} is not finite"):
        train_step(s, s.buffer.next())


@pytest.mark.fault("a gradient that is not finite")
def test_a_bad_gradient_is_named_before_the_optimiser(monkeypatch):
    s = state()
    before = weights(s)
    normal = step_module.losses.reconstruction

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    monkeypatch.setattr(
        step_module.losses, "reconstruction", lambda x, x_hat: Poison.apply(normal(x, x_hat))
    )
    with pytest.raises(NotFiniteError, match="the gradient of"):
        train_step(s, s.buffer.next())
    for name, after in weights(s).items():
        assert torch.equal(after, before[name]), name


@pytest.mark.fault("a batch that is not finite")
def test_a_run_that_meets_nan_writes_the_batch_aside_and_keeps_its_checkpoint(
    tmp_path, monkeypatch, capsys
):
    calm = ShuffleBuffer.next_batch
    count = 0

    def poisoned(self, **how):
        nonlocal count
        count += 1
        batch = calm(self, **how)
        return batch._replace(x=batch.x * float("nan")) if count == 31 else batch

    monkeypatch.setattr(ShuffleBuffer, "next_batch", poisoned)
    out = tmp_path / "run"
    assert command.main(over(OPTIONS, "--out", str(out))) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert "step 30: x (the activations) is not finite" in lines[0]
    bad = load_file(out / "bad_batch.safetensors")["x"]
    assert bad.shape == (BATCH, 24)
    assert bad.isnan().all()
    newest = store.newest(out / "checkpoints")
    assert newest is not None
    assert newest.step == 20
    assert all(t.isfinite().all() for t in newest.tensors.values() if t.is_floating_point())
    assert not (out / "result.json").exists()


@pytest.mark.fault("a loss that explodes")
def test_a_run_that_diverges_names_the_learning_rate(tmp_path, capsys):
    assert command.main(over(OPTIONS, "--lr", "1e30", "--out", str(tmp_path / "r"))) == 1
    assert "Lower --lr" in capsys.readouterr().err.splitlines()[-1]


def test_rows_that_are_zero_and_features_that_are_dead_are_no_error():
    s = state(sae={"dead_after": 0})
    with torch.no_grad():
        s.sae.W_dec[5] = 0
        s.sae.b_enc[:] = -1000.0
    done = train_step(s, s.buffer.next())
    assert done.out.code.sum() == 0
    assert done.loss.isfinite()
    assert all(p.isfinite().all() for p in s.sae.parameters())
    steps(s, 3)


def test_a_selection_that_takes_nearly_everything_warns_once(tmp_path):
    with pytest.warns(UserWarning, match="hardly anything is being selected") as caught:
        train(tiny("--pairs.per-feature", "30", "--steps", "20"), tmp_path / "r", progress=False)
    assert len([w for w in caught if "hardly anything" in str(w.message)]) == 1


def test_a_run_of_one_row_per_batch(tmp_path, capsys):
    """The explained variance of one row is undefined, not an error."""
    arguments = over(OPTIONS, "--batch-size", "1", "--steps", "5", "--log-every", "1")
    assert command.main([*arguments, "--out", str(tmp_path / "r")]) == 0
    assert "EV -" in capsys.readouterr().err
