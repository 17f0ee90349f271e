"""The registry of compiled cells: one entry of formulas and counts for each name in ``unrolled.engine.models.cells.CELLS``."""

from functools import partial

from unrolled.engine.kernels.recurrent import gru, lstm, rnn
from unrolled.engine.kernels.recurrent.formulas import Formulas
from unrolled.engine.kernels.simd.activations import tanh

CELL_FORMULAS: dict[str, Formulas] = {
    "rnn": Formulas(
        partial(rnn.activate, tanh), partial(rnn.differentiate, rnn.through_tanh), 1, 1, 1, ((0, 1),), True
    ),
    "rnn_relu": Formulas(
        partial(rnn.activate, rnn.relu), partial(rnn.differentiate, rnn.through_relu), 1, 1, 1, ((0, 1),), True
    ),
    "gru": Formulas(gru.activate, gru.differentiate, 3, 4, 1, ((0, 2), (3, 4))),
    "lstm": Formulas(lstm.activate, lstm.differentiate, 4, 4, 2, ((0, 4),)),
}
