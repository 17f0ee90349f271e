"""The compiled engine has the names and the signatures of the NumPy reference: layers, inputs, heads and updates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.network.backends import get_backend

Functions = Mapping[str, Callable[..., Any]]


def positional(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Return names and defaults of the parameters that a call by position fills, without those that a registry has bound."""
    parameters = inspect.signature(function).parameters.values()
    return [(one.name, one.default) for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]


def assert_same_signatures(kernels: Functions, references: Functions) -> None:
    assert set(kernels) == set(references)
    for name, reference in references.items():
        assert positional(kernels[name]) == positional(reference), name


def functions_of(registry: Mapping[str, Any]) -> Functions:
    """Return the functions of all entries by entry and name."""
    return {
        f"{kind}.{name}": one
        for kind, entry in registry.items()
        for name, one in entry._asdict().items()
        if callable(one)
    }


def test_recurrent_layers() -> None:
    kernels, references = get_backend("numba").recurrent, get_backend("numpy").recurrent
    assert_same_signatures(kernels._asdict(), references._asdict())
    assert set(CELL_FORMULAS) == set(CELLS)


def test_layers() -> None:
    kernels, references = get_backend("numba").layers, get_backend("numpy").layers
    assert "linear_forward" in references._fields
    assert_same_signatures(kernels._asdict(), references._asdict())


@pytest.mark.parametrize(("registry", "entries"), [("heads", HEADS), ("inputs", INPUTS)])
def test_heads_and_inputs(registry: str, entries: Mapping[str, Any]) -> None:
    kernels, references = (getattr(get_backend(name), registry) for name in ("numba", "numpy"))
    assert set(kernels) == set(references) == set(entries)
    for kind, functions in functions_of(references).items():
        expected = [parameter for parameter, _ in positional(functions)][1:]  # without the entry itself
        assert [parameter for parameter, _ in positional(functions_of(kernels)[kind])][1:] == expected, kind


def test_updates() -> None:
    kernels, references = get_backend("numba"), get_backend("numpy")
    assert_same_signatures(kernels.update._asdict(), references.update._asdict())


@pytest.mark.parametrize("cell", CELLS)
def test_counts_of_a_compiled_cell(cell: str) -> None:
    formulas, reference = CELL_FORMULAS[cell], CELLS[cell]
    assert formulas.products == reference.gates
    assert formulas.states == reference.states
    assert formulas.gates >= formulas.products
    assert sum(last - first for first, last in formulas.dxg) == formulas.products
    assert list(inspect.signature(formulas.activate).parameters) == ["hidden", "inputs", "before"]
    assert list(inspect.signature(formulas.differentiate).parameters) == ["gates", "before", "after", "dh", "dstate"]


def test_alarm_a_missing_name_and_other_parameters_are_noticed() -> None:
    def reference(x: Any, weight: Any, bias: Any) -> None: ...
    def renamed(x: Any, weight: Any, biases: Any) -> None: ...
    def defaulted(x: Any, weight: Any, bias: Any = None) -> None: ...
    def swapped(weight: Any, x: Any, bias: Any) -> None: ...
    def longer(x: Any, weight: Any, bias: Any, packing: Any = None) -> None: ...

    for wrong in (renamed, defaulted, swapped, longer):
        with pytest.raises(AssertionError):
            assert_same_signatures({"linear_forward": wrong}, {"linear_forward": reference})
    assert_same_signatures({"linear_forward": partial(longer, packing=0)}, {"linear_forward": reference})
    with pytest.raises(AssertionError):
        assert_same_signatures({}, {"linear_forward": reference})
