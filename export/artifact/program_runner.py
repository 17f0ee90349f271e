"""Runs of an exported program of form ``run``, for a model of any description, whatever executes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.input_checks import checked_inputs
from unrolled.engine.models.inputs.input import sized
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import check_state, zero_state
from unrolled.export.artifact.forms import RUN, signature_of


class ProgramRunner(ABC):
    """Predictions of a program of form ``run``, with the calls of ``Network`` and checks of arguments and results.

    Args:
        spec: description of the model, which the program's inputs and outputs must fit.
        where: the program's name in error messages.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, spec: ModelSpec, where: str) -> None:
        self.spec, self._where = spec, where
        self._signature = signature_of(RUN, spec)

    @abstractmethod
    def _results(self, given: dict[str, NDArray]) -> Mapping[str, Any]:
        """Return the results of the program by name.

        Raises:
            ModelFileError: it does not run.
        """

    def unchecked(self, given: dict[str, NDArray]) -> Mapping[str, Any]:
        """Return the results of the program by name for all its inputs, whatever the inputs hold.

        Raises:
            ModelFileError: it does not run.
        """
        return self._results(given)

    def run(
        self, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None = None, state: NDArray | None = None
    ) -> tuple[Outputs, NDArray]:
        """Return the head's outputs for whole sequences, and the final state (S, L·D, B, H).

        Args:
            inputs: an array for each input of the model, by name.
            lengths: (B,) int64, the valid time steps of each row; None: all.
            state: (S, L, B, H), the initial state, only for a model that has steps; None: zero.

        Raises:
            ShapeError: an array does not fit the model or the others.
            ConfigError: an initial state for a model that has no steps.
            ModelFileError: the program does not run, or its results do not fit the spec.
        """
        T, B = self.spec.batch_shape(inputs)
        given = checked_inputs(self.spec, inputs, lengths)
        given["lengths"] = np.full(B, T) if lengths is None else lengths
        if state is not None:
            self.spec.require("step")
        if "state" in self._signature.inputs:
            given["state"] = zero_state(self.spec, B) if state is None else state
            check_state(self.spec, given["state"], B)
        results = self._results(given)
        self._check_results(results, T, B)
        return {name: results[name] for name in self.spec.head.outputs}, results["final_state"]

    def step(self, inputs: Mapping[str, NDArray], state: NDArray) -> tuple[Outputs, NDArray]:
        """Return the head's outputs for time steps that continue ``state`` (S, L, B, H), and the state after them.

        Raises:
            ConfigError: the model has no steps, as one of two directions.
        """
        self.spec.require("step")
        return self.run(inputs, None, state)

    def _check_results(self, results: Mapping[str, Any], T: int, B: int) -> None:
        """Check shapes and dtypes of the program's results."""
        for name, value in self._signature.outputs.items():
            got, wanted = results.get(name), sized(value.axes, T, B)
            if not isinstance(got, np.ndarray) or got.shape != wanted or got.dtype != value.dtype:
                what = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
                raise ModelFileError(f"{self._where}: the graph gives {name} of {what}, needs {value.dtype} {wanted}")
