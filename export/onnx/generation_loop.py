"""The generate form: the whole sampling loop inside the graph.

    tokens (time, batch), lengths (batch,), state, uniforms (steps, batch), temperature, top_k, top_p, end_token
    -> written (≤ steps, batch), final_state

The prompt is read as a sequence and the first token drawn after it; then each iteration reads a token and draws the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.graph_builder import NO_VALUE, GraphBuilder, fill_value, inner_value
from unrolled.export.onnx.layers import add_stacked_state
from unrolled.export.onnx.token_draw import (
    TOKEN_TYPE,
    SamplingValues,
    TokenDraw,
    add_chosen_weights,
    add_filtered_weights,
    add_plain_weights,
)
from unrolled.export.onnx.weights import LanguageModelWeights


def add_generation(
    graph: GraphBuilder,
    config: LanguageModelConfig,
    weights: LanguageModelWeights,
    finals: list[list[str]],
    axis_0: str,
) -> None:
    """Add the outputs ``written`` and ``final_state``, given the states after the prompt."""
    values = SamplingValues(graph, config.vocab_size)
    uniforms = _add_uniforms(graph, axis_0)
    # A prefix, because form both has logits of its own in the same graph.
    first = TokenDraw(weights, values, add_chosen_weights).add(graph.prefixed("first_"), finals[-1][0], uniforms.first)
    carried = [first.ended, first.token, *(name for layer in finals for name in layer), uniforms.unwritten]
    row_shape = graph.node("Shape", [first.token], "row_shape")
    first_places = graph.node(
        "ConstantOfShape", [row_shape], "first_places", value=fill_value(0, np.int64)
    )  # (1, batch)
    # Two consecutive loops, one of which has no iterations. In the branches of an If, onnxruntime 1.32 would pack their
    # weights again in each iteration.
    none = graph.constant("no_turns", 0)
    for name, add_token_weights, counts in (
        ("plain", add_plain_weights, [uniforms.iterations, none]),
        ("filtered", add_filtered_weights, [none, uniforms.iterations]),
    ):
        count = graph.node("Where", [values.no_filter, *counts], f"{name}_turns")
        loop = _GenerationLoop(
            config.spec.core, TokenDraw(weights, values, add_token_weights), uniforms.others, first_places
        )
        carried = loop.add(graph, f"{name}_", count, first.go_on, carried)
    _add_written(graph, first.token, carried[-1], uniforms.steps, axis_0)
    S = len(finals[0])
    states = carried[2:-1]
    add_stacked_state(graph, [states[i : i + S] for i in range(0, len(states), S)], axis_0, "final_state")


class _Uniforms(NamedTuple):
    """Names of values made of the input ``uniforms``.

    Args:
        first: uniforms of the first token (batch, 1).
        others: those of the tokens after it (steps, batch, 1).
        steps: the number of tokens (1,).
        iterations: the number of iterations of a loop ().
        unwritten: a row of -1 for each token that a loop may write, and a spare one (steps + 1, batch).
    """

    first: str
    others: str
    steps: str
    iterations: str
    unwritten: str


def _add_uniforms(graph: GraphBuilder, axis_0: str) -> _Uniforms:
    shape = graph.node("Shape", ["uniforms"], "uniforms_shape")  # (steps, batch)
    steps = graph.node("Gather", [shape, graph.constant("places_0", [0])], "steps", axis=0)
    batch = graph.node("Gather", [shape, graph.constant("places_1", [1])], "batch", axis=0)
    one = graph.constant("from_1", [1])
    left = graph.node("Max", [graph.node("Sub", [steps, one], "steps_left"), axis_0], "some_left")
    iterations = graph.node("Squeeze", [left, axis_0], "turns")
    # The first token is drawn outside the loop, even if no token is asked for, so it needs a row of uniforms.
    spare = graph.node("Concat", [graph.constant("one_row", [1]), batch], "spare_shape", axis=0)
    no_draw = graph.node("ConstantOfShape", [spare], "no_draw", value=fill_value(0, np.float64))
    rows = graph.node("Concat", ["uniforms", no_draw], "uniforms_and_spare", axis=0)
    # u·total rounded up to the total would belong to no token. Rounding is monotonic, so the smaller of u·total and
    # (1 - ulp)·total is the smaller of both factors times the total.
    below_one = graph.constant("below_one", 1 - 2.0**-52, np.float64)
    bounded = graph.node("Min", [rows, below_one], "u_bounded")
    columns = graph.node("Unsqueeze", [bounded, graph.constant("axis_2", [2])], "u_columns")  # (steps + 1, batch, 1)
    all_rows = graph.constant("to_end", [np.iinfo(np.int64).max])
    u_row = graph.node("Gather", [columns, axis_0], "u_first_row", axis=0)
    first = graph.node("Squeeze", [u_row, axis_0], "u_first")
    others = graph.node("Slice", [columns, one, all_rows, axis_0], "u_rest")
    minus_one = fill_value(-1, np.int32)
    unwritten = graph.node("ConstantOfShape", [graph.node("Shape", [rows], "rows_shape")], "no_rows", value=minus_one)
    return _Uniforms(first, others, steps, iterations, unwritten)


def _add_written(graph: GraphBuilder, first: str, rows: str, steps: str, axis_0: str) -> None:
    """Add ``written``: the first token (1, batch) and the rows that the loops reached; the others hold -1."""
    every = graph.node("Concat", [first, rows], "all_rows", axis=0)
    column = graph.node("Gather", [every, graph.constant("first_column", 0)], "column", axis=1)
    reached = graph.node("GreaterOrEqual", [column, graph.constant("lowest_token", 0, np.int32)], "reached")
    flags = graph.node("Cast", [reached], "reached_flags", to=TensorProto.INT64)
    count = graph.node("Min", [graph.node("ReduceSum", [flags, axis_0], "reached_rows"), steps], "written_rows")
    tokens = graph.node("Slice", [every, axis_0, count, axis_0], "written_tokens")
    graph.node("Cast", [tokens], "written", to=TensorProto.INT64)


class _GenerationLoop(NamedTuple):
    """A loop whose iterations read the previous token and draw the next one.

    The tokens are written into rows that the loop carries. Scan outputs would save the copy, but the specification leaves
    open what they are after no iteration: onnx's reference evaluator fails, OpenVINO returns those of another call. For 64
    texts (1 × 128) the copy is lost in the noise at 200 tokens a call and costs 5% at 1,000, so hosts ask for a few hundred
    at a time.

    Args:
        draw: adds the draw of a token.
        u: name of the uniforms (≥ iterations, B, 1).
        first_places: name of the index of the first row, for each token of a row (1, B): zeros.
    """

    core: CoreConfig
    draw: TokenDraw
    u: str
    first_places: str

    def add(self, graph: GraphBuilder, name: str, iterations: str, go_on: str, carried: list[str]) -> list[str]:
        """Add the loop and return the carried values after it.

        Args:
            name: prefix of the loop's names.
            iterations: the largest number of iterations ().
            go_on: whether to run at all ().
            carried: whether each row has ended (1, B), its token (1, B), the states (1, B, H) of each layer, and the
                tokens (≥ iterations, B).
        """
        body = graph.inner(f"{name}loop_")
        outputs = [f"{name}last_{i}" for i in range(len(carried))]
        graph.node("Loop", [iterations, go_on, *carried], outputs, body=self._body(body, len(carried) - 3))
        return [graph.prefix + output for output in outputs]

    def _body(self, body: GraphBuilder, states: int) -> onnx.GraphProto:
        iteration, on, ended, token, rows = (
            f"{body.prefix}{name}" for name in ("turn", "on", "ended", "given", "rows")
        )
        given = [f"{body.prefix}given_{i}" for i in range(states)]
        cell, S = ONNX_CELLS[self.core.cell], self.core.cell_definition.states
        x = body.node("Gather", [self.draw.weights.embedding, token], "embedded", axis=0)  # (1, B, E)
        moved: list[str] = []
        for layer, weights in enumerate(self.draw.weights.layers):
            before = given[layer * S : (layer + 1) * S]
            _, last = cell.add_layer(body, self.core, layer, weights, x, before, NO_VALUE)
            x = last[0]
            moved += last
        u = body.node("Gather", [self.u, iteration], "u", axis=0)  # (B, 1)
        drawn = self.draw.add(body, x, u, ended)
        places = body.node("Add", [self.first_places, iteration], "places")  # (1, B)
        longer = body.node("ScatterElements", [rows, places, drawn.token], "longer", axis=0)
        B, I, F = TensorProto.BOOL, TOKEN_TYPE, TensorProto.FLOAT
        inputs = [
            (iteration, TensorProto.INT64),
            (on, B),
            (ended, B),
            (token, I),
            *((name, F) for name in given),
            (rows, I),
        ]
        outputs = [(drawn.go_on, B), (drawn.ended, B), (drawn.token, I), *((name, F) for name in moved), (longer, I)]
        scalars = {iteration: (), on: (), drawn.go_on: ()}
        typed = [[inner_value(name, kind, scalars.get(name)) for name, kind in values] for values in (inputs, outputs)]
        return body.proto("turn", *typed)
