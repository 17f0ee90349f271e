"""A text as it is requested: its prompt, its index and its settings, checked against the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, SettingName, listed_settings
from unrolled.engine.models.step_contract import StepModel
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.context import Context, more_tokens


@dataclass(frozen=True, slots=True)
class Request:
    """A text to write; ``make_request`` makes it.

    Args:
        prompt: the text before it.
        tokens: (n,) int64, the prompt encoded.
        index: of the row, not negative: with ``config.seed`` it fixes the draws.
        config: the settings of this row, resolved.
        context: the context that it continues; ``tokens`` then begins with the last token of that.
    """

    prompt: str
    tokens: NDArray[np.int64]
    index: int
    config: GenerationConfig
    context: Context | None = None


def make_request(
    model: StepModel, prompt: str, index: int, config: GenerationConfig, context: Context | None = None
) -> Request:
    """Return a text to write, checked.

    Raises:
        UnknownTokenError: the prompt or a setting holds a text outside the vocabulary.
        ConfigError: settings that conflict with each other, the vocabulary or the model; a context of another model.
    """
    return Request(prompt, more_tokens(model, prompt, context), index, resolve(model, config), context)


def resolve(model: StepModel, config: GenerationConfig) -> GenerationConfig:
    """Return the same settings with ids for texts; ConfigError if the model does not support them."""
    if not config.plain and "step" not in model.capabilities:
        raise ConfigError(
            *listed_settings(config.extras),
            ": an ONNX file of form generate draws inside its graph, which has only ",
            *listed_settings(("temperature", "top_k")),
            " and ",
            SettingName("top_p"),
            "; export --form both, or use the checkpoint",
        )
    return config.resolved(model.tokenizer)
