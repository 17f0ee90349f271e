"""Floating-point operations that a model needs, the same for every engine.

A product of (M, K) by (K, N) counts 2·M·K·N; whatever is not a product counts nothing. Padding is not needed, so N, the number
of time steps of all rows, excludes it.
"""

from __future__ import annotations

from unrolled.engine.models.spec import ModelSpec


def forward_flops(spec: ModelSpec, steps: int, rows: int, products_of_table: bool = True) -> float:
    """Return the operations of the forward pass.

    Args:
        steps: N, the time steps of all rows, without padding.
        rows: B.
        products_of_table: whether the first layer's input product is counted if its only input is an embedding, whose product
            is a table: it is needed once for each row of the embedding or each time step, whichever are fewer.
    """
    core = spec.core
    D, H, G = core.directions, core.hidden_size, core.cell_definition.gates
    hidden = 2.0 * steps * H * G * H * D * core.num_layers
    between = 2.0 * steps * core.output_size * G * H * D * (core.num_layers - 1)
    first = 0.0 if _is_table(spec) and not products_of_table else _first_flops(spec, steps)
    return hidden + between + first + _head_flops(spec, steps, rows)


def training_flops(spec: ModelSpec, steps: int, rows: int) -> float:
    """Return the operations of a training step: each product three times, forward and for the gradients of its two factors.

    Inputs without parameters need no gradient, so the first layer's input product counts twice for them.
    """
    needless = 0.0 if any(one.parameter_shapes() for one in spec.inputs) else _first_flops(spec, steps)
    return 3 * forward_flops(spec, steps, rows) - needless


def flops_per_token(spec: ModelSpec, batch_size: int, length: int) -> float:
    """Return the operations a time step that a training step on (length, batch_size) needs."""
    return training_flops(spec, batch_size * length, batch_size) / (batch_size * length)


def _is_table(spec: ModelSpec) -> bool:
    """Return whether the product of the inputs with the first layer can be a table."""
    return len(spec.inputs) == 1 and spec.inputs[0].lookup is not None


def _first_flops(spec: ModelSpec, steps: int) -> float:
    """Return the operations of the first layer's input product."""
    core = spec.core
    gates = core.cell_definition.gates * core.hidden_size * core.directions
    return 2.0 * _first_rows(spec, steps) * spec.input_size * gates


def _first_rows(spec: ModelSpec, steps: int) -> int:
    """Return the rows of the first layer's input product."""
    if not _is_table(spec):
        return steps
    column = spec.inputs[0]
    assert column.lookup is not None  # of a table
    return min(column.parameter_shapes()[column.lookup][0], steps)


def _head_flops(spec: ModelSpec, steps: int, rows: int) -> float:
    """Return the operations of the head: one product of the core's outputs for each of its own."""
    return sum(
        2.0
        * (steps if "time" in axes else rows)
        * spec.core.output_size
        * (axes[-1] if isinstance(axes[-1], int) else 1)
        for axes in spec.head.outputs.values()
    )
