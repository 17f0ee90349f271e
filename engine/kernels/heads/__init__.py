"""Heads of the compiled engine and the registry ``KERNEL_HEADS``, by the names of ``unrolled.engine.models.heads.HEADS``.

Each has the fixed signatures of ``HeadFunctions``, after the packing of the products' factors.
"""

from collections.abc import Callable

from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.heads.softmax import softmax_head
from unrolled.engine.models.heads.head import HeadFunctions

KERNEL_HEADS: dict[str, Callable[[Packing], HeadFunctions]] = {
    "next_token": softmax_head,
    "step_labels": softmax_head,
}
