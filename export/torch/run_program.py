"""The TorchScript program of a model of any description, form ``run``: tensors by name in and out.

    forward({inputs of the model, "lengths" (B,), "state" (S, L·D, B, H)}) -> {outputs of the head, "final_state"}

Without "lengths" all rows have T time steps, without "state" they start from zeros. The network is traced twice, for full and
for ragged batches, because full ones need no packing; TorchScript compiles the choice between them.
"""

# TorchScript evaluates the annotations of this module: no ``from __future__ import annotations`` here.
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.parameters import Params, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.export.torch.network import TorchNetwork

EXAMPLE_LENGTHS = (3, 1)  # of the traced example's rows
PROBE_LENGTHS = ((4, 4, 4), (5, 2, 4, 1))  # of the batches that a new program has to run as the network does


class RunProgram(nn.Module):
    """The traced networks of a model, and the choice between them."""

    main_input: Final[str]  # evaluated: TorchScript reads these
    state_sizes: Final[list[int]]

    def __init__(self, spec: ModelSpec, full: Any, ragged: Any) -> None:
        super().__init__()
        self.main_input = next(column.name for column in spec.inputs if "time" in column.axes)
        self.state_sizes = list(spec.state_shape(1))
        self.full, self.ragged = full, ragged

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        main, values = given[self.main_input], dict(given)
        T, B = main.size(0), main.size(1)
        if "lengths" not in values:
            values["lengths"] = torch.full([B], T, dtype=torch.int64)
        if "state" not in values:
            values["state"] = torch.zeros([self.state_sizes[0], self.state_sizes[1], B, self.state_sizes[3]])
        outputs: dict[str, Tensor] = {}
        if bool((values["lengths"] == T).all()):  # noqa: SIM108 - TorchScript has no dictionaries in conditional expressions
            outputs = self.full(values)
        else:
            outputs = self.ragged(values)
        return outputs


class _TracedNetwork(nn.Module):
    """A network as tracing needs it: its parameters under names without dots, and tensors by name in and out."""

    def __init__(self, network: TorchNetwork, ragged: bool) -> None:
        super().__init__()
        self.run = (
            network.forward
        )  # a method, because the network as a submodule would be compiled, with the names of its inputs
        self.columns, self.ragged = network.spec.inputs, ragged
        for name, parameter in network.weights.items():
            self.register_parameter(_flat(name), parameter)

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {column.name: given[column.name] for column in self.columns}
        lengths = given["lengths"] if self.ragged else None
        if lengths is not None:
            inputs = self._without_padding(inputs, lengths)
        outputs, final = self.run(inputs, lengths, given["state"])
        return {**outputs, "final_state": final}

    def _without_padding(self, inputs: Mapping[str, Tensor], lengths: Tensor) -> dict[str, Tensor]:
        """Return the inputs with zeros in the padding, where ids may be of no row of an embedding."""
        T = next(inputs[column.name] for column in self.columns if "time" in column.axes).shape[0]
        padding = torch.arange(T).unsqueeze(1) >= lengths  # (T, B)
        clean = dict(inputs)
        for column in self.columns:
            if "time" in column.axes:
                array = inputs[column.name]
                clean[column.name] = array.masked_fill(padding.view(*padding.shape, *(1,) * (array.ndim - 2)), 0)
        return clean


def _flat(name: str) -> str:
    """Return the name of a parameter in the program; dots would be those of modules."""
    return name.replace(".", "__")


def script_network(spec: ModelSpec, params: Params) -> Any:
    """Return the program of a model, given its parameters in float32.

    Raises:
        ModelFileError: the program does not follow the network, as one whose cell or head tracing froze at the example's sizes.
    """
    network = TorchNetwork(spec, params).requires_grad_(False).eval()
    example = (_example(spec, EXAMPLE_LENGTHS),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # _check_program looks at other sizes
        full, ragged = (
            torch.jit.trace(_TracedNetwork(network, choice), example, check_trace=False, strict=False)
            for choice in (False, True)
        )
    program = torch.jit.script(RunProgram(spec, full, ragged))
    _check_program(program, network)
    return program


def _example(spec: ModelSpec, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    """Return random valid arguments of a program for rows of ``lengths``."""
    rng, T, B = np.random.default_rng(len(lengths)), max(lengths), len(lengths)
    given = {column.name: torch.from_numpy(column.example(rng, T, B)) for column in spec.inputs}
    state = rng.uniform(-1, 1, spec.state_shape(B)).astype(np.float32)
    return {**given, "lengths": torch.tensor(lengths), "state": torch.from_numpy(state)}


def _check_program(program: Any, network: TorchNetwork) -> None:
    """Check that a program computes what the network does, also for other sizes than the example's."""
    with torch.inference_mode():
        for lengths in PROBE_LENGTHS:
            given = _example(network.spec, lengths)
            outputs, final = network(given, given["lengths"], given["state"])
            got = program(given)
            for name, value in {**outputs, "final_state": final}.items():
                if got[name].shape != value.shape or not torch.allclose(got[name], value, 1e-4, 1e-5):
                    raise ModelFileError(
                        f"the TorchScript program gives other {name} than the network for lengths {lengths}: its cell, inputs "
                        "or head compute with sizes that tracing freezes"
                    )


def program_params(program: Any, spec: ModelSpec) -> Params:
    """Return the parameters in a program from ``script_network``."""
    stored = program.full.state_dict()
    return {name: stored[_flat(name)].detach().numpy() for name in parameter_shapes(spec)}
