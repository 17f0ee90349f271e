"""Workloads: sizes of a training step or of generation, the floating-point operations they need, and named sets of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.peers.flops import forward_flops, training_flops
from unrolled.engine.checks import check_choice, check_flag, check_whole
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs.embedded import TokensInput
from unrolled.engine.models.inputs.numeric import ValuesInput
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.optimizers.config import OPTIMIZERS

SUITE_TITLES = {"train": "Training step", "generate": "Generation", "stream": "Call of one time step"}
SUITES = tuple(SUITE_TITLES)
# Steps of fewer operations may be faster on one thread than on all. On two cores of a Xeon with AVX-512 torch is, up to about
# this size: LSTM 2 × 40, B = 32, T = 96 has 0.4e9, LSTM 1 × 128, B = 32, T = 64 has 0.9e9.
FEW_FLOPS = 6e8


@dataclass(frozen=True)
class Workload:
    """Sizes of one training step, one run of generation, or one call of ``step``.

    Args:
        suite: "train": forward, back-propagation, clipping and update of one batch; "generate": sampled tokens; "stream": one
            time step of a model whose state is carried, as an online prediction takes it.
        batch: rows of a training batch or of a call, or texts generated side by side.
        length: time steps of a training batch or of a call, or tokens of each text.
        optimizer: of a training step.
        classes: number of labels, one of which a tagger predicts at each time step; None: a language model.
        values: number of real-valued columns that a tagger reads instead of tokens; 0: it reads tokens.
        bidirectional: whether the tagger reads in both directions.
        ragged: whether the rows of a tagger's batch have lengths from 1 to ``length``, evenly spread, instead of all time
            steps.
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
    classes: int | None = None
    values: int = 0
    bidirectional: bool = False
    ragged: bool = False

    def __post_init__(self) -> None:
        check_choice("suite", self.suite, SUITES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("batch", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, needs a whole number of at least 1")
        check_whole("values", self.values, 0)
        for name in ("bidirectional", "ragged"):
            check_flag(name, getattr(self, name))
        for name in ("values", "bidirectional", "ragged"):
            if getattr(self, name) and self.classes is None:
                raise ConfigError(f"{name}: needs classes, because a language model has none of them")
        if self.classes is not None and self.suite != "train":
            raise ConfigError(f"classes: a tagger has no suite {self.suite}, only train")
        self.spec  # noqa: B018 - checks the model's sizes

    @property
    def task(self) -> str:
        """Return what is measured, by which peers and their settings are chosen: the suite, or "label" of a tagger."""
        return self.suite if self.classes is None else "label"

    @property
    def config(self) -> LanguageModelConfig:
        """Return the configuration of the language model."""
        return LanguageModelConfig(self.cell, self.vocab, self.embedding, self.hidden, self.layers)

    @property
    def spec(self) -> ModelSpec:
        """Return the description of the model."""
        if self.classes is None:
            return self.config.spec
        core = CoreConfig(self.cell, self.hidden, self.layers, self.bidirectional)
        reads = ValuesInput(self.values) if self.values else TokensInput(self.vocab, self.embedding)
        return ModelSpec((reads,), core, StepLabelsHead(self.classes))

    @property
    def tries_one_thread(self) -> bool:
        """Return whether one thread may be faster than all, so that the number of threads is a setting of the peers."""
        return self.suite == "stream" or (self.suite == "train" and self.flops < FEW_FLOPS)

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Return the valid time steps (B,) of each row, evenly spread over 1 … T in a random order; None: all T."""
        if not self.ragged:
            return None
        even = 1 + (2 * np.arange(self.batch, dtype=np.int64) + 1) * self.length // (2 * self.batch)
        return np.random.default_rng(2).permutation(even)

    @property
    def tokens(self) -> int:
        """Return the tokens of one training step, those of the padding excluded, of one run of generation, or of one call."""
        return self.batch * self.length if self.lengths is None else int(self.lengths.sum())

    @property
    def flops(self) -> float:
        """Return the floating-point operations that are needed, the same for every peer."""
        if self.suite != "train":  # the first layer's input product is a table
            return forward_flops(self.spec, self.tokens, self.batch, products_of_table=False)
        return training_flops(self.spec, self.tokens, self.batch)

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the float32 weights that one step of generation reads."""
        H, gates = self.hidden, self.config.cell_definition.gates
        return 4 * (H * gates * H * (2 * self.layers - 1) + H * self.vocab)

    @property
    def title(self) -> str:
        """Return a name with all sizes, for displays."""
        reads = f"{self.values} columns" if self.values else f"V = {self.vocab}, E = {self.embedding}"
        rest = f"T = {self.length}, {reads}"
        if self.classes is not None:
            rest += f", C = {self.classes}"
        cell = f"bidirectional {self.cell}" if self.bidirectional else self.cell
        rows = ", ragged" if self.ragged else ""
        return f"{cell} {self.layers} × {self.hidden}, B = {self.batch}, {rest}{rows}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


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


def step_call(cell: str, hidden: int, batch: int, vocab: int = 65) -> Workload:
    """Return a call of one time step of a model whose embedding is as wide as its only layer."""
    return Workload("stream", cell, 1, hidden, batch, 1, vocab, hidden)


_CELLS, _HIDDEN = ("lstm", "gru", "rnn"), (128, 256, 512)
_GENERATE = {"vocab": 100, "length": 64}


def _small(cell: str, layers: int, hidden: int, batch: int, length: int, **sizes: Any) -> Workload:
    """Return a training step of a small network whose embedding is as wide as its layers."""
    return Workload("train", cell, layers, hidden, batch, length, embedding=hidden, **sizes)


# sizes of the taggers of words
TAGGER: dict[str, Any] = {"vocab": 1_000, "embedding": 100, "classes": 20}

WORKLOADS: dict[str, Sequence[Workload]] = {
    # character models of the sizes that people train on a laptop
    "train": [
        *grid("train", _CELLS, (1,), _HIDDEN, (1, 8, 32, 64)),
        *grid("train", ("lstm",), (2,), _HIDDEN, (32, 64)),
    ],
    "train-quick": grid("train", _CELLS, (1,), (128,), (1, 32)),
    # W. Zaremba et al., "Recurrent Neural Network Regularization" (2014), the small model
    "word": [Workload("train", "lstm", 2, 200, 20, 20, 10_000, 200, "sgd")],
    # taggers of words: one of 20 labels at each time step
    "tagger": grid("train", ("lstm", "gru"), (1,), (128, 256), (32,), **TAGGER, bidirectional=True),
    # rows of lengths from 1 to T, each beside the same sizes with full rows
    "ragged": [
        Workload("train", cell, 1, 128, B, **TAGGER, bidirectional=bidirectional, ragged=ragged)
        for bidirectional, cell, B, ragged in product((False, True), ("lstm", "gru"), (32, 128), (False, True))
    ],
    # networks of labels and series: a step of a millisecond or less, in which launches and Python count
    "small": [
        _small("lstm", 1, 40, 32, 48),
        _small("lstm", 2, 40, 32, 96),
        _small("lstm", 1, 64, 8, 50),
        _small("lstm", 1, 128, 1, 64),
        *(_small(cell, 1, H, B, T) for cell, (H, B, T) in product(("gru", "rnn"), ((40, 32, 48), (64, 8, 50)))),
        _small("lstm", 1, 40, 32, 48, classes=5, values=6, bidirectional=True),
    ],
    # sizes at which threads that wait for each other suffer most from other processes
    "busy": grid("train", ("lstm",), (1,), _HIDDEN, (8, 32)),
    "generate": grid("generate", _CELLS, (1,), _HIDDEN, (1, 64, 256), **_GENERATE),
    "generate-quick": grid("generate", ("lstm",), (1,), (128,), (1, 64), **_GENERATE),
    "streaming": [
        *(step_call("lstm", H, B) for H, B in product((64, 128, 256), (1, 8))),
        step_call("gru", 64, 1),
        step_call("rnn", 64, 1),
    ],
    "streaming-quick": [step_call("lstm", 64, 1)],
}


def workloads_of(suite: str) -> list[str]:
    """Return the names of the sets of a suite."""
    return [name for name, works in WORKLOADS.items() if works[0].suite == suite]
