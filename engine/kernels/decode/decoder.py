"""A model's weights packed for the compiled loop, and reading and generation on them."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.kernels.decode.flow import run_flow
from unrolled.engine.kernels.decode.sampling import NOT_FINITE
from unrolled.engine.kernels.decode.time_step import CellCode, cell_code
from unrolled.engine.kernels.gemm.matmul import product
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack_transposed, padded_columns
from unrolled.engine.kernels.threads.thread_pool import get_num_threads
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, layer_params
from unrolled.engine.models.step_contract import Flow


class PackedWeights(NamedTuple):
    """A model's weights as the compiled loop reads them.

    Args:
        cell: from ``cell_code``.
        table: (V, G·H), the first layer's input product of each token.
        panels_ih: (L - 1, …), packed input weights of the other layers; with one layer a placeholder, as ``b_ih``.
        panels_hh: (L, …), packed hidden weights.
        b_ih: (L - 1, G·H).
        b_hh: (L, G·H).
        panels_out: packed output weights.
        b_out: (V,).
    """

    cell: CellCode
    table: NDArray
    panels_ih: NDArray
    panels_hh: NDArray
    b_ih: NDArray
    b_hh: NDArray
    panels_out: NDArray
    b_out: NDArray

    @classmethod
    def pack(cls, config: LanguageModelConfig, params: Params, packing: Packing) -> Self:
        """Copy a model's parameters into packed form."""
        layers = [layer_params(params, layer) for layer in range(config.num_layers)]
        first, rest = layers[0], layers[1:]
        table = product(params["embedding.weight"], pack_transposed(first.w_ih, packing), first.b_ih)
        empty = np.zeros((0, config.hidden_size), table.dtype)
        return cls(
            cell=cell_code(config.cell, table.dtype),
            table=table,
            panels_ih=np.stack(
                [pack_transposed(layer.w_ih, packing) for layer in rest] or [pack_transposed(empty, packing)]
            ),
            panels_hh=np.stack([pack_transposed(layer.w_hh, packing) for layer in layers]),
            b_ih=np.stack([layer.b_ih for layer in rest] or [first.b_ih]),
            b_hh=np.stack([layer.b_hh for layer in layers]),
            panels_out=pack_transposed(params[config.output_weight_name], packing),
            b_out=params["output.bias"],
        )


# Arguments of the compiled loop that reading does not use, from ``last_drawn`` to ``counts``.
_NO_ROWS = np.empty(0, np.int64)
_NO_SETTINGS = DrawSettings.stack([])
_NO_INDICES = np.empty(0, np.uint64)
_NOTHING_DRAWN = (
    _NO_ROWS, _NO_ROWS, _NO_INDICES, _NO_INDICES, *_NO_SETTINGS, np.empty((0, 0), np.int64), _NO_ROWS,
)  # fmt: skip


class Decoder:
    """Reading and generation on packed weights: all steps of a row, sampling included, in one call on one thread.

    Args:
        config: the model.
        params: float32; copied into packed form, later changes have no effect.
        packing: format of the factors of products.
    """

    def __init__(self, config: LanguageModelConfig, params: Params, packing: Packing = Packing.FULL) -> None:
        self.config = config
        self._weights = PackedWeights.pack(config, params, packing)
        self._width = padded_columns(config.vocab_size, np.dtype(np.float32))

    def read(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (B, V) and the state after the last of tokens (T, B)."""
        T, B = tokens.shape
        at, moved, last = np.arange(B) * T, state.copy(), np.empty((B, self._width), state.dtype)
        run_flow(
            min(get_num_threads(), B), *self._weights, moved, tokens.T.reshape(-1), at, at + T, *_NOTHING_DRAWN,
            np.empty(B, np.bool_), last, True, -1, B, 0.0, T,
        )  # fmt: skip
        return last[:, : self.config.vocab_size], moved

    def flow(self, state: NDArray, flow: Flow, eos: int, slots: int, least: float = 0.0) -> None:
        """Advance rows, see ``unrolled.engine.models.step_contract.FlowingModel``.

        Args:
            eos: the token that ends a row; -1: none.
        """
        rows, output = flow[:7], flow[8:]
        run_flow(
            min(get_num_threads(), slots), *self._weights, state, *rows, *flow.settings, *output,
            np.empty((0, self._width), state.dtype), False, eos, slots, least, flow.written.shape[1],
        )  # fmt: skip
        if (bad := flow.last_drawn == NOT_FINITE).any():
            raise ModelFileError(
                f"row {int(flow.indices[bad.argmax()])}: the model's logits are not finite; its weights are damaged"
            )  # fmt: skip
