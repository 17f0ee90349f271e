"""Small models and batches for the tests: every size different, states and masks not trivial, all seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unrolled.engine.models.batch import Batch
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer

ALL_CELLS = tuple(CELLS)
T, B, V, E, H = 5, 3, 11, 4, 6  # all different, none a multiple of a vector's width


def config(cell: str, layers: int = 2, **settings: Any) -> LanguageModelConfig:
    sizes = {"vocab_size": V, "embedding_size": E, "hidden_size": H, **settings}
    if sizes.get("tie_weights"):
        sizes["embedding_size"] = sizes["hidden_size"]
    return LanguageModelConfig(cell, num_layers=layers, **sizes)


def params(model: LanguageModelConfig, dtype: DTypeLike = np.float64, seed: int = 1) -> Params:
    """Return parameters larger than the default initial ones, so that gates leave their linear range."""
    return {name: (value * 1.5).astype(dtype) for name, value in pytorch_params(model.spec, seed, np.float64).items()}


def batch(model: LanguageModelConfig, steps: int = T, rows: int = B, seed: int = 2, masked: bool = True) -> Batch:
    """Return a batch of random tokens; if ``masked``, rows end at different time steps, as padded records do."""
    rng = np.random.default_rng(seed)
    shape = (steps, rows)
    lengths = rng.integers(1, steps + 1, rows) if masked else np.full(rows, steps)
    lengths[0] = steps
    mask = np.arange(steps)[:, None] < lengths
    return Batch.of_tokens(rng.integers(0, model.vocab_size, shape), rng.integers(0, model.vocab_size, shape), mask)


def state(model: LanguageModelConfig, rows: int = B, dtype: DTypeLike = np.float64, seed: int = 3) -> NDArray:
    """Return a state whose h and c differ."""
    return np.random.default_rng(seed).uniform(-1, 1, model.state_shape(rows)).astype(dtype)


def checkpoint(cell: str = "lstm", layers: int = 2, **settings: Any) -> Checkpoint:
    """Return a random float32 checkpoint with the letters from "a" as vocabulary."""
    model = config(cell, layers, **settings)
    tokenizer = CharTokenizer([chr(ord("a") + i) for i in range(model.vocab_size)])
    return Checkpoint(model, params(model, np.float32), tokenizer, {"result": {"best": {"loss": 1.5}}})
