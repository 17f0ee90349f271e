"""What a model has read, as a value: keep it, save it, go on from it many times, on another engine or in another process."""

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
from unrolled.engine.models.step_contract import Draws, StepModel, WritingModel, zero_state
from unrolled.engine.storage.atomic_files import replacing
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.argument_checks import check_model, check_path, check_text, shown
from unrolled.runtime.models.batch_invariance import RowModel

FORMAT = "unrolled-context-1"


@dataclass(frozen=True, eq=False)
class Context:
    """Tokens that were read, and the state behind all but the last of them, which is read again by who goes on.

    Args:
        tokens: (n,) int64, n ≥ 1, all that stands before.
        state: (S, L, H) float32, behind tokens[:-1].
        written: how many of the tokens were drawn: the next draw of a text that goes on is this one.
        digest: of the weights that it was read with, which any engine may run.
    """

    tokens: NDArray[np.int64]
    state: NDArray[np.float32]
    written: int
    digest: str

    def check(self, model: StepModel) -> None:
        """ConfigError unless the context is of this model, with weights stored as they are here, and its tokens are too."""
        S, L, _, H = model.config.state_shape(1)
        if self.digest != weights_digest(model) or self.state.shape != (S, L, H):
            raise ConfigError(
                "context: was read by another model than this one, or one of weights that are stored otherwise; "
                "states of one mean nothing to another"
            )
        V = model.config.vocab_size
        if not 0 <= self.tokens.min() <= self.tokens.max() < V:
            raise ConfigError(f"context: has tokens that are not of the model's vocabulary of {V}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file: ``tokens``, ``state``, and in its metadata the format, ``written`` and ``digest``.

        An earlier file is replaced when the new one is whole.

        Raises:
            ModelFileError: the file cannot be written.
        """
        from safetensors.numpy import save

        check_path(path)
        described = json.dumps({"written": self.written, "digest": self.digest})
        arrays: dict[str, NDArray] = {"tokens": self.tokens, "state": self.state}
        try:
            with replacing(Path(path)) as file:
                file.write(save(arrays, {"format": FORMAT, "context": described}))
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be written ({error.strerror})") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Context:
        """Read what ``save`` wrote; nothing of the file is run.

        Raises:
            ModelFileError: it is missing, damaged, or something else.
        """
        from safetensors import SafetensorError, safe_open

        check_path(path)
        try:
            with safe_open(Path(path), "numpy") as file:
                if (file.metadata() or {}).get("format") != FORMAT:
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


def weights_digest(model: StepModel) -> str:
    """Of the weights that a model computes with: those that come back from a file in fp16 or int8 are others than the
    checkpoint's, and computing with int8, which such a file may do too, makes other states.
    """
    weights = getattr(model, "weights", None)
    if weights is None or not weights.digest:
        return model.digest
    return f"{weights.digest} int8" if weights.quantized else weights.digest


def check_context(context: object) -> None:
    """Raise ConfigError unless it is a Context."""
    if not isinstance(context, Context):
        raise ConfigError(
            f"context: got {shown(context)}, needs a Context: of read(model, prompt), or Context.load(path)"
        )


def more_tokens(model: StepModel, prompt: str, context: Context | None) -> NDArray[np.int64]:
    """Ids (n,), n ≥ 1, that a prompt makes a model read: behind a context, first the last token of that."""
    if context is None:
        return prompt_tokens(model.tokenizer, prompt)
    check_context(context)
    context.check(model)
    return np.concatenate([context.tokens[-1:], model.tokenizer.encode(prompt)])


def read(model: StepModel, prompt: str, context: Context | None = None) -> Context:
    """What a model knows behind ``prompt``, which goes on from ``context`` where there is one.

    Raises:
        ConfigError: the context is of another model.
        UnknownTokenError: the prompt holds what the vocabulary has not.
    """
    check_model(model)
    tokens = more_tokens(model, check_text("prompt", prompt), context)
    return _move(model, tokens, context, 0)


def extend(model: StepModel, context: Context, text: Generation) -> Context:
    """The context behind a text that ``generate`` wrote from it: going on draws what one longer text would have drawn.

    Raises:
        UnknownTokenError: the text's tokens are not of this vocabulary.
    """
    check_model(model)
    check_context(context)
    if not isinstance(getattr(text, "tokens", None), tuple):
        raise ConfigError(f"text: got {shown(text)}, needs a Generation, which generate returns")
    context.check(model)
    V = model.config.vocab_size
    if text.tokens and not 0 <= min(text.tokens) <= max(text.tokens) < V:
        raise UnknownTokenError(f"text: its tokens are not of a vocabulary of {V}")
    prompt = model.tokenizer.encode(text.prompt)
    tokens = np.concatenate([context.tokens[-1:], prompt, np.array(text.tokens, np.int64)])
    return _move(model, tokens, context, len(text.tokens))


def _state_after(model: StepModel, tokens: NDArray[np.int64], state: NDArray) -> NDArray:
    """Return the state after tokens (T, 1)."""
    if "step" in model.capabilities:
        return RowModel(model).read(tokens, state)[1]
    # a graph without logits reads its prompt and writes no token
    nothing = Draws(0, 0, np.arange(1), GREEDY)
    return cast(WritingModel, model).write(tokens, np.full(1, len(tokens)), state, nothing)[1]


def _move(model: StepModel, tokens: NDArray[np.int64], context: Context | None, written: int) -> Context:
    state = zero_state(model.config, 1) if context is None else np.ascontiguousarray(context.state[:, :, None])
    if len(tokens) > 1:
        state = _state_after(model, np.ascontiguousarray(tokens[:-1, None]), state)
    before = tokens[:0] if context is None else context.tokens[:-1]
    drawn = written + (0 if context is None else context.written)
    return Context(np.concatenate([before, tokens]), state[:, :, 0], drawn, weights_digest(model))
