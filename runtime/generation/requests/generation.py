"""A finished text, as generation returns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOTHING_LEFT = "nothing left"  # the finish reason of a text whose settings ban every token that could come next


@dataclass(frozen=True)
class Generation:
    """One text: the tokens written after ``prompt``, and the reason of its end.

    ``finish_reason`` is "eos", "stop", "length", or "nothing left" if the settings ban every token that could come next;
    the last only from ``write_rows``: its callers raise an error.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]  # as drawn, <eos> and the tokens of a stop text included
    finish_reason: str
    index: int  # of the row: prompt index · num_return_sequences + the number of the sequence
    logprobs: tuple[float, ...] | None = None  # log-softmax of the model's own logits at each token, on request


def before_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the first of its stop texts, or all of it."""
    return text[: min((text.index(end) for end in stop if end in text), default=len(text))] if stop else text
