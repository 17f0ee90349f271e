"""The compiled engine: kernels with the names, signatures and results of the reference in ``unrolled.engine.models``.

Kernels compile at their first call for a dtype and are cached on disk; later processes load them in milliseconds. Each file
names the readable form of what it computes. A reading order: ``layers``, ``recurrent``, ``gemm``, ``simd``, ``threads``,
``jit``.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from unrolled.engine.kernels import optimizers
from unrolled.engine.kernels.gemm.packing import Packing, choose_packing
from unrolled.engine.kernels.heads import KERNEL_HEADS
from unrolled.engine.kernels.inputs import KERNEL_INPUTS
from unrolled.engine.kernels.layers import first_layer, linear
from unrolled.engine.kernels.recurrent.layer import recurrent_with
from unrolled.engine.kernels.threads import array_copies
from unrolled.engine.kernels.threads.buffer_pool import zeros
from unrolled.engine.kernels.threads.recording import Recording
from unrolled.engine.models.heads.head import HeadFunctions
from unrolled.engine.models.inputs.input import InputFunctions
from unrolled.engine.models.layers.functions import LayerFunctions
from unrolled.engine.models.layers.recurrent import RecurrentFunctions


class Kernels(NamedTuple):
    """The compiled functions of a network."""

    recurrent: RecurrentFunctions
    layers: LayerFunctions
    inputs: Mapping[str, InputFunctions]
    heads: Mapping[str, HeadFunctions]


def _layers_with(packing: Packing) -> LayerFunctions:
    """Return the layers, with products whose factors are packed in the given format."""
    return LayerFunctions(
        zeros,
        array_copies.copy,
        array_copies.mask,
        array_copies.join_columns,
        array_copies.take_columns,
        partial(linear.linear_forward, packing=packing),
        partial(linear.linear_backward_input, packing=packing),
        partial(linear.linear_backward_weight, packing=packing),
        partial(first_layer.embedded_linear_forward, packing=packing),
        partial(first_layer.first_layer_backward, packing=packing),
    )


def make_kernels(packing: Packing = Packing.FULL) -> Kernels:
    """Return the kernels, with products whose factors are packed in the given format."""
    heads = {kind: make(packing) for kind, make in KERNEL_HEADS.items()}
    return Kernels(recurrent_with(packing), _layers_with(packing), KERNEL_INPUTS, heads)


__all__ = ["Kernels", "Recording", "choose_packing", "make_kernels", "optimizers"]
