"""Description of a language model: the preset tokens → core → next token of ``ModelSpec``."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Annotated, Any

from unrolled.engine.canonical import canonical_settings, completed
from unrolled.engine.checks import check_whole
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.cells.cell import Cell
from unrolled.engine.models.heads.next_token import TIE, NextTokenHead
from unrolled.engine.models.inputs.embedded import EMBEDDING, TokensInput
from unrolled.engine.models.layers.core_config import CELL, DROPOUT, HIDDEN, LAYERS, CoreConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.settings import check_settings


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

    cell: Annotated[str, CELL]
    vocab_size: int
    embedding_size: Annotated[int, EMBEDDING] = 128
    hidden_size: Annotated[int, HIDDEN] = 128
    num_layers: Annotated[int, LAYERS] = 1
    dropout: Annotated[float, DROPOUT] = 0.0
    tie_weights: Annotated[bool, TIE] = False

    def __post_init__(self) -> None:
        if not isinstance(self.cell, str) or self.cell not in CELLS:
            raise ConfigError(SettingName("cell"), f": {self.cell!r} is not known; choose one of {', '.join(CELLS)}")
        check_whole("vocab_size", self.vocab_size, 2)
        check_settings(self)
        _ = self.spec  # checks what goes together

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """Return the description as inputs, core and head."""
        return ModelSpec(
            (TokensInput(self.vocab_size, self.embedding_size),),
            CoreConfig(self.cell, self.hidden_size, self.num_layers, dropout=self.dropout),
            NextTokenHead(self.vocab_size, self.tie_weights),
        )

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> LanguageModelConfig | None:
        """Return the settings of a language model, or None for a description that this class cannot express."""
        core, head = spec.core, spec.head
        if not isinstance(head, NextTokenHead) or core.bidirectional:
            return None
        (tokens, *others) = spec.inputs
        if others or not isinstance(tokens, TokensInput):
            return None
        return cls(
            core.cell, head.vocab_size, tokens.embedding_size, core.hidden_size, core.num_layers, core.dropout,
            head.tie_weights,
        )  # fmt: skip

    @property
    def output_weight_name(self) -> str:
        """Return the name of the output layer's (V, H) matrix, which is the embedding's if the weights are tied."""
        return NextTokenHead(self.vocab_size, self.tie_weights).weight_name

    @property
    def cell_definition(self) -> Cell:
        """Return the cell's entry in ``CELLS``."""
        return CELLS[self.cell]

    def state_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Return the shape (S, L, B, H) of the state of ``batch_size`` rows."""
        return (self.cell_definition.states, self.num_layers, batch_size, self.hidden_size)

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


def description_of(spec: ModelSpec) -> dict[str, Any]:
    """Return the JSON form of a description: that of 0.1.0 for a language model, of inputs, core and head otherwise."""
    config = LanguageModelConfig.from_spec(spec)
    return spec.to_dict() if config is None else config.to_dict()


def language_model_of(spec: ModelSpec) -> LanguageModelConfig:
    """Return the settings of a language model.

    Raises:
        ConfigError: the description is not that of a language model.
    """
    config = LanguageModelConfig.from_spec(spec)
    if config is None:
        raise ConfigError(
            f"head: got {spec.head.kind}; needs a language model, of tokens, one direction and next_token"
        )
    return config
