"""The compiled engine: the names, signatures and results of ``unrolled.engine.models.cells`` and ``.layers``, by Numba.

Kernels compile at their first call for a dtype and are cached on disk; a later process loads them in a moment.
"""

from functools import partial

from unrolled.engine.kernels import optimizers as optim
from unrolled.engine.kernels.gemm.packing import Packing, choose_packing
from unrolled.engine.kernels.jit.compilation import Kernel
from unrolled.engine.kernels.layers import embedding, first_layer, linear, output_loss
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.scan import backward, forward
from unrolled.engine.kernels.threads.buffer_pool import zeros
from unrolled.engine.models.layers.functions import LayerFunctions

KERNELS: dict[str, Kernel] = {cell: Kernel(partial(forward, cell), partial(backward, cell)) for cell in CELL_FORMULAS}


def _layers_with(packing: Packing) -> LayerFunctions:
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


def make_kernels(packing: Packing = Packing.FULL) -> tuple[dict[str, Kernel], LayerFunctions]:
    """Return the cells and the layers, whose products have factors of a format."""
    cells = {
        name: Kernel(partial(kernel.forward, packing=packing), partial(kernel.backward, packing=packing))
        for name, kernel in KERNELS.items()
    }
    return cells, _layers_with(packing)


__all__ = ["KERNELS", "choose_packing", "make_kernels", "optim"]
