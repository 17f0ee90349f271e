"""What the registry of cells holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGMOID, TANH, RELU = "sigmoid", "tanh", "relu"


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: its sizes and its two functions; code outside the cells never asks which cell it is."""

    title: str
    gate_names: tuple[str, ...]  # PyTorch's order of the H-row blocks in weight_ih and weight_hh
    states: int  # S: arrays carried from step to step
    forward: Callable[..., tuple[NDArray[Any], NDArray[Any]]]
    backward: Callable[..., tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
    gate_kinds: tuple[str, ...]  # what makes each gate: SIGMOID, TANH or RELU

    @property
    def gates(self) -> int:
        """G: how many blocks of H rows weight_ih and weight_hh have."""
        return len(self.gate_names)


def sigmoid(x: NDArray) -> NDArray:
    """1 / (1 + e^-x), from e^-|x| so that neither sign overflows nor loses relative accuracy."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)
