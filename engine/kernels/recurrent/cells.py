"""Registry of compiled cells: formulas and counts for each name in ``unrolled.engine.models.cells.CELLS``."""

from collections.abc import Callable
from functools import partial

from unrolled.engine.kernels.recurrent import gru, lstm, rnn
from unrolled.engine.kernels.recurrent.formulas import Formulas
from unrolled.engine.kernels.simd.activations import tanh
from unrolled.engine.kernels.simd.vectors import Vector


def _elman(phi: Callable[[Vector], Vector], through_phi: Callable[[Vector, Vector], Vector]) -> Formulas:
    return Formulas(
        partial(rnn.activate, phi), partial(rnn.differentiate, through_phi), products=1, gates=1, states=1,
        dxg=((0, 1),), gates_are_outputs=True,
    )  # fmt: skip


CELL_FORMULAS: dict[str, Formulas] = {
    "rnn": _elman(tanh, rnn.through_tanh),
    "rnn_relu": _elman(rnn.relu, rnn.through_relu),
    "gru": Formulas(gru.activate, gru.differentiate, products=3, gates=4, states=1, dxg=((0, 2), (3, 4))),
    "lstm": Formulas(lstm.activate, lstm.differentiate, products=4, gates=4, states=2, dxg=((0, 4),)),
}
