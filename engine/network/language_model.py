"""A language model under the step contract: tokens in, logits out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.inputs.batch import TOKENS
from unrolled.engine.models.language_model_config import LanguageModelConfig, language_model_of
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import check_step
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.network.network import Inputs, Network


class SpecStepper(Protocol):
    """A model of any description whose steps continue a state, in training or not."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def dtype(self) -> np.dtype: ...
    def step(self, inputs: Inputs, state: NDArray) -> tuple[Outputs, NDArray]: ...


class TokenStepper:
    """A model of any engine under the step contract of language models.

    Raises:
        ConfigError: the model is no language model.
    """

    def __init__(self, model: SpecStepper) -> None:
        self.config, self.model = language_model_of(model.spec), model

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (T, B, V) and next state of ``tokens`` (T, B) from ``state`` (S, L, B, H)."""
        check_step(self.config, tokens, state, self.model.dtype)
        outputs, state = self.model.step({TOKENS: tokens}, state)
        return outputs["logits"], state


class LanguageModel(TokenStepper):
    """A language model on NumPy arrays; it holds parameters and no state.

    Args:
        config, params, backend, precision: as in ``Network``.
    """

    def __init__(
        self, config: LanguageModelConfig, params: Params, backend: str = "numpy", precision: str = FLOAT32
    ) -> None:
        self.network = Network(config.spec, params, backend, precision)
        super().__init__(self.network)

    def __reduce__(self) -> Any:
        network = self.network
        return LanguageModel, (self.config, network.params, network.backend.name, network.precision)

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (T, B, V) and next state of ``tokens`` (T, B) from ``state`` (S, L, B, H)."""
        check_step(self.config, tokens, state, self.network.dtype)
        outputs, state = self.network.run_checked({TOKENS: tokens}, None, state)  # checked above: not a second time
        return outputs["logits"], state

    @property
    def engine(self) -> str:
        """Return the name of the backend, with the precision unless it is float32."""
        return self.network.engine

    @property
    def params(self) -> Params:
        """Return the parameters."""
        return self.network.params
