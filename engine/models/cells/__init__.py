"""Recurrent cells in NumPy, one readable reference file each, and the registry ``CELLS`` from which all code enumerates them.

Contract of every cell; the Numba kernels have the same names and signatures:

    forward(xg (T,B,G·H), s0 (S,B,H), w_hh (G·H,H), b_hh (G·H,)) -> states (T+1,S,B,H), gates
    backward(dh (T,B,H), ds_T (S,B,H), states, gates, w_hh, b_hh) -> dxg (T,B,G·H), dhg (T,B,G·H), ds0 (S,B,H)

``xg`` is the layer's input product with its bias, x·W_ihᵀ + b_ih. ``states[0]`` is ``s0``, ``states[t + 1]`` is the state
after time step t, and index 0 of a state is h. ``gates`` holds whatever else backward needs, in the cell's own shape.
``dhg`` is the gradient of h_prev·W_hhᵀ + b_hh, so dW_hh = Σ_t dhg_tᵀ·h_prev and db_hh = Σ dhg.
"""

from functools import partial

from unrolled.engine.models.cells import gru, lstm, rnn
from unrolled.engine.models.cells.cell import RELU, SIGMOID, TANH, Cell


def _elman(title: str, phi: rnn.Activation, gate_kind: str) -> Cell:
    return Cell(title, ("h",), 1, partial(rnn.forward, phi), partial(rnn.backward, phi), (gate_kind,))


CELLS: dict[str, Cell] = {
    "rnn": _elman("Elman RNN, tanh", rnn.PHI_TANH, TANH),
    "rnn_relu": _elman("Elman RNN, relu", rnn.PHI_RELU, RELU),
    "gru": Cell(
        "GRU, reset after the product", ("r", "z", "n"), 1, gru.forward, gru.backward, (SIGMOID, SIGMOID, TANH)
    ),
    "lstm": Cell("LSTM", ("i", "f", "g", "o"), 2, lstm.forward, lstm.backward, (SIGMOID, SIGMOID, TANH, SIGMOID)),
}
