"""Functions that run once for each part of the work, and the types that they are compiled for."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import numba
import numpy as np
import pytest
from jit import compiled as compiled_for_tests
from numpy.typing import NDArray

from unrolled.engine.kernels.jit import compilation, numba_internals
from unrolled.engine.kernels.threads import thread_pool
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the code that a test compiles in a folder of its own."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(thread_pool, "_launch", compilation.compiled(thread_pool._launch.py_func))


def share_out(part: int, parts: int, source: NDArray, target: NDArray, add: float, halve: bool, first: int) -> None:
    N = len(source)
    for n in range(part * N // parts, (part + 1) * N // parts):
        target[n] += (source[n] + add) / 2 if halve else source[n] + add
    target[first + part] += part + 1  # each its own place: parts run side by side


@pytest.mark.usefixtures("elsewhere")
def test_every_part_runs_once_whatever_the_arguments_are() -> None:
    run = compiled_parallel(share_out)
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.int64):
        source = rng.integers(0, 100, 40).astype(dtype)
        for values in (source[:20], source[::2], source[::-1][:20]):  # contiguous or not
            for parts in (1, 2, 3, 21):
                target = np.zeros(20 + parts, np.float64)
                run(parts, values, target, 1.5, True, 20)
                assert target.tolist() == [*((values + 1.5) / 2).tolist(), *range(1, parts + 1)]
    target = np.zeros(22)
    run(2, source[:20], target, np.float32(0.5), False, np.int32(20))
    assert target.tolist() == [*(source[:20] + 0.5).tolist(), 1, 2]


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
    add = compilation.compiled(lambda x, n, twice: x + 2 * n if twice else x + n)
    for n, twice in ((1, True), (2, False), (0, True)):
        call = compiled_for_tests(eval(f"lambda x: add(x, {n}, {twice})", {"add": add}))
        assert call(5) == 5 + n * (1 + twice)
    assert len(add.signatures) == 1


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("failing", [0, 1])
def test_a_part_without_memory_is_an_error_on_any_thread(failing: int) -> None:
    @compiled_parallel
    def fill(part: int, parts: int, target: NDArray, failing: int) -> None:
        items = 1 << 50 if part == failing else 3
        target[part] = np.empty(items, np.uint8).size

    target = np.zeros(2, np.int64)
    with pytest.raises(MemoryError, match="fill"):
        fill(2, target, failing)
    fill(2, target, 2)
    assert target.tolist() == [3, 3]


@pytest.mark.usefixtures("elsewhere")
def test_a_function_that_returns_something_is_refused() -> None:
    @compiled_parallel
    def count(part: int, parts: int, target: NDArray) -> int:
        return len(target)

    with pytest.raises(TypeError, match="count returns int64"):
        count(2, np.zeros(2))


@pytest.mark.usefixtures("elsewhere")
def test_a_cache_that_holds_other_code_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (np.zeros(3), np.zeros(5), 1.0, False, 3)
    compiled_parallel(share_out)(1, *arguments)
    again = compiled_parallel(share_out)
    monkeypatch.setattr(thread_pool, "_digest", lambda of: 0)  # another one than was compiled in
    with pytest.raises(RuntimeError, match="remove that folder"):
        again(1, *arguments)


@pytest.mark.usefixtures("elsewhere")
def test_no_other_process_gives_the_names_of_files_in_the_cache(tmp_path: Path) -> None:
    double = compilation.compiled(lambda x: 2 * x)
    assert (double(2), double(1.5)) == (4, 3.0)
    names = [path.name for path in tmp_path.rglob("*lambda*.nbc")]
    assert len(names) == 2
    assert all(name.endswith(f".{numba_internals._PROCESS}-{os.getpid()}.nbc") for name in names)
