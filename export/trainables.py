"""The engines that can train, for the one training loop: one entry each, imported when it is used."""

from __future__ import annotations

from unrolled.engine.backends import FLOAT32, check_precision
from unrolled.engine.checks import check_choice
from unrolled.engine.config import ModelConfig
from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.experiment import TrainableMaker
from unrolled.engine.optim import OptimizerConfig
from unrolled.engine.params import Params
from unrolled.engine.trainable import EngineTrainable, Trainable


def _from_scratch(backend: str) -> TrainableMaker:
    return lambda config, params, optimizer, clip: EngineTrainable(config, params, optimizer, clip, backend)


def _torch(config: ModelConfig, params: Params, optimizer: OptimizerConfig, clip: float | None) -> Trainable:
    try:
        from unrolled.export.torch_model import TorchTrainable
    except ImportError as error:
        raise MissingDependencyError('the torch engine needs torch: pip install "unrolled[torch]"') from error
    return TorchTrainable(config, params, optimizer, clip)


TRAINABLES: dict[str, TrainableMaker] = {
    "numba": _from_scratch("numba"),
    "numpy": _from_scratch("numpy"),
    "torch": _torch,
}


def make_trainable(
    engine: str,
    config: ModelConfig,
    params: Params,
    optimizer: OptimizerConfig,
    clip_norm: float | None = None,
    precision: str = FLOAT32,
) -> Trainable:
    """A model with its optimiser on one of ``TRAINABLES``; ``params`` are copied.

    Raises:
        ConfigError: the engine is not known, or has not this precision.
        MissingDependencyError: its library is not installed.
    """
    check_choice("engine", engine, TRAINABLES)
    check_precision(engine, precision)
    if precision != FLOAT32:
        return EngineTrainable(config, params, optimizer, clip_norm, engine, precision)
    return TRAINABLES[engine](config, params, optimizer, clip_norm)
