"""The penalty in a plain loop equals the standalone selection and penalty, whatever the loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.integrations.standalone import (
    AT_ONCE,
    BATCH,
    D_IN,
    D_SAE,
    batch,
    codes,
    decoder,
    expected,
    same_pairs,
)
from topk_ortho import ConfigError, Orthogonality, OrthogonalityConfig
from topk_ortho.activations.scaling import ESTIMATION_ROWS, total_variance
from topk_ortho.config import HistoryConfig, PairsConfig, PenaltyConfig
from topk_ortho.constraint.settings import decided_by
from topk_ortho.constraint.variance import RunningVariance
from topk_ortho.sparse.codes import Codes

GIVEN = replace(AT_ONCE, variance=5.0)


def test_pairs_penalty_and_gradient_are_the_standalone_ones() -> None:
    acts, W_dec = codes(), decoder()
    penalty = Orthogonality(GIVEN)
    cost = penalty(acts, W_dec, 0)
    cost.backward()
    pairs, value, gradient = expected(acts, W_dec, variance=5.0)
    same_pairs(penalty.selection, pairs)
    assert torch.equal(cost.detach(), value)
    assert torch.equal(W_dec.grad, gradient)
    assert torch.equal(penalty.value, value)


def test_features_may_be_rows_or_columns() -> None:
    acts, W_dec = codes(), decoder()
    columns = W_dec.detach().T.clone().requires_grad_()
    Orthogonality(GIVEN)(acts, columns, 0).backward()
    _, _, gradient = expected(acts, W_dec, variance=5.0)
    assert torch.equal(columns.grad, gradient.T)


def test_a_square_decoder_has_to_be_told() -> None:
    acts, W_dec = codes(), decoder(d=D_SAE)
    with pytest.raises(ConfigError, match="rows or its columns"):
        Orthogonality(GIVEN)(acts, W_dec, 0)
    for side, matrix in (("rows", W_dec), ("columns", W_dec.detach().T.requires_grad_())):
        given = matrix.detach().clone().requires_grad_()
        Orthogonality(replace(GIVEN, decoder=side))(acts, given, 0).backward()
        _, _, gradient = expected(acts, W_dec, variance=5.0)
        assert torch.equal(given.grad, gradient if side == "rows" else gradient.T)


@pytest.mark.parametrize("shape", [(D_SAE + 1, D_IN), (D_SAE,), (D_SAE, D_IN, 1)])
def test_a_decoder_of_other_codes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="decoder of shape"):
        Orthogonality(GIVEN)(codes(), torch.rand(shape), 0)
    with pytest.raises(ConfigError, match="features as its columns"):
        Orthogonality(replace(GIVEN, decoder="columns"))(codes(), decoder(), 0)


@pytest.mark.parametrize("layout", ["coo", "uncoalesced", "csr", "codes"])
def test_sparse_codes_give_the_same_as_dense_ones(layout: str) -> None:
    acts, W_dec = codes(), decoder()
    match layout:
        case "coo":
            given = acts.to_sparse_coo()
        case "uncoalesced":  # as top-k gives them: in no order, zeros among them
            values, index = acts.topk(D_SAE - 4, dim=1, sorted=True)
            row = torch.arange(BATCH).repeat_interleave(D_SAE - 4)
            given = torch.sparse_coo_tensor(
                torch.stack([row, index.flatten()]), values.flatten(), acts.shape
            )
        case "csr":
            given = acts.to_sparse_csr()
        case _:
            given = Codes.of(acts)
    penalty = Orthogonality(GIVEN)
    cost = penalty(given, W_dec, 0)
    pairs, value, _ = expected(acts, W_dec, variance=5.0)
    same_pairs(penalty.selection, pairs)
    assert torch.equal(cost.detach(), value)


def test_rows_of_any_norm_count_as_unit_rows_with_codes_that_decode_to_the_same() -> None:
    acts, W_dec = codes(), decoder(unit=False)
    penalty = Orthogonality(GIVEN)
    cost = penalty(acts, W_dec, 0)
    cost.backward()
    norm = W_dec.detach().norm(dim=1)
    pairs, value, gradient = expected(acts * norm, W_dec, variance=5.0)
    same_pairs(penalty.selection, pairs)
    assert torch.equal(cost.detach(), value)
    assert torch.equal(W_dec.grad, gradient)
    unscaled, _, _ = expected(acts, W_dec, variance=5.0)
    assert not torch.equal(unscaled.i, pairs.i), "the norms matter here"
    as_they_are = Orthogonality(replace(GIVEN, unit_codes=True))
    as_they_are(acts, W_dec, 0)
    same_pairs(as_they_are.selection, unscaled)


def test_a_zero_row_overlaps_with_nothing() -> None:
    acts, W_dec = codes(), decoder(unit=False)
    W_dec.data[7] = 0
    penalty = Orthogonality(GIVEN)
    penalty(acts, W_dec, 0).backward()
    pairs = penalty.selection
    assert 7 not in pairs.i.tolist() + pairs.j.tolist()
    assert not W_dec.grad[7].any()
    nothing = torch.zeros(D_SAE, D_IN, requires_grad=True)  # as a transcoder starts
    cost = Orthogonality(GIVEN)(acts, nothing, 0)
    cost.backward()
    assert float(cost) == 0
    assert not nothing.grad.any()


def test_a_transcoder_has_its_penalty_in_the_space_it_writes_to() -> None:
    acts, W_dec = codes(), decoder(d=2 * D_IN)
    target = batch(d=2 * D_IN)
    penalty = Orthogonality(AT_ONCE)
    cost = penalty(acts, W_dec, 0, target=target)
    cost.backward()
    pairs, _, gradient = expected(acts, W_dec, variance=total_variance(target))
    same_pairs(penalty.selection, pairs)
    torch.testing.assert_close(W_dec.grad, gradient, rtol=1e-6, atol=0)


def test_bf16_autocast_changes_neither_pairs_nor_penalty() -> None:
    acts, W_dec = codes().bfloat16(), decoder()
    penalty = Orthogonality(GIVEN)
    with torch.autocast("cpu", torch.bfloat16):
        cost = penalty(acts, W_dec, 0)
    cost.backward()
    pairs, value, gradient = expected(acts, W_dec, variance=5.0)
    same_pairs(penalty.selection, pairs)
    assert cost.dtype == torch.float32
    assert torch.equal(cost.detach(), value)
    assert torch.equal(W_dec.grad, gradient)


def test_a_bf16_decoder_normalised_in_bf16_counts_as_unit() -> None:
    acts = codes()
    W_dec = decoder().detach().bfloat16()
    norm = W_dec.norm(dim=1, keepdim=True)
    W_dec = (W_dec / (norm + torch.finfo(torch.bfloat16).eps)).requires_grad_()
    penalty = Orthogonality(GIVEN)
    penalty(acts, W_dec, 0).backward()
    pairs, _, _ = expected(acts, W_dec.float(), variance=5.0)
    same_pairs(penalty.selection, pairs)
    assert W_dec.grad.any()


# --- micro-batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(16, 16, 16, 16), (40, 24), (64,)])
def test_accumulated_micro_batches_are_the_whole_batch(sizes: tuple[int, ...]) -> None:
    acts, W_dec, x = codes(), decoder(), batch()
    whole = Orthogonality(AT_ONCE)
    for step in range(2):
        W_dec.grad = None
        whole(acts, W_dec, step, target=x).backward()
    wanted = W_dec.grad.clone()

    parts = Orthogonality(replace(AT_ONCE, micro_batches=len(sizes)))
    for step in range(2):
        W_dec.grad = None
        for piece, rows in zip(acts.split(sizes), x.split(sizes), strict=True):
            loss = W_dec.sum() * 0 + parts(piece, W_dec, step, target=rows)
            (loss / len(sizes)).backward()
    same_pairs(parts.selection, whole.selection)
    assert torch.equal(parts.firing.rate, whole.firing.rate)
    assert parts.variance == pytest.approx(whole.variance, rel=1e-12)
    torch.testing.assert_close(W_dec.grad, wanted, rtol=1e-6, atol=0)


def test_a_step_without_all_its_micro_batches_is_told() -> None:
    penalty = Orthogonality(replace(GIVEN, micro_batches=3))
    penalty(codes(0), decoder(), 4)
    with pytest.raises(ValueError, match="step 5 began after 1 of 3 micro-batches of step 4"):
        penalty(codes(1), decoder(), 5)


# --- the weight ----------------------------------------------------------------------------------


def test_the_variance_is_that_of_all_rows_so_far() -> None:
    penalty, seen = Orthogonality(AT_ONCE), []
    for step in range(3):
        seen.append(batch(step))
        penalty(codes(step), decoder(), step, target=seen[-1])
        assert penalty.variance == pytest.approx(total_variance(torch.cat(seen)), rel=1e-9)


def test_the_estimate_stands_after_enough_rows() -> None:
    measured = RunningVariance()
    measured.update(torch.randn(ESTIMATION_ROWS, 2))
    before = measured.value
    measured.update(100 * torch.randn(10, 2))
    assert measured.value == before


def test_without_any_variance_it_says_what_to_do() -> None:
    penalty = Orthogonality(AT_ONCE)
    assert penalty.variance is None
    with pytest.raises(ConfigError, match="pass target=x"):
        penalty(codes(), decoder(), 0)
    absolute = Orthogonality(OrthogonalityConfig(penalty=PenaltyConfig(units="absolute", ramp=0)))
    cost = absolute(codes(), decoder(), 0)
    _, value, _ = expected(codes(), decoder(), variance=1.0)
    assert torch.equal(cost.detach(), value)


def test_the_penalty_is_weighted_as_the_squared_error_is() -> None:
    cost = Orthogonality(replace(GIVEN, error_weight=0.25))(codes(), decoder(), 0)
    _, value, _ = expected(codes(), decoder(), variance=5.0, weight=0.25)
    assert float(cost) == pytest.approx(float(value), rel=1e-6)


def test_it_is_ramped_up_over_the_given_steps() -> None:
    def at(step: int, steps: int | None) -> float:
        penalty = Orthogonality(OrthogonalityConfig(steps=steps, variance=5.0))
        return float(penalty(codes(), decoder(), step))

    full = float(Orthogonality(GIVEN)(codes(), decoder(), 0))
    assert at(0, 400) == 0
    assert at(10, 400) == pytest.approx(full / 2, rel=1e-6)
    assert at(20, 400) == pytest.approx(full, rel=1e-6)
    assert at(50, None) == pytest.approx(full / 2, rel=1e-6)


# --- state ---------------------------------------------------------------------------------------


def test_without_gradients_it_is_that_of_the_current_pairs_and_changes_nothing() -> None:
    W_dec = decoder()
    penalty = Orthogonality(GIVEN)
    with torch.no_grad():
        assert float(penalty(codes(1), W_dec, 0)) == 0
    first = penalty(codes(0), W_dec, 0)
    rate, pairs = penalty.firing.rate.clone(), penalty.selection
    with torch.no_grad():
        assert float(penalty(codes(1), W_dec, 1)) == pytest.approx(float(first), rel=1e-6)
    assert penalty.selection is pairs
    assert torch.equal(penalty.firing.rate, rate)
    assert len(penalty.history) == len(pairs)


def test_the_history_has_every_selection() -> None:
    penalty = Orthogonality(GIVEN)
    for step in range(3):
        penalty(codes(0), decoder(), step)
    pairs = penalty.selection
    ema = penalty.history.ema(pairs.i, pairs.j)
    assert ema == pytest.approx([1 - 0.99**3] * len(pairs))
    penalty.close()
    assert len(penalty.history) == len(pairs)
    without = Orthogonality(replace(GIVEN, history=HistoryConfig(enabled=False)))
    without(codes(), decoder(), 0)
    assert without.history is None


@pytest.mark.parametrize(
    "criterion", ["coactive-cosine", "decoder-cosine", "correlation", "magnitude", "ortsae",
                  "random", "rate-matched-random", "conditional"]
)  # fmt: skip
def test_other_criteria_that_need_codes_and_decoder_alone(criterion: str) -> None:
    pairs = PairsConfig(criterion=criterion, min_support=2)
    penalty = Orthogonality(replace(GIVEN, pairs=pairs))
    W_dec = decoder()
    penalty(codes(), W_dec, 0).backward()
    assert len(penalty.selection) > 0
    assert W_dec.grad.any()


@pytest.mark.parametrize("criterion", ["gradient", "suppressed", "preactivation"])
def test_criteria_that_need_more_are_refused(criterion: str) -> None:
    with pytest.raises(ConfigError, match="which a host does not pass on"):
        Orthogonality(replace(GIVEN, pairs=PairsConfig(criterion=criterion)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": PairsConfig(criterion="none")}, "run without the constraint"),
        ({"pairs": PairsConfig(fraction=0.1, per_feature=2)}, "^pairs.fraction=0.1 and pairs.per"),
        ({"variance": 0.0}, "variance=0.0"),
        ({"variance": float("nan")}, "variance=nan"),
        ({"error_weight": -1.0}, "error_weight=-1.0"),
        ({"micro_batches": 0}, "micro_batches=0"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Orthogonality(replace(OrthogonalityConfig(), **change))


def test_a_target_that_is_not_finite_is_refused_and_leaves_nothing_behind() -> None:
    penalty, clean = Orthogonality(AT_ONCE), Orthogonality(AT_ONCE)
    broken = batch()
    broken[3, 2] = torch.inf
    with pytest.raises(ValueError, match="target has a number that is not finite"):
        penalty(codes(), decoder(), 0, target=broken)
    again = penalty(codes(), decoder(), 0, target=batch())
    assert torch.equal(again, clean(codes(), decoder(), 0, target=batch()))


def test_a_decoder_row_that_is_not_finite_is_no_zero_row() -> None:
    W_dec = decoder(unit=False).detach()
    W_dec[3] = torch.nan
    with pytest.raises(ValueError, match="row of feature 3 holds NaN"):
        Orthogonality(GIVEN)(codes(), W_dec.requires_grad_(), 0)


def test_what_a_host_decides_cannot_be_given_otherwise() -> None:
    got = decided_by("a host", replace(GIVEN, decoder="rows"), decoder="rows", micro_batches=4)
    assert (got.decoder, got.micro_batches, got.variance) == ("rows", 4, 5.0)
    with pytest.raises(ConfigError, match="micro_batches=8 was given, but a host decides it"):
        decided_by("a host", replace(GIVEN, micro_batches=8), micro_batches=4)


def test_absolute_units_look_at_no_variance() -> None:
    absolute = PenaltyConfig(units="absolute", ramp=0)
    penalty = Orthogonality(OrthogonalityConfig(penalty=absolute))
    penalty(codes(), decoder(), 0, target=batch())
    assert penalty.variance is None


# --- state that survives a restart ---------------------------------------------------------------

KEPT = replace(
    AT_ONCE,
    penalty=PenaltyConfig(ramp=0.0, refresh_every=2, tau="stability"),
    history=HistoryConfig(decay=0.9),
)


def test_a_loop_that_goes_on_from_a_stored_state_is_the_one_that_never_stopped(tmp_path) -> None:
    def run(penalty: Orthogonality, steps: range) -> list[float]:
        return [
            float(penalty(codes(step), decoder(step), step, target=batch(step))) for step in steps
        ]

    whole = Orthogonality(KEPT)
    expected_values = run(whole, range(9))
    first = Orthogonality(KEPT)
    assert run(first, range(5)) == expected_values[:5]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    again = Orthogonality(KEPT)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run(again, range(5, 9)) == expected_values[5:]
    same_pairs(again.selection, whole.selection)
    assert torch.equal(again.firing.rate, whole.firing.rate)
    assert again.history.to_bytes() == whole.history.to_bytes()
    assert again.variance == whole.variance


def test_a_fresh_state_is_empty_and_loads() -> None:
    assert Orthogonality(KEPT).state_dict() == {}
    penalty = Orthogonality(KEPT)
    penalty.load_state_dict({})
    assert penalty.selection is None and penalty.firing is None


def test_a_state_within_a_step_is_refused() -> None:
    penalty = Orthogonality(replace(GIVEN, micro_batches=3))
    penalty(codes(0), decoder(), 4)
    with pytest.raises(ValueError, match="after 1 of 3 micro-batches of step 4"):
        penalty.state_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [("selection.selected_at", -1), ("selection.i", torch.tensor([D_SAE])), ("selection.at", 1)],
)
def test_a_state_of_something_else_is_refused(name: str, value: object) -> None:
    penalty = Orthogonality(GIVEN)
    penalty(codes(), decoder(), 0)
    with pytest.raises((TypeError, ValueError)):
        Orthogonality(GIVEN).load_state_dict(penalty.state_dict() | {name: value})
