"""Options of decoding, that is, of the choice of each next token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from unrolled.cli.options.groups import OptionGroup, options_of
from unrolled.cli.options.shared import unescape, unescape_all
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.settings import DECODING_PANEL, Setting, SettingTable, check_settings, settings_of
from unrolled.runtime import GenerationConfig

EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")  # settings that only sampling uses


@dataclass(frozen=True)
class BeamOptions:
    """Settings of beam search, which has one beam where it is not asked for."""

    num_beams: Annotated[
        int,
        Setting(
            "num_beams",
            "With --prompt: search with so many beams instead of drawing; 1: no search.",
            DECODING_PANEL,
        ),
    ] = 1
    length_penalty: Annotated[
        float,
        Setting("length_penalty", "With beams: above 0 favours long texts, below 0 short ones.", DECODING_PANEL),
    ] = 1.0
    early_stopping: Annotated[
        str,
        Setting(
            "early_stopping",
            "With beams: stop once as many texts ended (true), when no better one is likely (false) or possible (never).",
            DECODING_PANEL,
            choices=EARLY_STOPPING,
        ),
    ] = "false"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.num_beams == 1 and (self.length_penalty != 1 or self.early_stopping != "false"):
            raise ConfigError("--length-penalty and --early-stopping go with --num-beams above 1")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that ``BeamConfig`` adds to ``GenerationConfig``; an empty dictionary without beam search."""
        if self.num_beams == 1:
            return {}
        return {**asdict(self), "early_stopping": EARLY_STOPPING[self.early_stopping]}


def generation_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``GenerationConfig`` by name, with the escapes of typed texts resolved.

    Raises:
        ConfigError: a bias has no number.
    """
    settings: dict[str, Any] = {}
    for name, definition in settings_of(GenerationConfig).items():
        value = options[definition.option]
        if name == "sequence_bias":
            settings[name] = biases(value)
        elif definition.kind is list:
            settings[name] = unescape_all(value)
        else:
            settings[name] = unescape(value) if definition.kind is str else value
    return settings


DecodingOptions = Annotated[dict[str, Any], OptionGroup(SettingTable(GenerationConfig), generation_settings)]
SearchOptions = Annotated[BeamOptions, options_of(BeamOptions)]


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
