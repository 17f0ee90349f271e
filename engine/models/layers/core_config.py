"""Description of the recurrent core: cell, sizes and directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from unrolled.engine.canonical import canonical_settings
from unrolled.engine.checks import check_flag
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.cells.cell import Cell
from unrolled.engine.settings import COUNT, MODEL_PANEL, PROBABILITY, Setting, check_settings

CELL = Setting("cell", "", MODEL_PANEL, choices=CELLS, search=",".join(CELLS))
HIDDEN = Setting("hidden", "Units a layer.", MODEL_PANEL, COUNT, search="64,128,256,512")
LAYERS = Setting("layers", "Number of layers.", MODEL_PANEL, COUNT, search="1,2,3")
DROPOUT = Setting("dropout", "Dropout between layers.", MODEL_PANEL, PROBABILITY, search="0:0.5")


@dataclass(frozen=True)
class CoreConfig:
    """Description of the recurrent core, which knows neither its inputs nor its head.

    It maps x (T, B, E) and the lengths (B,) of the rows to outputs y (T, B, D·H) and a state (S, L·D, B, H), whose index
    of layer l and direction d is l·D + d.

    Args:
        cell: a key of ``CELLS``.
        hidden_size: H, the same in every layer and direction.
        num_layers: L.
        bidirectional: whether each layer has a second direction, from the last valid time step of a row to its first (D = 2).
        dropout: probability of dropping a unit between two layers in training, in [0, 1).

    Raises:
        ConfigError: a value is out of range or two do not go together.
    """

    cell: Annotated[str, CELL]
    hidden_size: Annotated[int, HIDDEN] = 128
    num_layers: Annotated[int, LAYERS] = 1
    bidirectional: bool = False
    dropout: Annotated[float, DROPOUT] = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        check_flag("bidirectional", self.bidirectional)
        check_dropout(self.dropout, self.num_layers)

    @property
    def cell_definition(self) -> Cell:
        """Return the cell's entry in ``CELLS``."""
        return CELLS[self.cell]

    @property
    def directions(self) -> int:
        """Return D."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Return the width D·H of the outputs."""
        return self.directions * self.hidden_size

    def state_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Return the shape (S, L·D, B, H) of the state of ``batch_size`` rows."""
        return (self.cell_definition.states, self.num_layers * self.directions, batch_size, self.hidden_size)

    def layer_input_size(self, layer: int, input_size: int) -> int:
        """Return the input width of a layer: ``input_size`` (E) for the first, D·H for the others."""
        return input_size if layer == 0 else self.output_size

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form."""
        return canonical_settings(self)


def check_dropout(dropout: float, num_layers: int) -> None:
    """Check that dropout between layers has layers to act between.

    Raises:
        ConfigError: there is no boundary between layers.
    """
    if dropout and num_layers == 1:
        raise ConfigError(
            SettingName("dropout"), f": {dropout} acts between layers and there is one layer; set ",
            SettingName("num_layers"), " to 2 or more, or dropout to 0",
        )  # fmt: skip
