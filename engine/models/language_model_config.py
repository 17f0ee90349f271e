"""Description of a model: frozen, validated, with a dictionary round trip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from unrolled.engine.canonical import canonical_settings, completed
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.cells.cell import Cell


@dataclass(frozen=True)
class LanguageModelConfig:
    """Description of a language model: embedding, recurrent layers of one cell, linear output over the vocabulary.

    Args:
        cell: a key of ``CELLS``.
        vocab_size: V, at least 2.
        embedding_size: E.
        hidden_size: H, the same in every layer.
        num_layers: L.
        dropout: probability of dropping a unit between two layers in training, in [0, 1).
        tie_weights: whether the output layer uses the embedding's matrix; needs E = H.

    Raises:
        ConfigError: a value is out of range or two do not go together.
    """

    cell: str
    vocab_size: int
    embedding_size: int = 128
    hidden_size: int = 128
    num_layers: int = 1
    dropout: float = 0.0
    tie_weights: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.cell, str) or self.cell not in CELLS:
            raise ConfigError(SettingName("cell"), f": {self.cell!r} is not known; choose one of {', '.join(CELLS)}")
        for name, value, least in (
            ("vocab_size", self.vocab_size, 2),
            ("embedding_size", self.embedding_size, 1),
            ("hidden_size", self.hidden_size, 1),
            ("num_layers", self.num_layers, 1),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(SettingName(name), f": got {value!r}, needs a whole number of at least {least}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float):
            raise ConfigError(
                SettingName("dropout"), f": got {self.dropout!r}, needs a number from 0 up to, not including, 1"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                SettingName("dropout"), f": got {self.dropout!r}, needs a number from 0 up to, not including, 1"
            )
        if self.dropout and self.num_layers == 1:
            raise ConfigError(
                SettingName("dropout"),
                f": {self.dropout} acts between layers and there is one layer; set ",
                SettingName("num_layers"),
                " to 2 or more, or dropout to 0",
            )
        if not isinstance(self.tie_weights, bool):
            raise ConfigError(SettingName("tie_weights"), f": got {self.tie_weights!r}, needs true or false")
        if self.tie_weights and self.embedding_size != self.hidden_size:
            raise ConfigError(
                SettingName("tie_weights"),
                " needs ",
                SettingName("embedding_size"),
                " = ",
                SettingName("hidden_size"),
                f", got {self.embedding_size} and {self.hidden_size}",
            )

    @property
    def spec(self) -> Cell:
        """Return the cell's entry in ``CELLS``."""
        return CELLS[self.cell]

    def state_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Return the shape (S, L, B, H) of the state of ``batch_size`` rows."""
        return (self.spec.states, self.num_layers, batch_size, self.hidden_size)

    def layer_input_size(self, layer: int) -> int:
        """Return the input width of a layer: E for the first, H for the others."""
        return self.embedding_size if layer == 0 else self.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form."""
        return canonical_settings(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LanguageModelConfig:
        """Return the config that ``to_dict`` described.

        Raises:
            ConfigError: a key is unknown or missing, or a value is invalid.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"model config: got a {type(values).__name__}, needs an object of settings")
        values = completed(cls, values)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"model config: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        if missing := sorted({"cell", "vocab_size"} - set(values)):
            raise ConfigError(f"model config: {', '.join(missing)} missing")
        return cls(**values)
