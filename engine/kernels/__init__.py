"""The compiled engine: kernels with the names, signatures and results of the reference in ``unrolled.engine.models``.

Kernels compile at their first call for a dtype and are cached on disk; later processes load them in milliseconds. Each file
names the readable form of what it computes. A reading order: ``layers``, ``recurrent``, ``gemm``, ``simd``, ``threads``,
``jit``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from unrolled.engine.kernels import optimizers
from unrolled.engine.kernels.gemm.packing import Packing, choose_packing
from unrolled.engine.kernels.layers import embedding, first_layer, linear, output_loss
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.scan import backward, forward
from unrolled.engine.kernels.threads.buffer_pool import zeros
from unrolled.engine.models.layers.functions import LayerFunctions


class CellKernel(NamedTuple):
    """Compiled cell; contract and formulas in ``unrolled.engine.models.cells``."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _layers_with(packing: Packing) -> LayerFunctions:
    """Return the layers, with products whose factors are packed in the given format."""
    return LayerFunctions(
        zeros,
        embedding.embedding_forward,
        embedding.embedding_backward,
        partial(linear.linear_forward, packing=packing),
        partial(linear.linear_backward_input, packing=packing),
        partial(linear.linear_backward_weight, packing=packing),
        partial(first_layer.embedded_linear_forward, packing=packing),
        partial(first_layer.first_layer_backward, packing=packing),
        partial(output_loss.output_loss, packing=packing),
    )


def make_kernels(packing: Packing = Packing.FULL) -> tuple[dict[str, CellKernel], LayerFunctions]:
    """Return the cells and the layers, with products whose factors are packed in the given format."""
    cells = {
        cell: CellKernel(partial(forward, cell, packing=packing), partial(backward, cell, packing=packing))
        for cell in CELL_FORMULAS
    }
    return cells, _layers_with(packing)


__all__ = ["CellKernel", "choose_packing", "make_kernels", "optimizers"]
