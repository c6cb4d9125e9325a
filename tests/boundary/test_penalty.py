"""row_norms, pair_cosines, pair_gradient and pair_penalty against numpy, over the boundary."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from topk_ortho._core import pair_cosines, pair_gradient, pair_penalty, row_norms

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

N, WIDTH, K = 60, 83, 700
RNG = np.random.default_rng(0)
ROWS: Floats = RNG.normal(size=(N, WIDTH)).astype(np.float32)
ROWS[3] = 0
LEFT, RIGHT = (RNG.integers(0, N, K) for _ in "ij")
SLOPE: Floats = (RNG.normal(size=K) * (RNG.random(K) < 0.7)).astype(np.float32)
MOVES_I, MOVES_J = (RNG.random(K) < 0.6 for _ in "ij")
TAU, WEIGHT = (RNG.random(K).astype(np.float32) * scale for scale in (0.2, 3.0))
NORM = np.sqrt((ROWS.astype(np.float64) ** 2).sum(1))
INVERSE = np.divide(1, NORM, out=np.zeros_like(NORM), where=NORM > 0)
UNIT = ROWS * INVERSE[:, None]


def gradient(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros(rows.shape)
    np.add.at(total, LEFT[MOVES_I], SLOPE[MOVES_I, None] * rows[RIGHT[MOVES_I]])
    np.add.at(total, RIGHT[MOVES_J], SLOPE[MOVES_J, None] * rows[LEFT[MOVES_J]])
    return total


def test_norms() -> None:
    np.testing.assert_allclose(row_norms(ROWS), NORM, rtol=1e-6)


def test_cosines_and_dot_products() -> None:
    dots = (ROWS[LEFT].astype(np.float64) * ROWS[RIGHT]).sum(1)
    np.testing.assert_allclose(pair_cosines(ROWS, LEFT, RIGHT), dots, atol=1e-4)
    cosines = pair_cosines(ROWS, LEFT, RIGHT, norms=row_norms(ROWS))
    np.testing.assert_allclose(cosines, dots * INVERSE[LEFT] * INVERSE[RIGHT], atol=1e-6)


def test_gradient_is_written_to_rows_that_move() -> None:
    out = np.full_like(ROWS, 7.0)
    assert pair_gradient(ROWS, LEFT, RIGHT, SLOPE, MOVES_I, MOVES_J, out=out) is out
    np.testing.assert_allclose(out, gradient(ROWS.astype(np.float64)), atol=1e-4)


def test_gradient_of_rows_of_any_length() -> None:
    through = gradient(UNIT)
    along = (through * UNIT).sum(1, keepdims=True)
    expected = (through - along * UNIT) * INVERSE[:, None]
    got = pair_gradient(ROWS, LEFT, RIGHT, SLOPE, MOVES_I, MOVES_J, norms=row_norms(ROWS))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert not got[3].any()


@pytest.mark.parametrize("both_signs", [False, True])
def test_the_penalty_is_that_of_the_cosines_and_so_is_its_gradient(both_signs: bool) -> None:
    norms = row_norms(ROWS)
    cosine = pair_cosines(ROWS, LEFT, RIGHT, norms=norms)
    over = np.maximum((np.abs(cosine) if both_signs else cosine) - TAU, 0)
    slope = 2 * WEIGHT * over * np.where(cosine < 0, np.float32(-1), np.float32(1))
    out = np.full_like(ROWS, 7.0)
    value, got = pair_penalty(
        ROWS, LEFT, RIGHT, TAU, WEIGHT, MOVES_I, both_signs=both_signs, norms=norms, out=out
    )
    assert got is out
    assert value == pytest.approx(float((WEIGHT * over**2).sum(dtype=np.float64)), rel=1e-6)
    expected = pair_gradient(ROWS, LEFT, RIGHT, slope, MOVES_I, ~MOVES_I, norms=norms)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"tau has length 699; expected 700; "):
        pair_penalty(ROWS, LEFT, RIGHT, TAU[1:], WEIGHT, MOVES_I)


@pytest.mark.parametrize("norms", [None, row_norms(ROWS)])
def test_the_same_bits_on_any_number_of_threads(norms: Floats | None) -> None:
    def all_of_them(threads: int) -> tuple[bytes | float, ...]:
        cosines = pair_cosines(ROWS, LEFT, RIGHT, norms=norms, threads=threads)
        out = pair_gradient(
            ROWS, LEFT, RIGHT, SLOPE, MOVES_I, MOVES_J, norms=norms, threads=threads
        )
        value, slopes = pair_penalty(
            ROWS, LEFT, RIGHT, TAU, WEIGHT, MOVES_I, norms=norms, threads=threads
        )
        return cosines.tobytes(), out.tobytes(), value, slopes.tobytes()

    assert all_of_them(1) == all_of_them(2) == all_of_them(7)


def test_strided_rows_are_copied_and_an_output_of_another_kind_is_refused() -> None:
    wide = np.repeat(ROWS, 2, axis=1)[:, ::2]
    assert np.array_equal(pair_cosines(wide, LEFT, RIGHT), pair_cosines(ROWS, LEFT, RIGHT))
    read_only = np.zeros_like(ROWS)
    read_only.flags.writeable = False
    for out in (
        read_only,
        np.zeros((N, WIDTH + 1), np.float32),
        np.zeros((WIDTH, N), np.float32).T,
    ):
        with pytest.raises(ValueError, match=r"out .*; expected .*; "):
            pair_gradient(ROWS, LEFT, RIGHT, SLOPE, MOVES_I, MOVES_J, out=out)
    with pytest.raises(TypeError, match=r"out .*; expected .*float32; "):
        pair_gradient(ROWS, LEFT, RIGHT, SLOPE, MOVES_I, MOVES_J, out=np.zeros((N, WIDTH)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"out .*; expected .*; "):
        pair_gradient(ROWS, LEFT, RIGHT, SLOPE, MOVES_I, MOVES_J, out=ROWS)


def test_pairs_that_do_not_fit() -> None:
    outside = LEFT.copy()
    outside[5] = N
    with pytest.raises(ValueError, match=r"row 60 was given; expected 0 <= index < 60; "):
        pair_cosines(ROWS, outside, RIGHT)
    with pytest.raises(ValueError, match=r"j has length 699; expected 700; "):
        pair_cosines(ROWS, LEFT, RIGHT[1:])
    with pytest.raises(ValueError, match=r"norms has length 59; expected 60; "):
        pair_cosines(ROWS, LEFT, RIGHT, norms=NORM[1:].astype(np.float32))
    with pytest.raises(TypeError, match=r"moves_i has dtype int64; expected bool; "):
        pair_gradient(ROWS, LEFT, RIGHT, SLOPE, LEFT, MOVES_J)  # type: ignore[arg-type]
    nothing = np.array([], np.int64)
    assert pair_cosines(ROWS, nothing, nothing).shape == (0,)


@pytest.mark.fault("a number beyond the range of its type")
@pytest.mark.parametrize("exponent", [-100, -60, -33, 33, 60, 100])
def test_the_scale_of_rows_changes_no_bit_of_a_cosine(exponent: int) -> None:
    powers = np.zeros(N, np.int32)
    powers[::2] = exponent
    scaled = np.ldexp(ROWS, powers[:, None])
    norms, other = row_norms(ROWS), row_norms(scaled)
    assert np.array_equal(other, np.ldexp(norms, powers))
    cosines = pair_cosines(ROWS, LEFT, RIGHT, norms=norms)
    assert np.array_equal(pair_cosines(scaled, LEFT, RIGHT, norms=other), cosines)
    value, slopes = pair_penalty(ROWS, LEFT, RIGHT, TAU, WEIGHT, MOVES_I, norms=norms)
    for threads in (1, 3):
        got = pair_penalty(scaled, LEFT, RIGHT, TAU, WEIGHT, MOVES_I, norms=other, threads=threads)
        assert got[0] == value
        back = np.ldexp(got[1].astype(np.float64), powers[:, None])
        np.testing.assert_allclose(back, slopes, atol=1e-6 * np.abs(slopes).max())
