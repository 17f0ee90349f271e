"""Generation of texts from prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from unrolled.engine.errors import ConfigError, NothingLeftError
from unrolled.engine.models.step_contract import LoadedModel
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.context import Context, more_tokens
from unrolled.runtime.generation.requests.generation import NOTHING_LEFT, Generation
from unrolled.runtime.generation.requests.request import Request, resolve
from unrolled.runtime.generation.scheduler.scheduler import write_rows
from unrolled.runtime.models.argument_checks import check_language_model, shown, take_texts

AnyConfig = TypeVar("AnyConfig", bound=GenerationConfig)


def check_config(config: AnyConfig | None, settings: dict[str, Any], kind: type[AnyConfig], verb: str) -> AnyConfig:
    """Return a config of one kind: the given one, or of settings by name; ConfigError for both, another kind or name."""
    if config is not None and settings:
        raise ConfigError(f"give a {kind.__name__} or settings by name, not both")
    if unknown := sorted(set(settings) - {field.name for field in fields(kind)}):
        known = ", ".join(field.name for field in fields(kind))
        raise ConfigError(f"{verb}: no setting {', '.join(unknown)}; there are {known}")
    if config is None:
        return kind(**settings)
    if type(config) is not kind:  # a config of beams has settings that drawing would ignore
        raise ConfigError(f"config: got {shown(config)}, needs a {kind.__name__}")
    return config


def generate(
    model: LoadedModel,
    prompts: str | Iterable[str],
    config: GenerationConfig | None = None,
    *,
    context: Context | None = None,
    **settings: Any,
) -> list[Generation]:
    """Write texts after ``prompts``.

    A row's text depends on its prompt, the seed and its index alone, and not on the other rows or the batch size.

    Args:
        model: from ``load``, or any StepModel.
        prompts: a text, or several of any lengths: a list, an array, a column, an iterator.
        config: settings; or give them by name, for instance ``temperature=0.8``.
        context: from ``read``: the context that every prompt continues; prompts may then be empty.

    Returns:
        ``num_return_sequences`` generations for each prompt, in order.

    Raises:
        ConfigError: a setting is out of its range, there is no prompt, a prompt is not a text, the model is not loaded,
            the model writes no texts, or the context is of another model.
        UnknownTokenError: a prompt or a setting holds a text outside the vocabulary.
        NothingLeftError: the settings leave no token for the rows of these indices.
    """
    config = check_config(config, settings, GenerationConfig, "generate")
    model = check_language_model(model)
    given = take_texts("prompts", prompts)
    repeats, config = config.num_return_sequences, resolve(model, config)
    encoded = [more_tokens(model, prompt, context) for prompt in given]
    requests = (
        Request(prompt, tokens, place * repeats + copy, config, context)
        for place, (prompt, tokens) in enumerate(zip(given, encoded, strict=True))
        for copy in range(repeats)
    )
    texts = list(write_rows(model, requests, config.batch_size))
    if stuck := tuple(text.index for text in texts if text.finish_reason == NOTHING_LEFT):
        raise NothingLeftError(config.extras, stuck)
    return texts
