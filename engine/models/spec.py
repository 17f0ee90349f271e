"""Description of a model as inputs, core and head: frozen, validated, with a JSON round trip."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import completed
from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.head import Head
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.input import Input
from unrolled.engine.models.layers.core_config import CoreConfig


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model: named inputs, concatenated to x (T, B, E), a recurrent core, and a head.

    Args:
        inputs: at least one that varies over time; their order is that of their columns in x.
        core: the recurrent layers.
        head: what is predicted.

    Raises:
        ConfigError: two parts do not go together.
    """

    inputs: tuple[Input, ...]
    core: CoreConfig
    head: Head

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        names = [column.name for column in self.inputs]
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ConfigError(f"inputs: {', '.join(repeated)} is there more than once")
        if not any("time" in column.axes for column in self.inputs):
            raise ConfigError(f"inputs: got {', '.join(names) or 'none'}; needs one that varies over time")
        if taken := sorted(self.head.outputs.keys() & set(names)):
            raise ConfigError(f"inputs: {', '.join(taken)} is the name of an output of the head; needs another name")
        self.head.check(self.core, self.inputs)

    @functools.cached_property
    def input_size(self) -> int:
        """Return E, the width of x."""
        return sum(column.width for column in self.inputs)

    @functools.cached_property
    def input_columns(self) -> dict[str, slice]:
        """Return each input's columns of x by its name."""
        columns, first = {}, 0
        for column in self.inputs:
            columns[column.name] = slice(first, first + column.width)
            first += column.width
        return columns

    @functools.cached_property
    def timed(self) -> Input:
        """Return the first input that varies over time; the first two axes of its array are T and B."""
        return next(column for column in self.inputs if "time" in column.axes)

    @functools.cached_property
    def capabilities(self) -> frozenset[str]:
        """Return what a model of this description can do.

        run       predictions for whole sequences
        step      predictions for time steps, from a state to the state after them
        generate  texts
        """
        return self.head.capabilities(self.core, self.inputs)

    def require(self, capability: str) -> None:
        """Check that a model of this description can do something.

        Raises:
            ConfigError: it cannot; the message says why.
        """
        if capability not in self.capabilities:
            why = (
                "its core is bidirectional: the second direction reads a sequence from its end"
                if self.core.bidirectional
                else f"its head is {self.head.kind} and its inputs are {', '.join(c.name for c in self.inputs)}"
            )
            raise ConfigError(
                f"this model has no {capability}, because {why}; it has {', '.join(sorted(self.capabilities))}"
            )

    def state_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Return the shape (S, L·D, B, H) of the state of ``batch_size`` rows."""
        return self.core.state_shape(batch_size)

    def batch_shape(self, inputs: Mapping[str, NDArray]) -> tuple[int, int]:
        """Return T and B of the inputs of a batch.

        Raises:
            ShapeError: inputs are missing or unexpected, or one has no time or batch axis.
        """
        if inputs.keys() != self.input_columns.keys():
            got = ", ".join(map(str, inputs)) or "none"
            raise ShapeError(f"inputs: got {got}; needs {', '.join(self.input_columns)}")
        column = self.timed
        array = inputs[column.name]
        if not isinstance(array, np.ndarray) or array.ndim != len(column.axes):
            got = f"shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ShapeError(f"{column.name}: got {got}, needs axes ({', '.join(map(str, column.axes))})")
        return array.shape[0], array.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "inputs": [column.to_dict() for column in self.inputs],
            "core": self.core.to_dict(),
            "head": self.head.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Any) -> ModelSpec:
        """Return the description that ``to_dict`` wrote.

        Raises:
            ConfigError: a part or a setting is missing, unknown or invalid.
        """
        if not isinstance(values, dict) or set(values) != {"inputs", "core", "head"}:
            got = ", ".join(sorted(map(str, values))) if isinstance(values, dict) else type(values).__name__
            raise ConfigError(f"model spec: got {got or 'nothing'}; needs inputs, core and head")
        if not isinstance(values["inputs"], list):
            raise ConfigError(f"inputs: got a {type(values['inputs']).__name__}, needs a list")
        inputs = tuple(_described(INPUTS, "input", each) for each in values["inputs"])
        return cls(
            inputs, _from_settings(CoreConfig, "core", values["core"]), _described(HEADS, "head", values["head"])
        )


def _described(registry: Mapping[str, Any], what: str, values: Any) -> Any:
    """Return the entry of a registry that a JSON object with ``kind`` describes."""
    kind = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in registry:
        raise ConfigError(f"{what}: got kind {kind!r}, choose one of {', '.join(registry)}")
    return _from_settings(registry[kind], what, {name: value for name, value in values.items() if name != "kind"})


def _from_settings(owner: type, what: str, values: Any) -> Any:
    """Return a dataclass of the settings in a JSON object."""
    if not isinstance(values, dict):
        raise ConfigError(f"{what}: got a {type(values).__name__}, needs an object of settings")
    values = completed(owner, values)
    fields = dataclasses.fields(owner)
    if unknown := sorted(set(values) - {field.name for field in fields}):
        raise ConfigError(
            f"{what}: unknown setting {', '.join(unknown)}; known are {', '.join(f.name for f in fields)}"
        )
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    if missing := sorted(needed - set(values)):
        raise ConfigError(f"{what}: {', '.join(missing)} missing")
    return owner(**values)
