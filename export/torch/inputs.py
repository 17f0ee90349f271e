"""The inputs in PyTorch: one function a kind, from an input's array to its columns of x (T, B, E)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput

Weights = Mapping[str, Tensor]
TorchInput = Callable[..., Tensor]  # (column, params, array, T) -> (T, B, width): the signature of ``Input.forward``


def embedded(column: TokensInput | CategoriesInput, params: Weights, array: Tensor, T: int) -> Tensor:
    """Return the embeddings (T, B, E) of ids."""
    return F.embedding(array, params[column.lookup])


def values(column: ValuesInput | StaticInput, params: Weights, array: Tensor, T: int) -> Tensor:
    """Return values (…, columns), shifted and scaled in float64, in the dtype of the parameters."""
    scaled = array.to(torch.float64)
    if column.mean is not None:
        scaled = scaled - torch.tensor(column.mean, dtype=torch.float64)
    if column.scale is not None:
        scaled = scaled / torch.tensor(column.scale, dtype=torch.float64)
    return scaled.to(next(iter(params.values())).dtype)


def static(column: StaticInput, params: Weights, array: Tensor, T: int) -> Tensor:
    """Return the values (B, columns) of a sequence, repeated to (T, B, columns)."""
    return values(column, params, array, T).expand(T, -1, -1)


TORCH_INPUTS: dict[str, TorchInput] = {
    TokensInput.kind: embedded,
    CategoriesInput.kind: embedded,
    ValuesInput.kind: values,
    StaticInput.kind: static,
}
