"""Output layer and loss in PyTorch, without an array of all logits where that would be large.

Letters: N counted positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unrolled.engine.models.layers.output_loss import logit_pieces


class _Targets(NamedTuple):
    """The targets of N positions, and the settings of their loss.

    Args:
        ids: (N,) classes.
        weights: (N,), the factors of the losses; None: 1.
        smoothing: share of the target's probability that is spread uniformly over all V classes.
    """

    ids: Tensor
    weights: Tensor | None
    smoothing: float

    def part(self, piece: slice) -> _Targets:
        """Return the targets of a piece of the positions."""
        return _Targets(self.ids[piece], None if self.weights is None else self.weights[piece], self.smoothing)

    def loss(self, logits: Tensor) -> Tensor:
        """Return the weighted sum of the cross-entropies of logits (N, V)."""
        if self.weights is None:
            return F.cross_entropy(logits, self.ids, reduction="sum", label_smoothing=self.smoothing)
        losses = F.cross_entropy(logits, self.ids, reduction="none", label_smoothing=self.smoothing)
        return (losses * self.weights).sum()

    def hits(self, logits: Tensor) -> int:
        """Return how often the likeliest class is the target."""
        return int((logits.argmax(-1) == self.ids).sum())


def output_loss(
    h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of the output layer on ``h`` (N, H), and how often the likeliest class is the target.

    Args:
        weight, bias: (V, H) and (V,).
        targets: (N,) class ids.
        smoothing: share of the target's probability that is spread uniformly over all V classes.
        weights: (N,), the factors of the losses; None: 1.
    """
    wanted = _Targets(targets, weights, smoothing)
    pieces = list(logit_pieces(len(h), len(bias), h.detach().numpy().dtype))
    if len(pieces) <= 1:
        logits = F.linear(h, weight, bias)
        return wanted.loss(logits), wanted.hits(logits.detach())
    if torch.is_grad_enabled():
        loss, correct = _PiecewiseLoss.apply(h, weight, bias, wanted, pieces)
        return loss, int(correct)
    total, correct = _summed(h, weight, bias, wanted, pieces, [])
    return torch.tensor(total, dtype=torch.float64), correct


def _summed(
    h: Tensor, weight: Tensor, bias: Tensor, targets: _Targets, pieces: list[slice], grads: list[Tensor]
) -> tuple[float, int]:
    """Return loss and hits, computed piece by piece.

    Args:
        grads: gradients of h, weight and bias to write and add to; empty: none.
    """
    total, correct = 0.0, 0
    for piece in pieces:
        loss, hits = _piece(h, weight, bias, targets.part(piece), piece, grads)
        total += loss
        correct += hits
    return total, correct


def _piece(
    h: Tensor, weight: Tensor, bias: Tensor, targets: _Targets, piece: slice, grads: list[Tensor]
) -> tuple[float, int]:
    """Return loss and hits of one piece; returning frees its arrays before the next piece allocates its own."""
    logits = F.linear(h[piece], weight, bias)
    hits = targets.hits(logits)
    with torch.set_grad_enabled(bool(grads)):
        loss = targets.loss(logits.requires_grad_(bool(grads)))
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
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, targets: _Targets, pieces: list[slice]
    ) -> tuple[Tensor, Tensor]:
        ctx.grads = [torch.empty_like(h), torch.zeros_like(weight), torch.zeros_like(bias)]
        total, correct = _summed(h, weight, bias, targets, pieces, ctx.grads)
        hits = torch.tensor(correct)
        ctx.mark_non_differentiable(hits)
        return torch.tensor(total, dtype=torch.float64), hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, []  # handed over, so that autograd keeps these arrays without copying
        dh, dweight, dbias = (grad.mul_(dloss.to(grad.dtype)) for grad in grads)
        return dh, dweight, dbias, None, None
