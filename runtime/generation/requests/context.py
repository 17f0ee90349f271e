"""The context of a model as a value: it can be kept, saved, and continued many times, on another engine or process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError, UnknownTokenError
from unrolled.engine.models.draw_settings import GREEDY
from unrolled.engine.models.step_contract import Draws, LoadedModel, StepModel, WritingModel, zero_state
from unrolled.engine.storage.atomic_files import replacing
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.argument_checks import check_language_model, check_path, check_text, shown
from unrolled.runtime.models.batch_invariance import RowModel

CONTEXT_FORMAT = "unrolled-context-1"


@dataclass(frozen=True, eq=False)
class Context:
    """Tokens that were read, and the state after all but the last of them; a text that continues it reads that token again.

    Args:
        tokens: (n,) int64, n ≥ 1, all tokens so far.
        state: (S, L, H) float32, after tokens[:-1].
        written: the number of tokens that were drawn, and so the number of the next draw.
        digest: ``weights_digest`` of the model that read it; any engine may run these weights.
    """

    tokens: NDArray[np.int64]
    state: NDArray[np.float32]
    written: int
    digest: str

    def check(self, model: StepModel) -> None:
        """Raise ConfigError unless the context was read with the weights of this model, and its tokens are ids of it."""
        S, L, _, H = model.config.state_shape(1)
        if self.digest != model.weights_digest or self.state.shape != (S, L, H):
            raise ConfigError(
                "context: was read by another model than this one, or one of weights that are stored otherwise; "
                "states of one mean nothing to another"
            )
        V = model.config.vocab_size
        if not 0 <= self.tokens.min() <= self.tokens.max() < V:
            raise ConfigError(f"context: has tokens that are not of the model's vocabulary of {V}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file: ``tokens``, ``state``, and in its metadata the format, ``written`` and ``digest``.

        An earlier file is replaced when the new one is complete.

        Raises:
            ModelFileError: the file cannot be written.
        """
        from safetensors.numpy import save

        check_path(path)
        described = json.dumps({"written": self.written, "digest": self.digest})
        arrays: dict[str, NDArray] = {"tokens": self.tokens, "state": self.state}
        try:
            with replacing(Path(path)) as file:
                file.write(save(arrays, {"format": CONTEXT_FORMAT, "context": described}))
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be written ({error.strerror})") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Context:
        """Read a file of ``save``; nothing in it is executed.

        Raises:
            ModelFileError: it is missing, damaged, or not a context.
        """
        from safetensors import SafetensorError, safe_open

        check_path(path)
        try:
            with safe_open(Path(path), "numpy") as file:
                if (file.metadata() or {}).get("format") != CONTEXT_FORMAT:
                    raise ModelFileError(f"{path}: is no context; Context.save writes them")
                described = json.loads(file.metadata()["context"])
                tokens, state = file.get_tensor("tokens"), file.get_tensor("state")
                written, digest = described["written"], described["digest"]
                context = cls(tokens, state, written, digest)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"{path}: cannot be read as a context ({error})") from error
        good = tokens.ndim == 1 and len(tokens) and tokens.dtype == np.int64 and state.dtype == np.float32
        if not good or state.ndim != 3 or not np.isfinite(state).all() or tokens.min() < 0:
            raise ModelFileError(f"{path}: its arrays are not those of a context")
        if not isinstance(digest, str):
            raise ModelFileError(f"{path}: its digest is {digest!r}, needs a text")
        if not isinstance(written, int) or isinstance(written, bool) or not 0 <= written <= len(tokens):
            raise ModelFileError(
                f"{path}: written is {written!r}, needs a whole number from 0 to its {len(tokens)} tokens"
            )
        return context


def check_context(context: object) -> None:
    """Raise ConfigError unless it is a Context."""
    if not isinstance(context, Context):
        raise ConfigError(
            f"context: got {shown(context)}, needs a Context: of read(model, prompt), or Context.load(path)"
        )


def more_tokens(model: StepModel, prompt: str, context: Context | None) -> NDArray[np.int64]:
    """Return the ids (n,), n ≥ 1, that a model reads for a prompt; those after a context begin with its last token."""
    if context is None:
        return prompt_tokens(model.tokenizer, prompt)
    check_context(context)
    context.check(model)
    return np.concatenate([context.tokens[-1:], model.tokenizer.encode(prompt)])


def read(model: LoadedModel, prompt: str, context: Context | None = None) -> Context:
    """Return the context after ``prompt``, which continues ``context`` if one is given.

    Raises:
        ConfigError: the context is of another model.
        UnknownTokenError: the prompt holds a text outside the vocabulary.
    """
    model = check_language_model(model)
    tokens = more_tokens(model, check_text("prompt", prompt), context)
    return _advance(model, tokens, context, 0)


def extend(model: LoadedModel, context: Context, text: Generation) -> Context:
    """Return the context after a text that ``generate`` wrote from it; its continuation is that of one longer text.

    Raises:
        UnknownTokenError: the text's tokens are not of this vocabulary.
    """
    model = check_language_model(model)
    check_context(context)
    if not isinstance(getattr(text, "tokens", None), tuple):
        raise ConfigError(f"text: got {shown(text)}, needs a Generation, which generate returns")
    context.check(model)
    V = model.config.vocab_size
    if text.tokens and not 0 <= min(text.tokens) <= max(text.tokens) < V:
        raise UnknownTokenError(f"text: its tokens are not of a vocabulary of {V}")
    prompt = model.tokenizer.encode(text.prompt)
    tokens = np.concatenate([context.tokens[-1:], prompt, np.array(text.tokens, np.int64)])
    return _advance(model, tokens, context, len(text.tokens))


def _state_after(model: StepModel, tokens: NDArray[np.int64], state: NDArray) -> NDArray:
    """Return the state after tokens (T, 1)."""
    if "step" in model.capabilities:
        return RowModel(model).read(tokens, state)[1]
    # a graph without logits reads its prompt and writes no token
    nothing = Draws(0, 0, np.arange(1), GREEDY)
    return cast(WritingModel, model).write(tokens, np.full(1, len(tokens)), state, nothing)[1]


def _advance(model: StepModel, tokens: NDArray[np.int64], context: Context | None, written: int) -> Context:
    """Return the context after more tokens; ``written`` of them were drawn."""
    state = zero_state(model.config, 1) if context is None else np.ascontiguousarray(context.state[:, :, None])
    if len(tokens) > 1:
        state = _state_after(model, np.ascontiguousarray(tokens[:-1, None]), state)
    earlier = tokens[:0] if context is None else context.tokens[:-1]
    drawn = written + (0 if context is None else context.written)
    return Context(np.concatenate([earlier, tokens]), state[:, :, 0], drawn, model.weights_digest)
