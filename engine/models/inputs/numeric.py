"""Inputs of real numbers, scaled by constants of the model.

x_t = (v_t - mean) / scale
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import canonical_settings
from unrolled.engine.checks import check_whole, is_number
from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.inputs.input import Shapes, check_name


@dataclass(frozen=True)
class _NumericInput:
    """Real columns in their own units, which the model shifts and scales.

    Args:
        columns: the number of columns.
        mean: the number that is subtracted from each column; None: 0.
        scale: the positive number by which each column is then divided; None: 1.
        name: the input's name in a batch.
    """

    columns: int
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    name: str = "values"

    kind: ClassVar[str]
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    def __post_init__(self) -> None:
        check_whole("columns", self.columns, 1)
        check_name(self.name)
        for setting, numbers, positive in (("mean", self.mean, False), ("scale", self.scale, True)):
            if numbers is None:
                continue
            good = isinstance(numbers, list | tuple | np.ndarray) and len(numbers) == self.columns
            if not good or not all(is_number(x) and math.isfinite(x) and (x > 0 or not positive) for x in numbers):
                what = "finite numbers above 0" if positive else "finite numbers"
                raise ConfigError(f"{setting}: got {numbers!r}, needs {self.columns} {what}")
            object.__setattr__(self, setting, tuple(map(float, numbers)))  # JSON has lists

    @property
    def width(self) -> int:
        """Return the number of columns."""
        return self.columns

    @property
    def lookup(self) -> None:
        """Return None: the input has no embedding."""

    def parameter_shapes(self) -> Shapes:
        """Return no parameters: mean and scale are constants of the description."""
        return {}

    def scaled(self, array: NDArray) -> NDArray:
        """Return (v - mean) / scale in float64 for values (..., columns)."""
        mean = 0.0 if self.mean is None else np.array(self.mean)
        scale = 1.0 if self.scale is None else np.array(self.scale)
        return (array.astype(np.float64) - mean) / scale

    def check_values(self, array: NDArray) -> None:
        """Check that all values are finite."""
        if not np.isfinite(array).all():
            raise ShapeError(f"{self.name}: {int((~np.isfinite(array)).sum())} values are NaN or infinite")

    def backward(
        self, params: Mapping[str, NDArray], dx: NDArray, array: NDArray, grads: Mapping[str, NDArray]
    ) -> None:
        """Add nothing: the input has no parameters."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        values = canonical_settings(self)
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"kind": self.kind, **lists}


def dtype_of(params: Mapping[str, NDArray]) -> np.dtype:
    """Return the dtype of a model's parameters."""
    return next(iter(params.values())).dtype


@dataclass(frozen=True)
class ValuesInput(_NumericInput):
    """Real columns (T, B, columns) float32 that vary over time."""

    kind: ClassVar[str] = "values"

    @property
    def axes(self) -> tuple[str | int, ...]:
        """Return the axes of the values."""
        return ("time", "batch", self.columns)

    def forward(self, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
        """Return the scaled values (T, B, columns) in the dtype of the parameters."""
        return self.scaled(array).astype(dtype_of(params))

    def example(self, rng: np.random.Generator, T: int, B: int) -> NDArray:
        """Return values (T, B, columns) of unit variance after scaling."""
        return _example(self, rng, (T, B, self.columns))


@dataclass(frozen=True)
class StaticInput(_NumericInput):
    """Real columns (B, columns) float32 with one value a sequence, repeated at every time step."""

    kind: ClassVar[str] = "static"
    name: str = "static"

    @property
    def axes(self) -> tuple[str | int, ...]:
        """Return the axes of the values."""
        return ("batch", self.columns)

    def forward(self, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
        """Return the scaled values, repeated to (T, B, columns), in the dtype of the parameters."""
        scaled = self.scaled(array).astype(dtype_of(params))
        return np.broadcast_to(scaled, (T, *scaled.shape))

    def example(self, rng: np.random.Generator, T: int, B: int) -> NDArray:
        """Return values (B, columns) of unit variance after scaling."""
        return _example(self, rng, (B, self.columns))


def _example(column: _NumericInput, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """Return values of a shape that have zero mean and unit variance after scaling."""
    mean = 0.0 if column.mean is None else np.array(column.mean)
    scale = 1.0 if column.scale is None else np.array(column.scale)
    return (rng.standard_normal(shape) * scale + mean).astype(np.float32)
