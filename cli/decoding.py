"""Options that say how tokens are chosen, for the verbs that write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from unrolled.cli.options import unescape
from unrolled.engine.errors import ConfigError

PANEL = "Decoding"


def _option(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=PANEL)


Temperature = Annotated[float, _option("Below 1: safer; above 1: more varied.")]
TopK = Annotated[int, _option("Draw from the k most probable tokens; 0: all.")]
TopP = Annotated[float, _option("Draw from the fewest tokens of this joint probability; 1: all.")]
MinP = Annotated[float, _option("Draw from tokens with this share of the most probable one's probability; 0: all.")]
TypicalP = Annotated[float, _option("Draw from the most typical tokens of this joint probability; 1: all.")]
RepetitionPenalty = Annotated[float, _option("Above 1: tokens that stand there already become less probable.")]
NoRepeatNgramSize = Annotated[int, _option("No sequence of so many tokens is written twice; 0: off.")]
BadWords = Annotated[list[str] | None, _option("Text that is not written; may be repeated.", "--bad-word")]
SuppressTokens = Annotated[
    list[str] | None,
    _option("Token of the vocabulary, such as <unk>, that is not written; may be repeated.", "--suppress-token"),
]
Bias = Annotated[
    list[str] | None,
    _option(
        "Makes a text more or less probable by what is added to its score; may be repeated.", metavar="TEXT=NUMBER"
    ),
]
MinNewTokens = Annotated[int, _option("No <eos> before so many tokens.")]
ForcedPrefix = Annotated[str, _option("What every text begins with.")]
Stop = Annotated[list[str] | None, _option("Text at which writing ends; may be repeated.")]
Logprobs = Annotated[bool, _option("With --json: how probable the model found each token.", "--logprobs")]


def biases(pairs: Iterable[str] | None) -> tuple[tuple[str, float], ...]:
    """Texts with their biases, from TEXT=NUMBER.

    Raises:
        ConfigError: there is no number behind the last =.
    """
    found = []
    for pair in pairs or ():
        text, equals, number = pair.rpartition("=")
        try:
            found.append((unescape(text), float(number)))
        except ValueError as error:
            raise ConfigError(f"sequence_bias: got {pair!r}, needs TEXT=NUMBER") from error
        if not equals:
            raise ConfigError(f"sequence_bias: got {pair!r}, needs TEXT=NUMBER")
    return tuple(found)
