"""One LSTM layer over padded rows of different lengths by torch's function of full batches, which oneDNN computes.

torch runs packed sequences without oneDNN, one time step after the other. A layer of two directions and its gradients then
take 2.3 (H = 128) or 1.75 times (H = 256) as long as here, where the padding is computed too (E = 100, B = 32, T = 64,
lengths uniform in 1 … T, one thread).

    x'_t = [x_t, 0] for t < n, and [0, 1] in the padding
    w'   = [w_ih, k],   k = -K, K, 0, 0 in the rows of the gates i, f, g, o

So in the padding i = 0 and f = 1 exactly, c keeps its value, and no gradient passes through the gates. The final h is the
output of the last valid time step. The second direction reads each row in the opposite order of its own time steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

mkldnn: Any = torch.backends.mkldnn  # typed Any: its flag is a property that mypy mistakes for a constant

SATURATED = 1e30  # K, which rounds away whatever the other summands of a gate's argument are


def is_faster(x: Tensor) -> bool:
    """Return whether oneDNN computes a layer that reads ``x``: float32 alone, and not in a trace, which would freeze sizes."""
    return x.dtype == torch.float32 and mkldnn.is_available() and bool(mkldnn.enabled) and not torch.jit.is_tracing()


class _Reversed(torch.autograd.Function):
    """The time steps of each row in the opposite order, with the padding where it is; its own inverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor) -> Tensor:
        ctx.source = source
        return x.flatten(0, 1).index_select(0, source).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy.flatten(0, 1).index_select(0, ctx.source).view_as(dy), None


def padded_lstm(lengths: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Run one layer.

    Args:
        lengths: (B,), the valid time steps of each row.
        x: (T, B, E), finite in the padding.
        state: (2, D, B, H), the initial h and c.
        weights: w_ih, w_hh, b_ih and b_hh of each direction.

    Returns:
        Outputs (T, B, D·H), zero in the padding, and the final state (2, D, B, H).
    """
    (T, B), H = x.shape[:2], state.shape[3]
    steps = torch.arange(T).unsqueeze(1)
    padding = steps >= lengths  # (T, B)
    source = (torch.where(padding, steps, lengths - 1 - steps) * B + torch.arange(B)).flatten()
    valid = (~padding).unsqueeze(2).to(x.dtype)
    last = (lengths - 1).view(1, B, 1).expand(1, B, H)
    gates = torch.tensor([-SATURATED, SATURATED, 0.0, 0.0], dtype=x.dtype).repeat_interleave(H).unsqueeze(1)
    x = torch.cat([x * valid, 1 - valid], 2)
    outputs, finals = [], []
    for direction in range(state.shape[1]):
        w_ih, w_hh, b_ih, b_hh = weights[4 * direction : 4 * direction + 4]
        read = _Reversed.apply(x, source) if direction else x
        initial = tuple(state[:, direction : direction + 1])
        own = [torch.cat([w_ih, gates], 1), w_hh, b_ih, b_hh]
        y, _, c = torch.lstm(read, initial, own, True, 1, 0.0, False, False, False)
        finals.append(torch.stack([y.gather(0, last), c]))
        y = y * valid
        outputs.append(_Reversed.apply(y, source) if direction else y)
    return torch.cat(outputs, 2), torch.cat(finals, 1)
