"""The engines that can train, for the one training loop: one entry each, imported when used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.backends import FLOAT32, check_precision
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.runs.experiment import TrainableMaker
from unrolled.engine.training.trainable import EngineTrainable, Trainable

NO_TORCH = 'the torch engine needs torch: pip install "unrolled[torch]"'


def _backend_maker(backend: str) -> TrainableMaker:
    return lambda spec, params, optimizer, clip: EngineTrainable(spec, params, optimizer, clip, backend)


def _torch(spec: ModelSpec, params: Params, optimizer: OptimizerConfig, clip: float | None) -> Trainable:
    try:
        from unrolled.export.torch.training import TorchTrainable
    except ImportError as error:
        raise MissingDependencyError(NO_TORCH) from error
    return TorchTrainable(spec, params, optimizer, clip)


TRAINABLES: dict[str, TrainableMaker] = {
    "numba": _backend_maker("numba"),
    "numpy": _backend_maker("numpy"),
    "torch": _torch,
}


def _one_of_several() -> bool:
    """Return whether torchrun, or a launcher like it, started this process together with others."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and {"RANK", "MASTER_ADDR"} <= set(os.environ)


def check_alone(what: str) -> None:
    """Check that torchrun did not start several processes, because ``what`` runs in one.

    Raises:
        ConfigError: torchrun started several.
    """
    if _one_of_several():
        raise ConfigError(f"{what}: runs in one process only; start it without torchrun")


@contextmanager
def training_group(engine: str) -> Iterator[Group]:
    """Yield the group of processes that train together: those that torchrun started, or this one alone.

    Raises:
        ConfigError: there are several processes, and the engine is not torch.
        MissingDependencyError: there are several, and torch is not installed.
    """
    if not _one_of_several():
        yield SINGLE_PROCESS
        return
    if engine != "torch":
        check_choice("engine", engine, TRAINABLES)
        raise ConfigError(
            f"engine: {engine} trains in one process only; give --engine torch, or start it without torchrun"
        )
    try:
        from unrolled.export.torch.distributed import torchrun_group
    except ImportError as error:
        raise MissingDependencyError(NO_TORCH) from error
    with torchrun_group() as group:
        yield group


def make_trainable(
    engine: str,
    spec: ModelSpec,
    params: Params,
    optimizer: OptimizerConfig,
    clip_norm: float | None = None,
    precision: str = FLOAT32,
    group: Group = SINGLE_PROCESS,
) -> Trainable:
    """Return a model with its optimiser on one of ``TRAINABLES``; ``params`` are copied.

    Args:
        group: the group from ``training_group``; its processes share the work of each training step.

    Raises:
        ConfigError: unknown engine, or the engine does not have this precision.
        MissingDependencyError: the engine's library is not installed.
    """
    check_choice("engine", engine, TRAINABLES)
    check_precision(engine, precision)
    if precision != FLOAT32:
        return EngineTrainable(spec, params, optimizer, clip_norm, engine, precision)
    if group.size > 1:
        from unrolled.export.torch.distributed import DistributedTrainable, TorchGroup

        assert isinstance(group, TorchGroup)  # the only group of several processes
        return DistributedTrainable(spec, params, optimizer, clip_norm, group)
    return TRAINABLES[engine](spec, params, optimizer, clip_norm)
