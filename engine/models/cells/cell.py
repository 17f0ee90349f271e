"""The entry of a recurrent cell in the registry, and the sigmoid that several cells use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGMOID, TANH, RELU = "sigmoid", "tanh", "relu"


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: its sizes and its two functions. Code outside the cells never tests which cell it has."""

    title: str
    gate_names: tuple[str, ...]  # PyTorch's order of the H-row blocks in weight_ih and weight_hh
    states: int  # S: arrays carried from one time step to the next
    forward: Callable[..., tuple[NDArray[Any], NDArray[Any]]]
    backward: Callable[..., tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
    gate_kinds: tuple[str, ...]  # activation of each gate: SIGMOID, TANH or RELU

    @property
    def gates(self) -> int:
        """Return G, the number of blocks of H rows in weight_ih and weight_hh."""
        return len(self.gate_names)


def sigmoid(x: NDArray) -> NDArray:
    """Return 1 / (1 + e^-x), computed from e^-|x| so that neither sign overflows or loses relative accuracy."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)
