"""Generation of one text in pieces, each as soon as it is certain."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from unrolled.engine.errors import ConfigError, NothingLeftError
from unrolled.engine.models.step_contract import LoadedModel, StepModel
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.generation.generate import check_config
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.context import Context
from unrolled.runtime.generation.requests.generation import NOTHING_LEFT, Generation
from unrolled.runtime.generation.requests.request import make_request
from unrolled.runtime.generation.scheduler.flow_slots import MIN_CHUNK
from unrolled.runtime.generation.scheduler.scheduler import Scheduler
from unrolled.runtime.models.argument_checks import check_language_model, check_text, shown


class _CertainText:
    """Turns tokens into text that no later token changes; a possible beginning of a stop text is held until that is decided.

    Attributes:
        given: the number of characters returned so far.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._streamer, self._stop, self._held = tokenizer.streamer(), stop, ""
        self.given = 0

    def feed(self, tokens: Sequence[int]) -> str:
        """Return the text that these tokens make certain."""
        text = self._held + "".join(map(self._streamer.feed, tokens))
        begins = (
            length
            for stop in self._stop
            for length in range(1, min(len(stop) - 1, len(text)) + 1)
            if text.endswith(stop[:length])
        )
        held = max(begins, default=0)
        piece, self._held = text[: len(text) - held], text[len(text) - held :]
        self.given += len(piece)
        return piece


class Stream(Iterator[str]):
    """The pieces of one text, as ``stream`` returns them."""

    def __init__(self, pieces: Generator[str, None, None]) -> None:
        self._pieces = pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop writing; there are no more pieces."""
        self._pieces.close()

    def __reduce__(self) -> Any:
        raise ConfigError(
            "stream: a text that is being written cannot be pickled or copied; pickle the model and stream in the other "
            "process, or join the pieces"
        )


def stream(
    model: LoadedModel,
    prompt: str,
    config: GenerationConfig | None = None,
    *,
    context: Context | None = None,
    on_text: Callable[[str], Any] | None = None,
    on_end: Callable[[Generation], Any] | None = None,
    **settings: Any,
) -> Stream:
    """Write one text and yield it in pieces, each as soon as it is certain; joined, they are ``generate``'s text.

    A piece never splits a character, and never holds a part of a stop text. Several threads may stream from one model.

    Args:
        context: the context that the prompt continues; the prompt may then be empty.
        on_text: called with each piece, too, for callers that prefer a callback. Run the iterator to its end, for instance
            by ``for _ in stream(…): pass``, or use ``write``.
        on_end: called once with the whole generation.

    Raises:
        ConfigError, UnknownTokenError: as ``generate``, immediately and not with the first piece.
        NothingLeftError: the settings leave no token.
    """
    config = check_config(config, settings, GenerationConfig, "stream")
    model = check_language_model(model)
    for name, called in (("on_text", on_text), ("on_end", on_end)):
        if called is not None and not callable(called):
            raise ConfigError(f"{name}: got {shown(called)}, needs a function")
    request = make_request(model, check_text("prompt", prompt), 0, config, context)
    return Stream(_pieces(model, Scheduler(model, [request], 1, MIN_CHUNK, watched=True), config, on_text, on_end))


def _pieces(
    model: StepModel,
    scheduler: Scheduler,
    config: GenerationConfig,
    on_text: Callable[[str], Any] | None,
    on_end: Callable[[Generation], Any] | None,
) -> Generator[str, None, None]:
    """Yield the pieces of the scheduler's only row, and call back with them."""
    certain, seen = _CertainText(model.tokenizer, config.stop), 0
    while scheduler.advance():
        row = scheduler.oldest
        piece = certain.feed(row.tokens[seen:]) if row.reason is None else row.text()[certain.given :]
        seen = len(row.tokens)
        if piece:
            if on_text is not None:
                on_text(piece)
            yield piece
        if row.reason is not None:
            break
    (text,) = scheduler.results()
    if text.finish_reason == NOTHING_LEFT:
        raise NothingLeftError(config.extras, (0,))
    if on_end is not None:
        on_end(text)


def write(
    model: LoadedModel,
    prompt: str,
    on_text: Callable[[str], Any],
    config: GenerationConfig | None = None,
    *,
    context: Context | None = None,
    **settings: Any,
) -> Generation:
    """Write one text, call ``on_text`` with each piece, as ``stream``, and return the whole generation."""
    if not callable(on_text):
        raise ConfigError(f"on_text: got {shown(on_text)}, needs a function")
    ends: list[Generation] = []
    for _ in stream(model, prompt, config, context=context, on_text=on_text, on_end=ends.append, **settings):
        pass
    return ends[0]
