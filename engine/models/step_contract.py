"""The contracts of every engine and model file, the calls beyond them that a model may declare, and the checks of both.

A language model:

    step(tokens (T, B) int64, state (S, L, B, H)) -> (logits (T, B, V), state (S, L, B, H))

T = 1 generates, T = n reads a prompt. A model of any other description takes named inputs, and gives the outputs of its head:

    run(inputs, lengths (B,) int64) -> outputs
    step(inputs, state (S, L, B, H)) -> (outputs, state (S, L, B, H)), for models of one direction

The state goes in and comes out; a model holds none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, ShapeError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.tokenizers.contract import Tokenizer


class HasState(Protocol):
    """A description of a model: settings of a language model, spec or core."""

    def state_shape(self, batch_size: int) -> tuple[int, int, int, int]: ...


class Stepper(Protocol):
    """A model that keeps the step contract."""

    @property
    def config(self) -> LanguageModelConfig: ...
    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]: ...


class StepModel(Stepper, Protocol):
    """A stepper that can also read and write text, on any engine or from any file."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Return the names of what the model can do; schedulers and checks choose by them.

        step      ``step`` gives logits
        generate  texts can be generated
        read      ``read``, see ``ReadingModel``
        flow      ``flow``, see ``FlowingModel``
        write     ``write``, see ``WritingModel``
        bind      ``bind``, see ``BindingModel``
        """
        ...

    @property
    def engine(self) -> str:
        """Return the name of the engine that runs the model, a key of ``unrolled.runtime.ENGINES``."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def training(self) -> dict[str, Any]:
        """Return the record of the training that the model's file holds."""
        ...

    @property
    def digest(self) -> str:
        """Return the digest of the checkpoint that the model was made from."""
        ...

    @property
    def weights_digest(self) -> str:
        """Return a digest of the weights that the model computes with: ``digest``, unless its file stores other weights."""
        ...


STEP = frozenset({"step", "generate"})  # the capabilities of a model that only computes ``step``


class Runner(Protocol):
    """Computes whole sequences by a model of any description, on any engine or from any file, after checks of its arguments."""

    @property
    def spec(self) -> ModelSpec: ...
    def run(
        self, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None = None, state: NDArray | None = None
    ) -> tuple[Outputs, NDArray]:
        """Return the outputs of the head by name, and the state (S, L·D, B, H) after the last valid step of each row.

        Args:
            state: (S, L·D, B, H), the initial state; None: zero.
        """
        ...


class SequenceModel(Protocol):
    """A sequence model of any description that is not a language model's, on any engine or from any file."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def capabilities(self) -> frozenset[str]:
        """Return what the model can do, ``spec.capabilities``: "run", and "step" for models of one direction."""
        ...

    @property
    def engine(self) -> str:
        """Return the name of the engine that runs the model, a key of ``unrolled.runtime.ENGINES``."""
        ...

    @property
    def training(self) -> dict[str, Any]:
        """Return the record of the training that the model's file holds."""
        ...

    @property
    def digest(self) -> str:
        """Return the digest of the checkpoint that the model was made from."""
        ...

    @property
    def weights_digest(self) -> str:
        """Return a digest of the weights that the model computes with: ``digest``, unless its file stores other weights."""
        ...

    def run(self, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None = None) -> Outputs:
        """Return the outputs of the head, by name, for whole sequences from a zero state.

        Args:
            inputs: an array for each input of ``spec``, by name: (T, B, …), or (B, …) for one value a sequence.
            lengths: (B,) int64, the valid time steps of each row, 1 to T; None: all. What stands after them changes nothing.

        Raises:
            ShapeError: an array does not fit the model or the others, or a valid value is out of range.
            ModelFileError: the file's graph does not run.
        """
        ...

    def step(self, inputs: Mapping[str, NDArray], state: NDArray) -> tuple[Outputs, NDArray]:
        """Return the outputs of T time steps that continue ``state`` (S, L, B, H), and the state after them.

        Raises:
            ConfigError: the model has no ``step``; the message says why.
            ShapeError, ModelFileError: as ``run``.
        """
        ...


LoadedModel = StepModel | SequenceModel  # of any model file


class ReadingModel(StepModel, Protocol):
    """A StepModel with the capability "read": it reads many tokens in one call, and computes the last logits alone."""

    def read(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (B, V) and the state after the last of tokens (T, B)."""
        ...


class Flow(NamedTuple):
    """E rows of all lengths for ``FlowingModel.flow``: first those that have a slot, then those that wait for one.

    Arrays are (E,), one value a row, unless stated; ``flow`` writes those with a star.

    Args:
        tokens: (N,) int64, the unread tokens of all rows, one row after the other.
        position: int64 *, the position in ``tokens`` that each row reads next.
        end: int64, the end of its tokens; from there on it reads the tokens that it drew.
        last_drawn: int64 *, its last drawn token.
        remaining: int64 *, the number of tokens that it may still draw.
        first_draw: uint64, the number of its next draw among those of its index.
        indices: uint64, the rows' indices.
        settings: arrays, one value a row.
        written: (E, steps) int64 *, the tokens that it drew.
        counts: int64, zeros *: the number of these tokens.
        started: bool *, whether it has a slot, or had one.
    """

    tokens: NDArray[np.int64]
    position: NDArray[np.int64]
    end: NDArray[np.int64]
    last_drawn: NDArray[np.int64]
    remaining: NDArray[np.int64]
    first_draw: NDArray[np.uint64]
    indices: NDArray[np.uint64]
    settings: DrawSettings
    written: NDArray[np.int64]
    counts: NDArray[np.int64]
    started: NDArray[np.bool_]

    @classmethod
    def of(cls, unread: Sequence[NDArray[np.int64]], steps: int, **columns: Any) -> Self:
        """Return a flow of ``steps`` for rows that read ``unread``.

        Args:
            columns: remaining, first_draw, indices, settings and started.
        """
        E, lengths = len(unread), np.array([len(tokens) for tokens in unread], np.int64)
        end = np.cumsum(lengths)
        return cls(
            tokens=np.concatenate(unread), position=end - lengths, end=end, last_drawn=np.zeros(E, np.int64),
            written=np.empty((E, steps), np.int64), counts=np.zeros(E, np.int64), **columns,
        )  # fmt: skip


class FlowingModel(StepModel, Protocol):
    """A StepModel with the capability "flow": it reads, draws and refills its slots within a call (continuous batching)."""

    @property
    def min_call_tokens(self) -> int:
        """Return the fewest tokens of all slots in a call that outweigh its overhead."""
        ...

    def flow(self, state: NDArray, flow: Flow, slots: int, least: float = 0.0) -> None:
        """Advance rows by at most the steps of ``flow.written``; a row that ends leaves its slot to the next that waits.

        Args:
            state: (S, L, E, H), the rows' states; overwritten for rows that have a slot.
            slots: the most rows side by side; at most as many are ``started`` before the call.
            least: with less than this share of the slots busy, and no row waiting, it returns early for more rows.

        Raises:
            ModelFileError: a row of logits is not finite.
        """
        ...


class Draws(NamedTuple):
    """The tokens that ``WritingModel.write`` draws by the rules of ``unrolled.engine.sampling.rules``.

    Args:
        steps: N, tokens a row.
        first_step: int64, the number of the first draw in its sequence; one value for all rows, or an array (B,).
        sequences: (B,), the rows' indices.
        settings: one value for all rows.
    """

    steps: int
    first_step: Any
    sequences: NDArray[np.integer]
    settings: DrawSettings


class WritingModel(StepModel, Protocol):
    """A StepModel with the capability "write": its graph reads prompts and draws the tokens after them."""

    def write(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], state: NDArray, draws: Draws
    ) -> tuple[NDArray[np.int64], NDArray]:
        """Return tokens (n, B) after prompts (T, B) of which ``lengths`` (B,) steps are valid, and the state after them.

        n ≤ draws.steps: writing stops when every row has its <eos>. The last token written is not read yet.
        """
        ...


class BoundSteps(Protocol):
    """Steps of a fixed number of rows on arrays that stay the same; for one caller at a time."""

    def begin(self, state: NDArray) -> None:
        """Start from a state (S, L, 1, H)."""
        ...

    def step(self, token: int) -> NDArray:
        """Return logits (V,) after the token; the next step overwrites them."""
        ...

    def move(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (n, V) and state (S, L, n, H) after tokens (n,) of the first n rows; the next two calls reuse both."""
        ...


class BindingModel(StepModel, Protocol):
    """A StepModel with the capability "bind": its steps can run on arrays that are bound once."""

    def bind(self, rows: int) -> BoundSteps:
        """Return steps of ``rows`` rows."""
        ...


def check_step_results(config: LanguageModelConfig, tokens: NDArray, logits: Any, state: Any) -> None:
    """Check the results of a model file's own graph for ``tokens`` (T, B): logits (T, B, V) and a state (S, L, B, H).

    Raises:
        ModelFileError: a shape or a dtype is another.
    """
    T, B = tokens.shape
    for name, got, wanted in (
        ("logits", logits, (T, B, config.vocab_size)),
        ("next_state", state, config.state_shape(B)),
    ):
        if not isinstance(got, np.ndarray) or got.shape != wanted or got.dtype != np.float32:
            what = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
            raise ModelFileError(f"the graph gives {name} of {what}, needs float32 {wanted}")


def zero_state(model: HasState, batch_size: int, dtype: np.dtype | type = np.float32) -> NDArray:
    """Return the state (S, L·D, B, H) before the first time step."""
    if batch_size < 1:
        raise ShapeError(f"batch_size: got {batch_size}, needs at least one row")
    return np.zeros(model.state_shape(batch_size), dtype)


def are_ids(tokens: NDArray, vocab_size: int) -> bool:
    """Return whether all tokens, if there are any, are in the vocabulary."""
    # One comparison instead of two: read as unsigned, negative ids are larger than any vocabulary.
    return int(tokens.astype(np.int64, copy=False).view(np.uint64).max(initial=0)) < vocab_size


def check_ids(config: LanguageModelConfig, tokens: NDArray) -> None:
    """Raise ShapeError if one of the tokens, of any shape that is not empty, is outside the vocabulary."""
    if not are_ids(tokens, config.vocab_size):
        raise ShapeError(
            f"tokens: ids from {tokens.min()} to {tokens.max()}; the vocabulary has 0 … {config.vocab_size - 1}"
        )


def check_step(
    config: LanguageModelConfig, tokens: NDArray, state: NDArray, dtype: np.dtype | type = np.float32
) -> None:
    """Check the arguments of a step.

    After this check an engine may index unchecked; onnxruntime's LSTM and GRU abort the process at B = 0.

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
    check_state(config, state, B, dtype)


def check_state(model: HasState, state: NDArray, B: int, dtype: np.dtype | type = np.float32) -> None:
    """Check shape and dtype of the state of B rows.

    Raises:
        ShapeError: another shape or dtype.
    """
    if not isinstance(state, np.ndarray) or state.shape != model.state_shape(B):
        got = f"shape {state.shape}" if isinstance(state, np.ndarray) else type(state).__name__
        raise ShapeError(f"state: got {got}, needs (S, L, B, H) = {model.state_shape(B)}")
    if state.dtype != dtype:
        raise ShapeError(f"state: got dtype {state.dtype}, needs {np.dtype(dtype)}")
