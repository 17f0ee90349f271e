"""The contract of an input: one named column of a batch, and its columns of x."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ShapeError

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED = (  # names of other arrays of a batch and of an exported graph
    "state", "next_state", "final_state", "lengths", "targets", "weights",
)  # fmt: skip

Shapes = dict[str, tuple[int, ...]]


class Input(Protocol):
    """A frozen dataclass that describes one input. Code outside the registries never tests which kind it has.

    ``kind`` is its key in ``INPUTS``. ``axes`` are the named axes of its array, "time" and "batch", followed by sizes.
    """

    kind: ClassVar[str]
    dtype: ClassVar[np.dtype]

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int:
        """Return the number of columns of x that the input fills."""
        ...

    @property
    def lookup(self) -> str | None:
        """Return the parameter whose rows the ids of the input select, so that an engine may multiply it as a table."""
        ...

    @property
    def axes(self) -> tuple[str | int, ...]:
        """Return the axes of its array: ("time", "batch", …), or ("batch", …) for one value a sequence."""
        ...

    def parameter_shapes(self) -> Shapes:
        """Return names and shapes of its parameters, in the order of creation."""
        ...

    def check_values(self, array: NDArray) -> None:
        """Check the values of an array whose shape and dtype are right.

        Raises:
            ShapeError: a value is out of range.
        """
        ...

    def forward(self, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
        """Return its columns (T, B, width) of x."""
        ...

    def backward(
        self, params: Mapping[str, NDArray], dx: NDArray, array: NDArray, grads: Mapping[str, NDArray]
    ) -> None:
        """Add the gradients of its parameters to ``grads``, given that of its columns (T, B, width), zero in the padding."""
        ...

    def example(self, rng: np.random.Generator, T: int, B: int) -> NDArray:
        """Return a random valid array, for golden cases and checks of exported files."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with ``kind``."""
        ...


def check_name(name: object) -> None:
    """Check the name of an input.

    Raises:
        ConfigError: it is not a lower-case identifier, or means something else in a batch.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise ConfigError(
            f"name: got {name!r}, needs lower-case letters, digits and _ after a letter, and none of {', '.join(RESERVED)}"
        )


def sized(axes: Sequence[str | int], T: int, B: int) -> tuple[int, ...]:
    """Return the shape that axes have with T time steps and B rows."""
    return tuple([T if axis == "time" else B if axis == "batch" else int(axis) for axis in axes])


def check_shape(column: Input, array: object, T: int, B: int) -> None:
    """Check type, shape and dtype of an input's array for T time steps of B rows.

    Raises:
        ShapeError: names the input, what came and what is needed.
    """
    wanted = sized(column.axes, T, B)
    if not isinstance(array, np.ndarray) or array.shape != wanted:
        got = f"shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ShapeError(f"{column.name}: got {got}, needs an array of shape {wanted}")
    if array.dtype != column.dtype:
        raise ShapeError(f"{column.name}: got dtype {array.dtype}, needs {column.dtype}")


class InputFunctions(NamedTuple):
    """The two functions of an input on an engine, with the input itself as the first argument of each.

    Their signatures are those of ``Input.forward`` and ``Input.backward`` for every kind and engine.

    Args:
        recordable: as in ``unrolled.engine.models.heads.head.HeadFunctions``.
    """

    forward: Callable[..., NDArray]
    backward: Callable[..., None]
    recordable: bool = False
