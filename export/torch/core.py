"""The recurrent core in PyTorch: layers of one or two directions over rows of different lengths, packed as torch packs them.

Letters: N = Σ lengths, the valid time steps of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import layer_names
from unrolled.export.torch.cells import TORCH_CELLS
from unrolled.export.torch.padded_lstm import is_faster


class _Packing(NamedTuple):
    """The order of the rows of a packed batch.

    Args:
        order: (B,), the rows by length, the longest first.
        restored: (B,), the place of each row in that order.
        lengths: (B,), the lengths in that order.
    """

    order: Tensor
    restored: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, lengths: Tensor) -> _Packing:
        """Return the packing of rows of ``lengths`` (B,)."""
        order = torch.argsort(lengths, descending=True, stable=True)
        return cls(order, torch.argsort(order), lengths.index_select(0, order))

    def pack(self, array: Tensor, T: int) -> tuple[Tensor, Tensor]:
        """Return the valid time steps (N, ·) of an array (T or 1, B, ·), and the number of rows at each of them."""
        array = array.expand(T, -1, -1).index_select(1, self.order)
        return torch._VF._pack_padded_sequence(array, self.lengths, False)

    def unpack(self, data: Tensor, batch_sizes: Tensor, T: int) -> Tensor:
        """Return the array (T, B, ·) of packed data, with zeros in the padding."""
        array, _ = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, T)
        return array.index_select(1, self.restored)


def core_forward(
    core: CoreConfig,
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
    masks: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run all recurrent layers.

    Args:
        x: (T, B, E), the columns of all inputs.
        state: (S, L·D, B, H), the initial state.
        lengths: (B,), the valid time steps of each row; None: all.
        masks: dropout masks (T or 1, B, D·H) for each boundary between layers.

    Returns:
        The last layer's outputs (T, B, D·H), zero in the padding, and the final state (S, L·D, B, H).
    """
    cell = TORCH_CELLS[core.cell]
    if lengths is None:
        return _layers(core, params, x, state, None, masks)
    if cell.padded is not None and is_faster(x):
        return _layer_by_layer(core, params, x, state, masks, partial(cell.padded, lengths))
    T, packing = x.shape[0], _Packing.of(lengths)
    data, batch_sizes = packing.pack(x, T)
    packed_masks = None if masks is None else [packing.pack(mask, T)[0] for mask in masks]
    y, final = _layers(core, params, data, state.index_select(2, packing.order), batch_sizes, packed_masks)
    return packing.unpack(y, batch_sizes, T), final.index_select(2, packing.restored)


def _layers(
    core: CoreConfig,
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Tensor,
    batch_sizes: Tensor | None,
    masks: Sequence[Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Run the layers on a full batch (T, B, E), or on packed data (N, E)."""
    run = TORCH_CELLS[core.cell].layers
    if masks is None:
        weights = [weight for layer in range(core.num_layers) for weight in _weights(core, params, layer)]
        return run(x, state, weights, core.num_layers, core.bidirectional, batch_sizes)
    return _layer_by_layer(
        core, params, x, state, masks, lambda x, state, own: run(x, state, own, 1, core.bidirectional, batch_sizes)
    )


def _layer_by_layer(
    core: CoreConfig,
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Tensor,
    masks: Sequence[Tensor] | None,
    run: Callable[[Tensor, Tensor, list[Tensor]], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Run one layer after the other by ``run``, with the masks between them."""
    finals, D = [], core.directions
    for layer in range(core.num_layers):
        x = x * masks[layer - 1] if layer and masks is not None else x
        x, final = run(x, state[:, layer * D : (layer + 1) * D], _weights(core, params, layer))
        finals.append(final)
    return x, torch.cat(finals, dim=1)


def _weights(core: CoreConfig, params: Mapping[str, Tensor], layer: int) -> list[Tensor]:
    """Return the four arrays of each direction of a layer."""
    return [params[name] for direction in range(core.directions) for name in layer_names(layer, direction)]
