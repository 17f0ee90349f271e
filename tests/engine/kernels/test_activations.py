"""The compiled activations in float32 against float64, over the whole range of float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from jit import compiled
from numpy.typing import NDArray
from tolerances import assert_within_ulps

from unrolled.engine.kernels.simd import activations, bits
from unrolled.engine.kernels.simd.elementwise import elementwise

NAMES = ("exp_negative", "sigmoid", "tanh")
LARGEST, SMALLEST = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal


def applied(name: str) -> Callable[[NDArray], NDArray]:
    """Return a function that applies the activation to an array."""
    run = elementwise(getattr(activations, name))

    @compiled
    def apply(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        run((x,), (out,), (), len(x))
        return out

    return apply


APPLY = {name: applied(name) for name in NAMES}


def truth(name: str, x: NDArray) -> NDArray:
    x = x.astype(np.float64)
    if name == "tanh":
        return np.tanh(x)
    e = np.exp(-np.abs(x))
    return e if name == "exp_negative" else np.where(x >= 0, 1.0, e) / (1 + e)


def points(name: str) -> NDArray:
    """Return a million numbers: all magnitudes, denormal ones too, and evenly spaced ones where the function is curved."""
    orders, near = np.geomspace(SMALLEST, LARGEST, 250_000), np.linspace(0, 20, 200_000)
    below = np.linspace(0, 105, 100_000)  # as far as e^-x is not 0
    x = np.concatenate([orders, near, below, [0.0, np.inf]]).astype(np.float32)
    return -x if name == "exp_negative" else np.concatenate([x, -x])


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_within_a_few_ulp_of_float64(name: str) -> None:
    x = points(name)
    assert_within_ulps(APPLY[name](x), truth(name, x), name)


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_wherever_it_is_among_others(name: str) -> None:
    x = -np.linspace(0, 200, 1000, dtype=np.float32)
    for step in (1, 2, 7, 64):
        some = x.copy()
        some[::step] = np.nan
        np.testing.assert_array_equal(np.isnan(APPLY[name](some)), np.isnan(some))


def test_the_ends_are_exact() -> None:
    ends = np.array([-np.inf, -LARGEST, -SMALLEST, -0.0, 0.0, SMALLEST, LARGEST, np.inf], np.float32)
    one, zero = np.float32(1), np.float32(0)
    np.testing.assert_array_equal(APPLY["tanh"](ends), [-one, -one, *ends[2:6], one, one])
    np.testing.assert_array_equal(APPLY["sigmoid"](ends), [zero, zero, 0.5, 0.5, 0.5, 0.5, one, one])
    np.testing.assert_array_equal(APPLY["exp_negative"](ends[:5]), [zero, zero, one, one, one])


def test_tanh_keeps_the_sign_of_zero_and_small_numbers_as_they_are() -> None:
    small = np.geomspace(SMALLEST, 1e-8, 10_001).astype(np.float32)
    x = np.concatenate([small, -small, [0.0, -0.0] * 40]).astype(np.float32)
    np.testing.assert_array_equal(APPLY["tanh"](x).view(np.int32), x.view(np.int32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["ulps", "nan", "flushed", "shape"])
def test_alarm_the_comparator_fails(name: str, damage: str) -> None:
    x = np.linspace(-103, 0, 101, dtype=np.float32) if name != "tanh" else np.geomspace(1e-40, 1, 101, dtype=np.float32)
    exact = truth(name, x)
    got = exact.astype(np.float32)
    assert_within_ulps(got, exact, name)
    if damage == "ulps":
        got[50] += 5 * np.spacing(got[50])
    elif damage == "nan":
        got[50] = np.nan
    elif damage == "flushed":  # denormal numbers taken for 0
        got[np.abs(got) < np.finfo(np.float32).tiny] = 0
    else:
        got = got[:50]
    with pytest.raises(AssertionError):
        assert_within_ulps(got, exact, name)


@compiled
def largest(values: np.ndarray) -> float:
    return bits.largest(values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_number_is_that_of_numpy(dtype: type) -> None:
    rng, info = np.random.default_rng(3), np.finfo(dtype)
    for count in (1, 2, 15, 16, 100, 1001):
        values = rng.standard_normal(count).astype(dtype)
        for some in (
            values,
            np.abs(values),
            -np.abs(values),
            values * info.smallest_subnormal,
            np.full(count, -np.inf),
        ):
            some = some.astype(dtype)
            assert largest(some) == some.max()
    assert largest(np.array([-1, info.max, np.inf, 3], dtype)) == np.inf
    assert largest(np.array([-np.inf, info.min, -0.0], dtype)) == 0
    for count in (17, 33, 100):  # in every place of whole registers, and of the rest behind them
        for place in range(count):
            values = np.linspace(-3, -2, count + 1, dtype=dtype)[1:]
            values[place] = 0.5
            assert largest(values) == 0.5
    assert np.isnan(largest(np.array([1, np.nan, np.inf], dtype)))
    assert largest(np.array([1, -np.nan, 2], dtype)) == 2
