"""Small models and batches for the tests: every size different, states, weights and padding not trivial, all seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.heads.head import Head
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.input import Input
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import HasState
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.characters import CharTokenizer

ALL_CELLS = tuple(CELLS)
T, B, V, E, H = 5, 3, 11, 4, 6  # all different, none a multiple of a vector's width
C = 10  # classes
MIXTURES = (
    "tokens", "categories", "values", "values+static", "tokens+categories+values+static", "static+values+categories+tokens",
)  # fmt: skip


def config(cell: str, layers: int = 2, **settings: Any) -> LanguageModelConfig:
    sizes = {"vocab_size": V, "embedding_size": E, "hidden_size": H, **settings}
    if sizes.get("tie_weights"):
        sizes["embedding_size"] = sizes["hidden_size"]
    return LanguageModelConfig(cell, num_layers=layers, **sizes)


def input_of(kind: str) -> Input:
    """Return a small input of a kind, whose name is its kind."""
    inputs: dict[str, Input] = {
        "tokens": TokensInput(V, E),
        "categories": CategoriesInput(9, 8, "categories"),
        "values": ValuesInput(7, (1.5, -2.0, 0.0, 40.0, 0.1, -0.3, 3.0), (2.0, 0.5, 1.0, 30.0, 0.7, 1.1, 5.0)),
        "static": StaticInput(2, (-1.0, 20.0), (3.0, 7.0)),
    }
    return inputs[kind]


def spec(
    cell: str = "lstm", inputs: str = "tokens", layers: int = 2, bidirectional: bool = False, head: str = "step_labels",
    dropout: float = 0.0,
) -> ModelSpec:  # fmt: skip
    """Return the description of a small model.

    Args:
        inputs: kinds joined by +, as in ``MIXTURES``.
        head: "step_labels" of C classes, or "next_token".
    """
    heads: dict[str, Head] = {"step_labels": StepLabelsHead(C), "next_token": NextTokenHead(V)}
    core = CoreConfig(cell, H, layers, bidirectional, dropout)
    return ModelSpec(tuple(map(input_of, inputs.split("+"))), core, heads[head])


def params(model: LanguageModelConfig | ModelSpec, dtype: DTypeLike = np.float64, seed: int = 1) -> Params:
    """Return parameters larger than the default initial ones, so that gates leave their linear range."""
    description = model if isinstance(model, ModelSpec) else model.spec
    return {name: (value * 1.5).astype(dtype) for name, value in pytorch_params(description, seed, np.float64).items()}


def ragged(steps: int = T, rows: int = B, seed: int = 4) -> NDArray[np.int64]:
    """Return lengths (B,) in no order: one row has all of at least 3 steps, one a single step, the others lie between."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, steps, rows)
    lengths[: min(rows, 2)] = (steps, 1)[: min(rows, 2)]
    return rng.permutation(lengths)


def spec_batch(
    model: ModelSpec, steps: int = T, rows: int = B, seed: int = 2, lengths: NDArray[np.int64] | None = None,
    carry: bool = False,
) -> Batch:  # fmt: skip
    """Return a batch with random float weights, one of them 0; NaN and wild ids are in the padding and where it is 0.

    Args:
        lengths: the valid steps of each row, for instance from ``ragged``; None: all.
    """
    rng = np.random.default_rng(seed)
    inputs = {column.name: column.example(rng, steps, rows) for column in model.inputs}
    sizes: dict[Any, int] = {"time": steps, "batch": rows}
    axes = model.head.target_axes
    classes = V if model.head.kind == "next_token" else C
    targets = rng.integers(0, classes, [sizes.get(axis, axis) for axis in axes]).astype(model.head.target_dtype)
    weights = rng.uniform(0.25, 2.0, [sizes[axis] for axis in axes if isinstance(axis, str)]).astype(np.float32)
    weights.reshape(-1)[1] = 0
    targets.reshape(-1)[1] = -7
    if lengths is not None:
        padding = np.arange(steps)[:, None] >= lengths
        for column in model.inputs:
            if "time" in column.axes:
                inputs[column.name][padding] = -(10**6) if column.dtype == np.int64 else np.nan
        if "time" in axes:
            targets[padding], weights[padding] = -(10**6), 3.0
    return Batch(inputs, targets, weights, lengths, carry)


def batch(model: LanguageModelConfig, steps: int = T, rows: int = B, seed: int = 2, masked: bool = True) -> Batch:
    """Return a batch of random tokens; if ``masked``, rows end at different time steps, as padded records do."""
    rng = np.random.default_rng(seed)
    shape = (steps, rows)
    lengths = rng.integers(1, steps + 1, rows) if masked else np.full(rows, steps)
    lengths[0] = steps
    mask = np.arange(steps)[:, None] < lengths
    return Batch.of_tokens(rng.integers(0, model.vocab_size, shape), rng.integers(0, model.vocab_size, shape), mask)


def state(model: HasState, rows: int = B, dtype: DTypeLike = np.float64, seed: int = 3) -> NDArray:
    """Return a state whose h and c differ."""
    return np.random.default_rng(seed).uniform(-1, 1, model.state_shape(rows)).astype(dtype)


def checkpoint(cell: str = "lstm", layers: int = 2, **settings: Any) -> Checkpoint:
    """Return a random float32 checkpoint with the letters from "a" as vocabulary."""
    model = config(cell, layers, **settings)
    values, record = params(model, np.float32), {"result": {"best": {"loss": 1.5}}}
    return Checkpoint.of_language_model(model, values, letters(model.vocab_size), record)


def letters(size: int = V) -> CharTokenizer:
    """Return a tokenizer of the first letters."""
    return CharTokenizer([chr(ord("a") + i) for i in range(size)])


def spec_checkpoint(description: ModelSpec, training: dict[str, Any] | None = None) -> Checkpoint:
    """Return a random float32 checkpoint of any model; an input "tokens" has the first letters as vocabulary."""
    reads_tokens = any(column.name == "tokens" for column in description.inputs)
    preprocessing = text_preprocessing(letters()) if reads_tokens else {}
    return Checkpoint(description, params(description, np.float32), preprocessing, training or {})
