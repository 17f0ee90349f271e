"""Data-parallel training in several processes that torchrun started: each takes its share of a batch's rows.

    R processes, B rows: process r has the rows from r·B/R on; shares differ by at most one row and can be empty
    gradient of the joint mean = Σ_r ∂(Σ own losses / N)/∂w,   N the tokens of the joint batch

The loop, which is the same as for one process, gives every process the whole batch, dropout masks and state, and gets the
joint result back. So the loss curve is that of one process, and a run can be resumed with any number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from unrolled.engine.errors import ConfigError, MissingDependencyError, ProcessLostError, first_line
from unrolled.engine.models.batch_checks import checked_batch
from unrolled.engine.models.dropout import Masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.process_group import Group, SharedValue
from unrolled.engine.storage.json_text import to_json
from unrolled.export.torch.inference import as_tensor
from unrolled.export.torch.training import TorchTrainable

# Longest time that a process waits for another, which may be writing a sample.
PROCESS_TIMEOUT = timedelta(minutes=30)


class TorchGroup(Group):
    """The processes of the initialised default group of ``torch.distributed``."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def add(self, values: Tensor) -> None:
        """Replace ``values`` by their sum over all processes, with the same bits in each.

        Raises:
            ProcessLostError: another process has ended or does not answer.
        """
        with _connection_errors():
            dist.all_reduce(values)

    def largest(self, *values: float) -> tuple[float, ...]:
        found = torch.tensor(values, dtype=torch.float64)
        with _connection_errors():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(found.tolist())

    def shared(self, make: Callable[[], SharedValue]) -> SharedValue:
        result: list[Any] = [None, None]
        if self.leads:
            try:
                result[0] = make()
            except Exception as error:
                result[1] = error
        with _connection_errors():
            dist.broadcast_object_list(result)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def check_same(self, what: Any) -> None:
        """Check that all processes have the same JSON value.

        Raises:
            ConfigError: the values differ.
        """
        own = hashlib.sha256(to_json(what, ascii=True).encode()).hexdigest()
        (differ,) = self.largest(own != self.shared(lambda: own))
        if differ:
            raise ConfigError(
                "the processes differ in corpus, vocabulary or settings; give all of them the same command and files "
                "(standard input reaches one of them alone)"
            )


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Raise a broken connection as a ProcessLostError."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError(
            f"another process of this training has ended or does not answer ({first_line(error)})"
        ) from error


@contextmanager
def torchrun_group() -> Iterator[TorchGroup]:
    """Yield the group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), over gloo.

    Raises:
        ConfigError: the processes do not find each other.
        MissingDependencyError: this torch was built without gloo.
    """
    if not (dist.is_available() and dist.is_gloo_available()):
        raise MissingDependencyError(
            "several processes need torch.distributed with gloo, which this torch was built without; "
            "install another build of torch, or start one process, without torchrun"
        )
    # Functions of torch take the default group at their import as a default argument, and an optimizer imports them. If they
    # were imported after the group exists, they would keep it and its threads until exit, where a thread that still holds a
    # tensor of a broken connection aborts the process.
    import torch.distributed.nn  # noqa: F401 - for its default arguments

    try:
        dist.init_process_group("gloo", timeout=PROCESS_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes do not find each other ({first_line(error)}); start them with torchrun"
        ) from error
    try:
        yield TorchGroup()
    finally:
        dist.destroy_process_group()


class _Share(NamedTuple):
    """The part of a batch that one process computes: its rows, or the first row with weight 0 if it has none.

    So every process has as many sums as the others, and gradients of the same parameters.

    Args:
        batch, state, masks: those of the rows that it computes.
        rows: its rows of the whole batch, which may be none.
    """

    batch: Batch
    state: NDArray
    masks: Masks | None
    rows: slice


class DistributedTrainable(TorchTrainable):
    """A TorchTrainable whose training steps and evaluations are split by rows; every process has all parameters and moments.

    Args:
        group: the group from ``torchrun_group``.
    """

    def __init__(
        self,
        spec: ModelSpec,
        params: Params,
        optimizer: OptimizerConfig,
        clip_norm: float | None,
        group: TorchGroup,
    ) -> None:
        super().__init__(spec, params, optimizer, clip_norm)
        self.group = group

    def _rows(self, B: int) -> slice:
        group = self.group
        return slice(group.rank * B // group.size, (group.rank + 1) * B // group.size)

    def _share(self, batch: Batch, state: NDArray, masks: Masks | None = None) -> _Share:
        """Return what this process computes of a checked batch."""
        rows = self._rows(batch.batch_size)
        computed = rows if rows.stop > rows.start else slice(0, 1)
        part = _batch_rows(self.spec, batch, computed)
        if computed is not rows:
            part = part._replace(weights=np.zeros_like(part.weights))
        return _Share(part, state[:, :, computed], _mask_rows(masks, computed), rows)

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        share = self._share(batch, state)
        super().warm_up(share.batch, share.state)

    def _backward(self, batch: Batch, state: NDArray, masks: Masks | None) -> tuple[LossSums, NDArray]:
        share = self._share(batch, state, masks)
        loss, final = self._loss(
            share.batch, as_tensor(share.state), share.masks, self.optimizer_config.label_smoothing
        )
        self._scaled(loss.total, batch).backward()
        grads = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        result, moved, sums = self._joined(loss.sums, final.detach().numpy(), state, share.rows, grads)
        for grad, summed in zip(grads, sums, strict=True):
            grad.copy_(summed)
        return result, moved

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        batch = checked_batch(self.spec, batch, state, self.dtype)  # the whole batch: an error then ends all processes
        share = self._share(batch, state)
        with torch.inference_mode():
            loss, final = self._loss(share.batch, as_tensor(share.state))
        result, moved, _ = self._joined(loss.sums, final.numpy(), state, share.rows)
        return result, moved

    def _joined(
        self, result: LossSums, final: NDArray, state: NDArray, rows: slice, grads: list[Tensor] | None = None
    ) -> tuple[LossSums, NDArray, list[Tensor]]:
        """Return loss sums, state and gradients of all processes, given this one's, by two all-reduces.

        The first adds the loss sums in float64, the second state and gradients in the model's dtype.
        """
        sums = torch.tensor([result.loss, result.weight, *result.details], dtype=torch.float64)
        self.group.add(sums)
        joint = np.zeros_like(state)  # zeros in the rows of other processes
        joint[:, :, rows] = final[:, :, : rows.stop - rows.start]
        values = [torch.from_numpy(joint), *(grads or [])]
        flat = torch.cat([value.flatten() for value in values])
        self.group.add(flat)
        whole, *rest = (
            part.view(value.shape) for part, value in zip(flat.split([v.numel() for v in values]), values, strict=True)
        )
        loss, weight, *details = sums.tolist()
        return LossSums(loss, weight, tuple(details)), whole.numpy().copy(), rest


def _batch_rows(spec: ModelSpec, batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch."""

    def part(array: NDArray, axes: Sequence[str | int]) -> NDArray:
        where = (slice(None),) * axes.index("batch")
        return np.ascontiguousarray(array[(*where, rows)])

    named = [axis for axis in spec.head.target_axes if isinstance(axis, str)]
    return Batch(
        {column.name: part(batch.inputs[column.name], column.axes) for column in spec.inputs},
        part(batch.targets, spec.head.target_axes),
        part(batch.weights, named),
        None if batch.lengths is None else part(batch.lengths, ("batch",)),
        batch.carry,
    )


def _mask_rows(masks: Masks | None, rows: slice) -> Masks | None:
    """Return some rows of the joint batch's masks, so that the same units are dropped as in one process."""
    if masks is None:
        return None
    between = None if masks.between is None else [mask[:, rows] for mask in masks.between]
    inputs, outputs = (None if mask is None else mask[:, rows] for mask in (masks.inputs, masks.outputs))
    return Masks(inputs, between, outputs)
