"""Options that choose the engine of a training or of a model file, and the precision of its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from unrolled.cli.options.groups import options_of
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.network.backends import FLOAT32, PRECISIONS
from unrolled.engine.settings import Setting
from unrolled.export.training_engines import TRAINABLES
from unrolled.runtime import ENGINES, load_language_model

PRECISION = Setting("precision", "Of products; bf16: numba engine, processors with AVX512-BF16.", choices=PRECISIONS)


@dataclass(frozen=True)
class TrainingEngine:
    """The engine that trains."""

    engine: Annotated[str, Setting("engine", "", choices=TRAINABLES)] = "numba"
    precision: Annotated[str, PRECISION] = FLOAT32


@dataclass(frozen=True)
class ModelEngine:
    """The engine that a checkpoint runs on; None: onnxruntime."""

    engine: Annotated[
        str | None, Setting("engine", "What a checkpoint runs on.", choices=ENGINES, default="onnxruntime")
    ] = None
    precision: Annotated[str, PRECISION] = FLOAT32

    def load(self, model: str) -> StepModel:
        """Return the model of a file or run folder on this engine."""
        return load_language_model(model, self.engine, self.precision)


EngineOptions = Annotated[ModelEngine, options_of(ModelEngine)]
