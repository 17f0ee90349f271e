"""The compiled engine: the names, signatures and results of ``unrolled.engine.cells`` and ``.layers``, by Numba.

Kernels compile at their first call for a dtype and are cached on disk; a later process loads them in a moment.
"""

from unrolled.engine.kernels import gru, layers, lstm, optim, rnn
from unrolled.engine.kernels.kernel import Kernel, drop_stale_cache

drop_stale_cache()  # before anything is called, and so before anything is loaded

KERNELS: dict[str, Kernel] = {
    "rnn": Kernel(rnn.forward_tanh, rnn.backward_tanh),
    "rnn_relu": Kernel(rnn.forward_relu, rnn.backward_relu),
    "gru": Kernel(gru.forward, gru.backward),
    "lstm": Kernel(lstm.forward, lstm.backward),
}

__all__ = ["KERNELS", "layers", "optim"]
