"""Every argument of every function of the core in every unusual and every wrong form.

What comes back is the right answer or an exception that says what was expected; a process that ends
would end these tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.boundary.calls import ARRAYS, CALLS, NUMBERS, Array, same

REFUSED = (TypeError, ValueError, MemoryError)
SAYS = r".+; expected .+; .+"


def of_dtype(dtype: type[np.generic]) -> list[tuple[str, str]]:
    """The array arguments of a dtype."""
    return [(name, array) for name, array in ARRAYS if CALLS[name].arrays[array].dtype == dtype]


class Labelled(np.ndarray):
    """An array that is something more."""


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def unaligned(array: Array) -> Array:
    buffer = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:]
    return buffer.view(array.dtype).reshape(array.shape)


def strided(array: Array) -> Array:
    return np.repeat(array, 3, axis=-1)[..., ::3]


def backward(array: Array) -> Array:
    return np.flip(np.flip(array).copy())


FORMS: dict[str, Callable[[Array], Array]] = {
    "read-only": read_only,
    "unaligned": unaligned,
    "strided": strided,
    "backward": backward,
    "column-major": np.asfortranarray,
    "a subclass": lambda array: array.view(Labelled),
    "of another's memory": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(
        array.shape
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_an_unusual_layout_is_the_same_argument(name: str, argument: str, form: str) -> None:
    call = CALLS[name]
    plain = call.core(**call.arguments())
    assert same(plain, call.twin(**call.arguments()))
    other = call.core(**call.arguments(**{argument: FORMS[form](call.arrays[argument].copy())}))
    for one, two in zip(plain, other, strict=True):
        assert np.array_equal(one, two)


DTYPES = (
    "int8", "int32", "uint64", "float16", "float32", "float64", "complex64", "bool", "object", "U3",
    "M8[s]",
)  # fmt: skip


@pytest.mark.fault("an array of another dtype")
@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_another_dtype(name: str, argument: str) -> None:
    call = CALLS[name]
    given = call.arrays[argument]
    taken = {"col": ["int64", "uint32"], "value": ["float32", "float64"]}
    for dtype in DTYPES:
        if dtype in taken.get(argument, [given.dtype.name]):
            continue
        other = given.astype("i8").view("M8[s]") if dtype == "M8[s]" else given.astype(dtype)
        with pytest.raises(TypeError, match=SAYS):
            call.core(**call.arguments(**{argument: other}))


@pytest.mark.fault("an array of the other byte order")
@pytest.mark.parametrize(("name", "argument"), [*of_dtype(np.int64), *of_dtype(np.float32)])
def test_another_byte_order(name: str, argument: str) -> None:
    call = CALLS[name]
    swapped = call.arrays[argument].astype(call.arrays[argument].dtype.newbyteorder())
    with pytest.raises(TypeError, match=SAYS):
        call.core(**call.arguments(**{argument: swapped}))


@pytest.mark.fault("something that is no array")
@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_what_is_no_array(name: str, argument: str) -> None:
    call = CALLS[name]
    given = call.arrays[argument]
    others: list[Any] = [given.tolist(), 0, "x", given.tobytes(), memoryview(given), range(2**60)]
    if argument != "norms":
        others.append(None)
    for other in others:
        with pytest.raises(TypeError, match=SAYS):
            call.core(**call.arguments(**{argument: other}))


@pytest.mark.fault("an array of another number of dimensions")
@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_other_dimensions(name: str, argument: str) -> None:
    call = CALLS[name]
    given = call.arrays[argument]
    for other in (given[None], given[..., None], given.flat[0:1].reshape(()), given[None, None]):
        if other.ndim != given.ndim:
            with pytest.raises(ValueError, match=SAYS):
                call.core(**call.arguments(**{argument: other}))


@pytest.mark.fault("an array of another length")
@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_another_length(name: str, argument: str) -> None:
    call = CALLS[name]
    given = call.arrays[argument]
    for other in (given[:-1], given[:0], np.concatenate([given, given[-1:]])):
        arguments = call.arguments(**{argument: other})
        right_or_refused(call.core, call.twin, arguments)


def right_or_refused(
    core: Callable[..., Any],
    twin: Callable[..., Any],
    arguments: dict[str, Any],
    *,
    overflow: bool = False,
) -> None:
    """The twin's answer where any value is allowed, or else an exception that explains itself."""
    try:
        got = core(**arguments)
    except REFUSED as error:
        if "expected" not in str(error):
            raise
        return
    with np.errstate(all="ignore"):
        assert same(got, twin(**arguments), overflow=overflow)


INTEGERS = [-1, 0, 3, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -(2**63)]
REALS = [np.nan, np.inf, -np.inf, -1.0, -0.0, 0.0, 1e-45, 1e30, 3.4e38]
HUGE = (1e30, 3.4e38)


@pytest.mark.fault("an index that is negative or out of range")
@pytest.mark.parametrize(("name", "argument"), of_dtype(np.int64))
def test_indices_out_of_range(name: str, argument: str) -> None:
    call = CALLS[name]
    length = len(call.arrays[argument])
    for at in (0, 1, length // 2, length - 1):
        for value in INTEGERS:
            arguments = call.arguments()
            arguments[argument][at] = value
            right_or_refused(call.core, call.twin, arguments)


@pytest.mark.fault("a number that is not finite, or out of range, in an array")
@pytest.mark.parametrize(("name", "argument"), of_dtype(np.float32))
def test_numbers_that_are_none(name: str, argument: str) -> None:
    call = CALLS[name]
    size = call.arrays[argument].size
    for at in (0, size // 2, size - 1):
        for value in REALS:
            arguments = call.arguments()
            arguments[argument].flat[at] = value
            right_or_refused(call.core, call.twin, arguments, overflow=value in HUGE)


@pytest.mark.fault("a whole number out of range")
@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_whole_numbers(name: str, number: str) -> None:
    call = CALLS[name]
    for value in (-(10**30), -1, 0, 1, 6, 2**31, 2**32, 2**32 + 1, 2**63, 2**64, 10**30):
        if (number, value) in (("d_sae", 2**31), ("d_sae", 2**32)):
            continue  # a bit and an index per feature: see test_memory.py
        right_or_refused(call.core, call.twin, call.arguments(**{number: value}))


@pytest.mark.fault("something that is no whole number")
@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_what_is_no_whole_number(name: str, number: str) -> None:
    call = CALLS[name]
    for value in (1.0, "3", None, True, np.float32(2), np.array([2]), [2], b"2", 2j):
        with pytest.raises((TypeError, ValueError), match="expected"):
            call.core(**call.arguments(**{number: value}))
    plain = call.core(**call.arguments())
    for kind in (np.int8, np.uint64):
        for one, two in zip(
            plain, call.core(**call.arguments(**{number: kind(call.numbers[number])})), strict=True
        ):
            assert np.array_equal(one, two)


@pytest.mark.fault("a boolean array whose bytes are no booleans")
@pytest.mark.parametrize(("name", "argument"), of_dtype(np.bool_))
def test_bytes_that_are_no_booleans(name: str, argument: str) -> None:
    call = CALLS[name]
    for byte in (2, 0x80, 0xFF):
        arguments = call.arguments()
        arguments[argument].view(np.uint8)[3] = byte
        with pytest.raises(ValueError, match=f"whose byte is {byte}; expected 0 or 1; "):
            call.core(**arguments)
