"""Workloads: sizes of a training step or of generation, the floating-point operations they need, and named sets of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.optimizers.config import OPTIMIZERS

SUITES = ("train", "generate")


@dataclass(frozen=True)
class Workload:
    """Sizes of one training step or one run of generation.

    Args:
        suite: "train": forward, back-propagation, clipping and update of one batch; "generate": sampled tokens.
        batch: rows of a training batch, or texts generated side by side.
        length: time steps of a training batch, or tokens of each text.
        optimizer: of a training step.
    """

    suite: str
    cell: str
    layers: int = 1
    hidden: int = 128
    batch: int = 32
    length: int = 64
    vocab: int = 65
    embedding: int = 128
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        check_choice("suite", self.suite, SUITES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("batch", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, needs a whole number of at least 1")
        self.config  # noqa: B018 - checks the model's sizes

    @property
    def config(self) -> LanguageModelConfig:
        """Return the configuration of the model."""
        return LanguageModelConfig(self.cell, self.vocab, self.embedding, self.hidden, self.layers)

    @property
    def tokens(self) -> int:
        """Return the tokens of one training step, or of one run of generation."""
        return self.batch * self.length

    @property
    def flops(self) -> float:
        """Return the floating-point operations that are needed, the same for every peer.

        A product of (M, K) by (K, N) counts 2·M·K·N. Training needs each product three times: forward, gradient of the
        weights, gradient of the input. The first layer's input product is needed once for each token of the vocabulary or
        of the batch, whichever are fewer; in generation it is a table.
        """
        H, gates, N = self.hidden, self.config.cell_definition.gates, self.tokens
        # hidden products, and input products of the layers above the first
        recurrent = 2.0 * N * H * gates * H * (2 * self.layers - 1)
        output = 2.0 * N * H * self.vocab
        if self.suite == "generate":
            return recurrent + output
        table = 2.0 * min(self.vocab, N) * self.embedding * gates * H
        return 3 * (recurrent + output + table)

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the float32 weights that one step of generation reads."""
        H, gates = self.hidden, self.config.cell_definition.gates
        return 4 * (H * gates * H * (2 * self.layers - 1) + H * self.vocab)

    @property
    def title(self) -> str:
        """Return a name with all sizes, for displays."""
        rest = f"T = {self.length}, V = {self.vocab}, E = {self.embedding}"
        return f"{self.cell} {self.layers} × {self.hidden}, B = {self.batch}, {rest}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def flops_per_token(config: LanguageModelConfig, batch_size: int, length: int) -> float:
    """Return the operations a token that a training step on (length, batch_size) needs, as ``Workload`` counts them."""
    sizes = config.num_layers, config.hidden_size, batch_size, length, config.vocab_size, config.embedding_size
    work = Workload("train", config.cell, *sizes)
    return work.flops / work.tokens


def grid(
    suite: str,
    cells: Iterable[str],
    layers: Iterable[int],
    hidden: Iterable[int],
    batch: Iterable[int],
    **sizes: Any,
) -> list[Workload]:
    """Return every combination of the sizes; the batch varies fastest."""
    return [Workload(suite, cell, count, H, B, **sizes) for cell, count, H, B in product(cells, layers, hidden, batch)]


_CELLS, _HIDDEN = ("lstm", "gru", "rnn"), (128, 256, 512)
_GENERATE = {"vocab": 100, "length": 64}

WORKLOADS: dict[str, Sequence[Workload]] = {
    # character models of the sizes that people train on a laptop
    "train": [
        *grid("train", _CELLS, (1,), _HIDDEN, (1, 8, 32, 64)),
        *grid("train", ("lstm",), (2,), _HIDDEN, (32, 64)),
    ],
    "train-quick": grid("train", _CELLS, (1,), (128,), (1, 32)),
    # W. Zaremba et al., "Recurrent Neural Network Regularization" (2014), the small model
    "word": [Workload("train", "lstm", 2, 200, 20, 20, 10_000, 200, "sgd")],
    "generate": grid("generate", _CELLS, (1,), _HIDDEN, (1, 64, 256), **_GENERATE),
    "generate-quick": grid("generate", ("lstm",), (1,), (128,), (1, 64), **_GENERATE),
}


def workloads_of(suite: str) -> list[str]:
    """Return the names of the sets of a suite."""
    return [name for name, works in WORKLOADS.items() if works[0].suite == suite]
