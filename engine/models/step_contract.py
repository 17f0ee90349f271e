"""The step contract that every engine and every model file keeps, and the check at its boundary.

    step(tokens (T, B) int64, state (S, L, B, H)) -> (logits (T, B, V), state (S, L, B, H))

T = 1 generates, T = n reads a prompt. The state goes in and comes out; a model holds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, ShapeError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.tokenizers.contract import Tokenizer


class Stepper(Protocol):
    """A model that keeps the step contract."""

    @property
    def config(self) -> ModelConfig: ...
    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]: ...


class StepModel(Stepper, Protocol):
    """A stepper that can also read and write text, whatever engine or file is behind it."""

    @property
    def engine(self) -> str:
        """Which engine runs it, a key of ``unrolled.runtime.ENGINES``."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def training(self) -> dict[str, Any]:
        """How it was trained, as far as its file says."""
        ...

    @property
    def digest(self) -> str:
        """``model_digest`` of the checkpoint that it was made of."""
        ...


# Of the settings of a draw, one value a row. An array of them always gets its dtype from here: NumPy makes float64 of a
# list with 5 and 2⁶³, which rounds both.
SETTING_DTYPES: dict[str, type[np.generic]] = {
    "do_sample": np.bool_,
    "temperature": np.float64,
    "top_k": np.int64,
    "top_p": np.float64,
    "seed": np.uint64,
}


class Draws(NamedTuple):
    """Which tokens an engine that samples by itself is to draw; the rules are those of ``unrolled.engine.sampling.rules``.

    ``first_step`` is one value for all rows, or an array (B,); so are the last five for ``DecodingModel.decode``.
    """

    steps: int  # N
    first_step: Any  # int64: which draw of its sequence the first one is
    sequences: NDArray[np.integer]  # (B,), the index of each row
    do_sample: Any  # bool
    temperature: Any  # float
    top_k: Any  # int
    top_p: Any  # float
    seed: Any  # int, 0 … 2⁶⁴ - 1


class DecodingModel(StepModel, Protocol):
    """A StepModel with a generation path of its own."""

    def read(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Logits (B, V) behind the last of tokens (T, B), and the state there."""
        ...

    def decode(self, logits: NDArray, state: NDArray, draws: Draws) -> tuple[NDArray, NDArray, NDArray]:
        """Tokens (N, B) drawn from logits (B, V) on, and logits and state after the last of them.

        Raises:
            ModelFileError: a row of logits is not finite.
        """
        ...


class Flow(NamedTuple):
    """Rows of all lengths for ``FlowingModel.flow``, E of them: those that have a lane, then those that wait for one.

    All arrays are (E,) where nothing else is said; those with a star are written over.

    Args:
        tokens: (N,) int64, what the rows read, one row after the other.
        at: int64 *, where in ``tokens`` each row reads next.
        end: int64, where its tokens end; from there on it reads what it drew.
        drawn: int64 *, its last token.
        left: int64 *, how many tokens it may still write.
        first_draw: uint64, which draw of its index is the next.
        indices: uint64, of the rows.
        settings: do_sample (bool), temperature (float64), top_k (int64), top_p (float64) and seed (uint64).
        written: (E, steps) int64 *, what it wrote.
        counts: int64, zeros *: how many tokens that is.
        going: bool *, whether it has a lane, or had one.
    """

    tokens: NDArray[np.int64]
    at: NDArray[np.int64]
    end: NDArray[np.int64]
    drawn: NDArray[np.int64]
    left: NDArray[np.int64]
    first_draw: NDArray[np.uint64]
    indices: NDArray[np.uint64]
    settings: list[NDArray]
    written: NDArray[np.int64]
    counts: NDArray[np.int64]
    going: NDArray[np.bool_]

    @classmethod
    def of(cls, unread: Sequence[NDArray[np.int64]], steps: int, **columns: Any) -> Self:
        """A flow of ``steps`` of rows that read ``unread``; ``columns`` are left, first_draw, indices, settings, going."""
        E, lengths = len(unread), np.array([len(tokens) for tokens in unread], np.int64)
        end = np.cumsum(lengths)
        return cls(
            tokens=np.concatenate(unread), at=end - lengths, end=end, drawn=np.zeros(E, np.int64),
            written=np.empty((E, steps), np.int64), counts=np.zeros(E, np.int64), **columns,
        )  # fmt: skip


class FlowingModel(DecodingModel, Protocol):
    """A DecodingModel that reads prompts and draws in one call, and fills its lanes by itself."""

    def flow(self, state: NDArray, flow: Flow, lanes: int, least: float = 0.0) -> None:
        """Move rows on by the steps of ``flow.written`` at the most; one that ends leaves its lane to the next that waits.

        Args:
            state: (S, L, E, H), of each row, written over for those that have a lane.
            lanes: the most rows side by side; no more than these come ``going``.
            least: with less than this share of the lanes busy, and none waiting, it stops early for more to come.

        Raises:
            ModelFileError: a row of logits is not finite.
        """
        ...


class WritingModel(StepModel, Protocol):
    """A StepModel that reads prompts and writes behind them by itself."""

    def write(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], state: NDArray, draws: Draws
    ) -> tuple[NDArray[np.int64], NDArray]:
        """Tokens (n, B) behind prompts (T, B) of which ``lengths`` (B,) steps are valid, and the state behind them.

        n ≤ draws.steps: writing stops when every row has its <eos>. The last token written is not read yet.
        """
        ...


def check_moved(config: ModelConfig, tokens: NDArray, logits: Any, state: Any) -> None:
    """Check what a model file's own graph gave for ``tokens`` (T, B): logits (T, B, V) and a state (S, L, B, H).

    Raises:
        ModelFileError: something else.
    """
    T, B = tokens.shape
    for name, got, wanted in (
        ("logits", logits, (T, B, config.vocab_size)),
        ("next_state", state, config.state_shape(B)),
    ):
        if not isinstance(got, np.ndarray) or got.shape != wanted or got.dtype != np.float32:
            what = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
            raise ModelFileError(f"the graph gives {name} of {what}, needs float32 {wanted}")


def pad_prompts(prompts: Sequence[Sequence[int] | NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompts of different lengths as tokens (T, B), zeros behind the shorter ones, and lengths (B,)."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    tokens = np.zeros((lengths.max(), len(prompts)), np.int64)
    for b, prompt in enumerate(prompts):
        tokens[: len(prompt), b] = prompt
    return tokens, lengths


def zero_state(config: ModelConfig, batch_size: int, dtype: np.dtype | type = np.float32) -> NDArray:
    """The state (S, L, B, H) before the first token."""
    if batch_size < 1:
        raise ShapeError(f"batch_size: got {batch_size}, needs at least one row")
    return np.zeros(config.state_shape(batch_size), dtype)


def are_ids(tokens: NDArray, vocab_size: int) -> bool:
    """Whether all tokens, if there are any, are in the vocabulary."""
    # one look at them: negative numbers are huge ones without a sign
    return int(tokens.astype(np.int64, copy=False).view(np.uint64).max(initial=0)) < vocab_size


def check_ids(config: ModelConfig, tokens: NDArray) -> None:
    """ShapeError where one of the tokens, of any shape that is not empty, is outside the vocabulary."""
    if not are_ids(tokens, config.vocab_size):
        raise ShapeError(
            f"tokens: ids from {tokens.min()} to {tokens.max()}; the vocabulary has 0 … {config.vocab_size - 1}"
        )


def check_step(config: ModelConfig, tokens: NDArray, state: NDArray, dtype: np.dtype | type = np.float32) -> None:
    """Check what goes into a step.

    An engine may index unchecked behind this line, and onnxruntime's LSTM and GRU abort the process at B = 0.

    Raises:
        ShapeError: a wrong number of axes, an empty axis, a wrong dtype, an id outside the vocabulary, or a state that
            does not fit the tokens.
    """
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 2:
        got = f"shape {tokens.shape}" if isinstance(tokens, np.ndarray) else type(tokens).__name__
        raise ShapeError(f"tokens: got {got}, needs an array of shape (T, B)")
    if tokens.dtype != np.int64:
        raise ShapeError(f"tokens: got dtype {tokens.dtype}, needs int64")
    T, B = tokens.shape
    if T < 1 or B < 1:
        raise ShapeError(f"tokens: got shape (T, B) = ({T}, {B}); needs at least one step and one row")
    check_ids(config, tokens)
    if not isinstance(state, np.ndarray) or state.shape != config.state_shape(B):
        got = f"shape {state.shape}" if isinstance(state, np.ndarray) else type(state).__name__
        raise ShapeError(f"state: got {got}, needs (S, L, B, H) = {config.state_shape(B)}")
    if state.dtype != dtype:
        raise ShapeError(f"state: got dtype {state.dtype}, needs {np.dtype(dtype)}")
