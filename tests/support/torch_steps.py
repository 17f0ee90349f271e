"""Cells as functions of one time step in PyTorch, for the registry of cells; TorchScript compiles them."""

# TorchScript evaluates the annotations of this module: no ``from __future__ import annotations`` here.
import torch
from torch import Tensor


def lstm_step(xg: Tensor, state: Tensor, w_hh: Tensor, b_hh: Tensor) -> Tensor:
    """Return h and c (2, B, H) after a time step of an LSTM."""
    i, f, g, o = (xg + torch.nn.functional.linear(state[0], w_hh, b_hh)).chunk(4, 1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.stack([torch.sigmoid(o) * torch.tanh(c), c])


def gru_step(xg: Tensor, state: Tensor, w_hh: Tensor, b_hh: Tensor) -> Tensor:
    """Return h (1, B, H) after a time step of a GRU."""
    hg = torch.nn.functional.linear(state[0], w_hh, b_hh)
    (xr, xz, xn), (hr, hz, hn) = xg.chunk(3, 1), hg.chunk(3, 1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return ((1 - z) * n + z * state[0]).unsqueeze(0)
