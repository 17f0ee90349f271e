"""Contract between a cell and the scan: two formulas over vectors of units, and counts of blocks of H columns.

A cell is a file of formulas beside this one and an entry of ``CELL_FORMULAS`` (``cells``); its reference is in
``unrolled.engine.models.cells``. The formulas run while code is generated. All arguments and results are tuples of
``Vector``s; a constant result may be a plain number.

    activate(hidden, inputs, before) -> gates, after
    differentiate(gates, before, after, dh, dstate) -> dgates, dbefore

``hidden`` and ``inputs`` are the G blocks of the hidden and the input product, ``before`` and ``after`` the S blocks of the
state before and after the time step, h first. ``gates`` are the blocks that the scan keeps for ``differentiate``. Their memory
holds the hidden product first and their gradient last; a block that is returned as it came is not written again.
``dh`` (one block) is the gradient of the output, ``dstate`` that of ``after`` from later time steps, and ``dbefore`` that
of ``before``, without the part of h that passes through the hidden product, which the scan adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Vectors = tuple[Any, ...]
Outputs = tuple[Vectors, Vectors]


class Formulas(NamedTuple):
    """A cell's formulas and its counts of blocks of H columns."""

    activate: Callable[[Vectors, Vectors, Vectors], Outputs]
    differentiate: Callable[[Vectors, Vectors, Vectors, Vectors, Vectors], Outputs]
    products: int  # G, of the input and of the hidden product; the first G blocks of dgates are dhg
    gates: int  # kept for ``differentiate``, at least G
    states: int  # S
    dxg: tuple[tuple[int, int], ...]  # ranges of the blocks of dgates that make up dxg
    gates_are_outputs: bool = False  # the block of gates is h itself, and that of dgates takes the memory of dh
