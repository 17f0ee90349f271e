"""Models of any description that is not a language model's, on every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.step_contract import Runner
from unrolled.engine.storage.description import Preprocessing
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.runtime.models.pickling import Rebuildable


class ModelRecord(NamedTuple):
    """Parts of a model file beside its weights and description.

    Args:
        preprocessing: how raw data become its inputs, by input.
        training: the record of its training.
        digest: that of the checkpoint.
        weights_digest: that of the weights that the model computes with.
        storage: that of the weights in an ONNX file; None: another file.
    """

    preprocessing: Preprocessing
    training: dict[str, Any]
    digest: str
    weights_digest: str
    storage: WeightStorage | None = None


class EngineSequenceModel(Rebuildable):
    """A ``SequenceModel`` on one of the engines."""

    def __init__(self, engine: str, runner: Runner, record: ModelRecord) -> None:
        self.engine, self.spec, self._runner = engine, runner.spec, runner
        self.capabilities = self.spec.capabilities
        self.preprocessing, self.training = record.preprocessing, record.training
        self.digest, self.weights_digest, self.storage = record.digest, record.weights_digest, record.storage

    def run(self, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None = None) -> Outputs:
        """Return the outputs of the head for whole sequences, as ``SequenceModel``."""
        self.spec.require("run")
        return self._runner.run(inputs, lengths)[0]

    def step(self, inputs: Mapping[str, NDArray], state: NDArray) -> tuple[Outputs, NDArray]:
        """Return the outputs of time steps that continue a state, and the state after them, as ``SequenceModel``."""
        self.spec.require("step")
        return self._runner.run(inputs, None, state)
