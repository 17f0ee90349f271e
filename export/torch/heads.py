"""The heads in PyTorch: two functions each, with the signatures of ``Head.forward`` and, without gradients, ``Head.loss``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.heads.softmax import BIAS
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.export.torch.output_loss import output_loss

Weights = Mapping[str, Tensor]
SoftmaxHead = NextTokenHead | StepLabelsHead


class TorchLoss(NamedTuple):
    """The loss of a batch.

    Args:
        total: Σ wℓ, which can be differentiated; autograd then has the head's gradients.
        sums: the sums over the counted positions or sequences, as numbers.
    """

    total: Tensor
    sums: LossSums


class TorchHead(NamedTuple):
    """A head in PyTorch, with the head itself as the first argument of each function.

    Args:
        forward: (head, params, y, final_state, lengths, inputs) -> the outputs by name.
        loss: (head, params, y, final_state, batch, smoothing) -> the loss; the batch has NumPy arrays.
    """

    forward: Callable[..., dict[str, Tensor]]
    loss: Callable[..., TorchLoss]


def softmax_outputs(
    head: SoftmaxHead,
    params: Weights,
    y: Tensor,
    final_state: Tensor,
    lengths: Tensor | None,
    inputs: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the logits (T, B, C)."""
    return {"logits": F.linear(y, params[head.weight_name], params[BIAS])}


def softmax_loss(
    head: SoftmaxHead, params: Weights, y: Tensor, final_state: Tensor, batch: Batch, smoothing: float
) -> TorchLoss:
    """Return the cross-entropy of the classes at the time steps of positive weight."""
    counted = batch.weights > 0
    targets = torch.from_numpy(batch.targets)
    weights = None if batch.weights.dtype == np.bool_ else torch.from_numpy(batch.weights).to(y.dtype)
    if counted.all():
        h, targets = y.flatten(0, 1), targets.flatten()
        weights = None if weights is None else weights.flatten()
    else:
        rows = torch.from_numpy(counted)
        h, targets = y[rows], targets[rows]
        weights = None if weights is None else weights[rows]
    total, correct = output_loss(h, params[head.weight_name], params[BIAS], targets, smoothing, weights)
    return TorchLoss(total, LossSums(float(total.detach()), batch.weight, (correct, len(targets))))


TORCH_HEADS: dict[str, TorchHead] = {
    NextTokenHead.kind: TorchHead(softmax_outputs, softmax_loss),
    StepLabelsHead.kind: TorchHead(softmax_outputs, softmax_loss),
}
