"""Options of decoding, that is, of the choice of each next token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from unrolled.cli.options.shared import one_of, unescape
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, SettingName

DECODING_PANEL = "Decoding"
EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


def _option(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=DECODING_PANEL)


Temperature = Annotated[float, _option("0: greedy; below 1: safer; above 1: more varied.")]
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
NumBeams = Annotated[int, _option("With --prompt: search with so many beams instead of drawing; 1: no search.")]
LengthPenalty = Annotated[float, _option("With beams: above 0 favours long texts, below 0 short ones.")]
EarlyStopping = Annotated[
    str,
    _option(
        "With beams: stop once as many texts ended (true), when no better one is likely (false) or possible (never). "
        + one_of(EARLY_STOPPING),
        metavar="NAME",
    ),
]
Logprobs = Annotated[bool, _option("With --json or --input: how probable the model found each token.", "--logprobs")]


DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")  # settings that only sampling uses


def beams(num_beams: int, length_penalty: float, early_stopping: str) -> dict[str, Any]:
    """Return the settings that ``BeamConfig`` adds to ``GenerationConfig``; an empty dictionary without beam search.

    Raises:
        ConfigError: ``early_stopping`` is unknown, or settings of beam search are given without it.
    """
    check_choice("early_stopping", early_stopping, EARLY_STOPPING)
    if num_beams == 1:
        if length_penalty != 1 or early_stopping != "false":
            raise ConfigError("--length-penalty and --early-stopping go with --num-beams above 1")
        return {}
    stopping = EARLY_STOPPING[early_stopping]
    return {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": stopping}


def biases(pairs: Iterable[str] | None) -> tuple[tuple[str, float], ...]:
    """Return texts and their biases from TEXT=NUMBER.

    Raises:
        ConfigError: there is no number after the last =.
    """
    found = []
    for pair in pairs or ():
        text, equals, number = pair.rpartition("=")
        try:
            found.append((unescape(text), float(number)))
        except ValueError as error:
            raise ConfigError(SettingName("sequence_bias"), f": got {pair!r}, needs TEXT=NUMBER") from error
        if not equals:
            raise ConfigError(SettingName("sequence_bias"), f": got {pair!r}, needs TEXT=NUMBER")
    return tuple(found)
