"""Formulas over arrays as vector IR: values against NumPy, for arrays of every length and at every offset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jit import compiled
from numba.core.errors import TypingError
from tolerances import assert_close, assert_within_ulps

from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd import activations
from unrolled.engine.kernels.simd.elementwise import REGISTERS, elementwise
from unrolled.engine.kernels.simd.vectors import quotient, select

STEP = REGISTERS * TARGET.vector_bytes // 4  # numbers of float32 that go together


def _mixed(a: Any, b: Any, factor: Any) -> Any:
    return factor * (a - b) + 0.5 * a / (2 - b), select(a > b, a, -b), 3


_mixed_all = elementwise(_mixed)
_tanh_all = elementwise(activations.tanh)
_sum_all = elementwise(lambda a, b: a + b)
_quotient_all = elementwise(quotient)


@compiled
def mixed(a: np.ndarray, b: np.ndarray, factor: Any, into: np.ndarray, count: int) -> None:
    """Run the formula; its three outputs are rows of ``into`` (3, ≥ count)."""
    _mixed_all((a, b), (into[0], into[1], into[2]), (factor,), count)


@compiled
def in_place(a: np.ndarray, b: np.ndarray) -> None:
    _sum_all((a, b), (a,), (), len(a))


@compiled
def tanh(a: np.ndarray, into: np.ndarray) -> None:
    _tanh_all((a,), (into,), (), len(a))


@compiled
def divide(a: np.ndarray, b: np.ndarray, into: np.ndarray) -> None:
    _quotient_all((a, b), (into,), (), len(a))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_formula_is_that_of_numpy_for_every_number_of_numbers_and_writes_nothing_else(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for count in range(2 * STEP + 2):
        a, b = rng.uniform(-1, 1, (2, count + 3)).astype(dtype)
        into = np.full((3, count + 3), 9, dtype)
        mixed(a, b, dtype(1.5), into, count)
        a, b = a[:count], b[:count]
        expected = [1.5 * (a - b) + 0.5 * a / (2 - b), np.where(a > b, a, -b), np.full(count, 3)]
        assert_close(into[:, :count], np.array(expected, dtype), "invariant", dtype, f"{count} numbers")
        assert (into[:, count:] == 9).all()


def test_alarm_a_number_that_is_left_out_or_written_behind_the_last_is_seen() -> None:
    a, b, into = np.ones(5, np.float32), np.zeros(5, np.float32), np.full((3, 5), 9, np.float32)
    mixed(a, b, np.float32(1), into, 4)
    with pytest.raises(AssertionError):
        assert_close(into[2], np.full(5, 3, np.float32), "invariant", np.float32, "the fifth was left out")
    mixed(a, b, np.float32(1), into, 5)
    with pytest.raises(AssertionError):
        assert (into[:, 4:] == 9).all()


def test_an_output_may_be_an_input() -> None:
    a, b = np.arange(77, dtype=np.float32), np.ones(77, np.float32)
    in_place(a, b)
    np.testing.assert_array_equal(a, np.arange(1, 78))


def test_a_number_has_the_same_bits_wherever_it_stands() -> None:
    x = np.random.default_rng(1).standard_normal(3 * STEP + 7).astype(np.float32)
    whole = np.empty_like(x)
    tanh(x, whole)
    for first in (0, 1, 5, STEP - 1, STEP, 2 * STEP + 3):
        for count in (1, 2, STEP - 1, STEP, STEP + 1):
            some = np.empty(min(count, len(x) - first), np.float32)
            tanh(x[first : first + count], some)
            np.testing.assert_array_equal(some, whole[first : first + count])


def test_a_quotient_is_within_two_units_of_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(100_000) * 10.0 ** rng.uniform(-12, 12, 100_000)).astype(np.float32).reshape(2, -1)
    worst = 2 - rng.uniform(0, 1e-3, (2, 50_000)).astype(np.float32)  # where a unit is smallest for the number
    a, b = np.append(a, worst[0] * worst[1]), np.append(b, worst[0])
    got, exact = np.empty_like(a), a.astype(np.float64) / b
    divide(a, b, got)
    assert_within_ulps(got, exact, "quotient")


def test_dtypes_are_not_mixed_and_numbers_lie_together() -> None:
    with pytest.raises(TypingError):
        in_place(np.ones(4, np.int32), np.ones(4, np.int32))
    with pytest.raises(TypingError):
        in_place(np.ones(8, np.float32)[::2], np.ones(4, np.float32))
    with pytest.raises(TypingError):
        mixed(np.ones(4, np.float32), np.ones(4), np.float32(1), np.ones((3, 4), np.float32), 4)
    with pytest.raises(TypingError):
        mixed(np.ones(4, np.float32), np.ones(4, np.float32), 1.0, np.ones((3, 4), np.float32), 4)
