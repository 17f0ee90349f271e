"""The twin of a model in PyTorch: inputs, recurrent core and head, with PyTorch's parameter names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.dropout import NO_MASKS, Masks
from unrolled.engine.models.parameters import Params, check_params, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.export.torch.core import core_forward
from unrolled.export.torch.heads import TORCH_HEADS
from unrolled.export.torch.inputs import TORCH_INPUTS


class TorchNetwork(nn.Module):
    """A model of any description. It has no dropout of its own: training applies given masks, so that all engines drop the
    same units.

    Args:
        spec: description of the model.
        params: its parameters, whose dtype the module keeps; copied.

    Attributes:
        weights: its parameters by the names of ``parameter_shapes``, which are also those of ``named_parameters``.
    """

    def __init__(self, spec: ModelSpec, params: Params) -> None:
        check_params(spec, params)
        super().__init__()
        self.spec = spec
        self.weights = {name: nn.Parameter(torch.from_numpy(params[name].copy())) for name in parameter_shapes(spec)}
        for name, parameter in self.weights.items():
            _register(self, name, parameter)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the parameters."""
        return next(iter(self.weights.values())).dtype

    @property
    def numpy_dtype(self) -> np.dtype:
        """Return the NumPy dtype of the parameters."""
        return next(iter(self.weights.values())).detach().numpy().dtype

    def forward(
        self, inputs: Mapping[str, Tensor], lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the head's outputs for whole sequences, and the final state (S, L·D, B, H).

        Args:
            inputs: a tensor for each input of the model, by name; ids are valid in the padding too.
            lengths: (B,) int64, the valid time steps of each row; None: all.
            state: (S, L·D, B, H), the initial state; None: zero.
        """
        y, final = self.run_core(inputs, lengths, state)
        head = self.spec.head
        return TORCH_HEADS[head.kind].forward(head, self.weights, y, final, lengths, inputs), final

    def run_core(
        self,
        inputs: Mapping[str, Tensor],
        lengths: Tensor | None = None,
        state: Tensor | None = None,
        masks: Masks = NO_MASKS,
    ) -> tuple[Tensor, Tensor]:
        """Run inputs and core, with dropout masks; return y (T, B, D·H), which the head reads, and the final state."""
        ids = next(inputs[column.name] for column in self.spec.inputs if "time" in column.axes)
        T, B = ids.shape[0], ids.shape[1]
        columns = [
            TORCH_INPUTS[column.kind](column, self.weights, inputs[column.name], T) for column in self.spec.inputs
        ]
        x = columns[0] if len(columns) == 1 else torch.cat(columns, -1)
        x = _masked(x, masks.inputs)
        if state is None:
            state = torch.zeros(self.spec.state_shape(B), dtype=self.dtype)
        between = None if masks.between is None else [torch.from_numpy(mask) for mask in masks.between]
        y, final = core_forward(self.spec.core, self.weights, x, state, lengths, between)
        return _masked(y, masks.outputs), final

    def load_params(self, params: Params) -> None:
        """Copy parameters into the module.

        Raises:
            ModelFileError: their names are not those of the module.
        """
        load_params(self, params)


def _masked(x: Tensor, mask: np.ndarray | None) -> Tensor:
    return x if mask is None else x * torch.from_numpy(mask)


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name, with a module for each part before the last.

    ``add_module`` refuses names that are attributes of every module, such as "type" and "half", which inputs may have.
    """
    *path, last = name.split(".")
    for part in path:
        module = module._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
    module._parameters[last] = parameter


def load_params(module: nn.Module, params: Params) -> None:
    """Copy parameters into a module; a tied output matrix is the embedding's.

    Raises:
        ModelFileError: their names are not those of the module.
    """
    own = dict(module.named_parameters())  # a shared parameter appears once
    if set(own) != set(params):
        raise ModelFileError(f"parameters {sorted(params)} do not match the model's {sorted(own)}")
    with torch.no_grad():
        for name, value in params.items():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
