"""Functions that run once for each part of the work, and what is compiled for whom."""

from __future__ import annotations

import inspect
from pathlib import Path

import numba
import numpy as np
import pytest
from jit import compiled as compiled_for_tests
from numpy.typing import NDArray

from unrolled.engine.kernels import kernel, parallel
from unrolled.engine.kernels.parallel import compiled_parallel


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a test compiles is kept in a folder of its own."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))


def share_out(part: int, parts: int, source: NDArray, target: NDArray, add: float, halve: bool, first: int) -> None:
    N = len(source)
    for n in range(part * N // parts, (part + 1) * N // parts):
        target[n] += (source[n] + add) / 2 if halve else source[n] + add
    target[first] += part


@pytest.mark.usefixtures("elsewhere")
def test_every_part_runs_once_whatever_the_arguments_are() -> None:
    run = compiled_parallel(share_out)
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.int64):
        source = rng.integers(0, 100, 40).astype(dtype)
        for values in (source[:20], source[::2], source[::-1][:20]):  # contiguous or not
            for parts in (1, 2, 3, 21):
                target = np.zeros(21, np.float64)
                run(parts, values, target, 1.5, True, 20)
                assert target.tolist() == [*((values + 1.5) / 2).tolist(), parts * (parts - 1) / 2]
    target = np.zeros(21)
    run(2, source[:20], target, np.float32(0.5), False, np.int32(20))
    assert target.tolist() == [*(source[:20] + 0.5).tolist(), 1]


@pytest.mark.usefixtures("elsewhere")
def test_views_of_arguments_are_as_the_caller_has_them() -> None:
    @compiled_parallel
    def add(part: int, parts: int, table: NDArray, total: NDArray) -> None:
        for row in table[part::parts]:
            view = row[1:][::-1]
            total[part] += view.sum() + view[0]

    table, total = np.arange(24.0).reshape(6, 4), np.zeros(2)
    add(2, table, total)
    rows = table[:, 1:].sum(1) + table[:, 3]
    assert total.tolist() == [rows[::2].sum(), rows[1::2].sum()]


@pytest.mark.usefixtures("elsewhere")
def test_the_signature_is_that_of_a_call() -> None:
    run = compiled_parallel(share_out)
    assert list(inspect.signature(run).parameters) == ["parts", "source", "target", "add", "halve", "first"]


@pytest.mark.usefixtures("elsewhere")
def test_a_function_is_compiled_once_for_all_constants_that_compiled_callers_give() -> None:
    add = kernel.compiled(lambda x, n, twice: x + 2 * n if twice else x + n)
    for n, twice in ((1, True), (2, False), (0, True)):
        call = compiled_for_tests(eval(f"lambda x: add(x, {n}, {twice})", {"add": add}))
        assert call(5) == 5 + n * (1 + twice)
    assert len(add.signatures) == 1


def test_the_loop_of_the_pool_is_one_for_all() -> None:
    parallel.threading_layer()
    assert len(parallel._run_parts.signatures) <= 1  # none where all launches came from the cache
