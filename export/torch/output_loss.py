"""Output layer and loss in PyTorch, without an array of all logits where that would be large.

Letters: N counted positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unrolled.engine.models.layers.output_loss import logit_pieces


def output_loss(h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of the output layer on ``h`` (N, H), and how often the likeliest token is the target.

    Args:
        weight, bias: (V, H) and (V,).
        targets: (N,) token ids.
        smoothing: share of the target's probability that is spread uniformly over all V tokens.
    """
    pieces = list(logit_pieces(len(h), len(bias), h.detach().numpy().dtype))
    if len(pieces) <= 1:
        logits = F.linear(h, weight, bias)
        loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        return loss, _hits(logits.detach(), targets)
    if torch.is_grad_enabled():
        loss, correct = _PiecewiseLoss.apply(h, weight, bias, targets, smoothing, pieces)
        return loss, int(correct)
    total, correct = _summed(h, weight, bias, targets, smoothing, pieces, [])
    return torch.tensor(total, dtype=torch.float64), correct


def _hits(logits: Tensor, targets: Tensor) -> int:
    return int((logits.argmax(-1) == targets).sum())


def _summed(
    h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, pieces: list[slice], grads: list[Tensor]
) -> tuple[float, int]:
    """Return loss and hits, computed piece by piece.

    Args:
        grads: gradients of h, weight and bias to write and add to; empty: none.
    """
    total, correct = 0.0, 0
    for piece in pieces:
        loss, hits = _piece(h, weight, bias, targets, smoothing, piece, grads)
        total += loss
        correct += hits
    return total, correct


def _piece(
    h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, piece: slice, grads: list[Tensor]
) -> tuple[float, int]:
    """Return loss and hits of one piece; returning frees its arrays before the next piece allocates its own."""
    logits = F.linear(h[piece], weight, bias)
    hits = _hits(logits, targets[piece])
    with torch.set_grad_enabled(bool(grads)):
        loss = F.cross_entropy(
            logits.requires_grad_(bool(grads)), targets[piece], reduction="sum", label_smoothing=smoothing
        )
    if grads:
        (dlogits,) = torch.autograd.grad(loss, logits)
        del logits
        torch.mm(dlogits, weight, out=grads[0][piece])
        grads[1].addmm_(dlogits.t(), h[piece])
        grads[2] += dlogits.sum(0)
    return float(loss.detach()), hits


class _PiecewiseLoss(torch.autograd.Function):
    """Loss with gradients, which are computed with each piece while its logits exist, so nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, pieces: list[slice]
    ) -> tuple[Tensor, Tensor]:
        ctx.grads = [torch.empty_like(h), torch.zeros_like(weight), torch.zeros_like(bias)]
        total, correct = _summed(h, weight, bias, targets, smoothing, pieces, ctx.grads)
        hits = torch.tensor(correct)
        ctx.mark_non_differentiable(hits)
        return torch.tensor(total, dtype=torch.float64), hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, []  # handed over, so that autograd keeps these arrays without copying
        dh, dweight, dbias = (grad.mul_(dloss.to(grad.dtype)) for grad in grads)
        return dh, dweight, dbias, None, None, None
