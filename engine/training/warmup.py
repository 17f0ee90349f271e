"""Compilation of the Numba engine ahead of its first use."""

from __future__ import annotations

import time

import numpy as np

from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.step_contract import Flow, zero_state
from unrolled.engine.network.backends import BF16, FLOAT32
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.training.trainable import EngineTrainable


def warmup(cell: str = "lstm", optimizer: str = "adam", precision: str = FLOAT32) -> float:
    """Compile the kernels for training and generation with a cell, or load them from the cache.

    Intended for building a container, or for a service whose first request must be fast. Kernels do not depend on a
    model's sizes.

    Args:
        cell: a key of ``CELLS``.
        optimizer: a key of ``OPTIMIZERS``.
        precision: "float32" or "bf16".

    Returns:
        Elapsed seconds.

    Raises:
        ConfigError: cell, optimizer or precision is unknown, or this processor does not support the precision.
        MissingDependencyError: numba cannot be imported.
    """
    started = time.perf_counter()
    for V in (3, 60):  # vocabularies below and above the number of positions take different paths
        config = LanguageModelConfig(cell, V, embedding_size=8, hidden_size=8, num_layers=2)
        params = pytorch_params(config.spec, 0)
        model = EngineTrainable(config.spec, params, OptimizerConfig(optimizer), 1.0, "numba", precision)
        tokens, state = np.zeros((4, 2), np.int64), zero_state(config, 2)
        batch = Batch.of_tokens(tokens, tokens, carry=True)
        for _ in range(3):  # one by one, recorded, and as recorded
            model.train_step(batch, state, 1e-3)
            model.evaluate(batch, state)
            _, state = model.step(batch.inputs, state)
    from unrolled.engine.kernels.decode.decoder import Decoder  # imports numba, which exists if a step ran
    from unrolled.engine.kernels.gemm.packing import choose_packing

    rows, settings = np.arange(2), DrawSettings.stack([DrawSettings(True, 1.0, 0, 1.0, 0)] * 2)
    draws, going = np.zeros(2, np.uint64), np.zeros(2, np.bool_)
    flow = Flow.of(
        [rows, rows], 1, remaining=rows + 1, first_draw=draws, indices=draws, settings=settings, started=going
    )
    Decoder(config, params, choose_packing(precision == BF16)).flow(state, flow, -1, 2)
    return time.perf_counter() - started
