"""The compiled engine: the names, signatures and results of ``unrolled.engine.models.cells`` and ``.layers``, by Numba.

Kernels compile at their first call for a dtype and are cached on disk; a later process loads them in a moment.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

from unrolled.engine.kernels import optimizers as optim
from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.jit.compilation import Kernel, drop_stale_cache
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.layers import layers
from unrolled.engine.kernels.recurrent import gru, lstm, rnn
from unrolled.engine.kernels.simd import bf16

drop_stale_cache(
    variant="amx refused" if TARGET.amx_bf16 and not amx.AVAILABLE else ""
)  # before anything is called, and so before anything is loaded

KERNELS: dict[str, Kernel] = {
    "rnn": Kernel(rnn.forward_tanh, rnn.backward_tanh),
    "rnn_relu": Kernel(rnn.forward_relu, rnn.backward_relu),
    "gru": Kernel(gru.forward, gru.backward),
    "lstm": Kernel(lstm.forward, lstm.backward),
}

_PRODUCTS = (
    "linear_forward",
    "linear_backward_input",
    "linear_backward_weight",
    "embedded_linear_forward",
    "embedded_linear_backward",
    "first_layer_backward",
    "output_loss",
)


def make_kernels(in_bf16: bool) -> tuple[dict[str, Kernel], Any]:
    """Cells and layers whose products are in float32, or in bfloat16.

    Raises:
        ConfigError: this processor has no instruction for bfloat16.
    """
    if not in_bf16:
        return KERNELS, layers
    bf16.check_available()
    cells = {
        name: Kernel(partial(kernel.forward, bf16=True), partial(kernel.backward, bf16=True))
        for name, kernel in KERNELS.items()
    }
    rounded = {name: partial(getattr(layers, name), bf16=True) for name in _PRODUCTS}
    return cells, SimpleNamespace(**{**vars(layers), **rounded})


__all__ = ["KERNELS", "layers", "make_kernels", "optim"]
