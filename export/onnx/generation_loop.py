"""The generate form: the whole sampling loop inside the graph, by the sampling rules of ``unrolled.runtime``.

    tokens (time, batch), lengths (batch,), state, uniforms (steps, batch), temperature, top_k, top_p, end_token
    -> written (≤ steps, batch), final_state

The prompt is read as a sequence, and the first token drawn behind it. Then each turn of the loop reads a token and draws the
next. No branch depends on a row; one that depends on the settings leaves out the filters, another the sorting of a large
vocabulary. A node costs some 0.4 us whatever it computes, so that what can stand before the loop stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from unrolled.engine.models.config import ModelConfig
from unrolled.export.onnx.graph import Graph, GraphWeights, add_layer, add_logits, add_stacked_state

# With top_p alone, so many of the most probable tokens are sorted first; all of them only where these do not suffice.
PARTLY = 256
TOKEN = TensorProto.INT32  # inside the graph: half of the bytes to count and to copy


def _typed(name: str, kind: int, shape: tuple[int | str, ...] | None = None) -> onnx.ValueInfoProto:
    """A value of an inner graph; shapes that can vary are not said, which keeps strict runtimes content."""
    return helper.make_tensor_value_info(name, kind, shape)


def add_generation(
    graph: Graph, config: ModelConfig, weights: GraphWeights, finals: list[list[str]], axis_0: str
) -> None:
    """Add ``written`` and ``final_state``, given the states after the prompt."""
    settings = _Settings(graph, config.vocab_size)
    draws = _add_draws(graph, axis_0)
    named = Graph("first_", graph.nodes, graph.initializers)  # the same graph: form both has logits of its own
    first = _add_token(named, weights, finals[-1][0], draws.first, "", settings, _add_either)
    carried = [first.ended, first.token, *(name for layer in finals for name in layer), draws.rows]
    row_shape = graph.node("Shape", [first.token], "row_shape")
    first_places = graph.node(
        "ConstantOfShape", [row_shape], "first_places", value=_one_value(0, np.int64)
    )  # (1, batch)
    # Two loops one after the other, of which one has no iterations. In the branches of an If, onnxruntime 1.32 would pack
    # their weights anew in each iteration.
    none = graph.constant("no_turns", 0)
    for name, add_filter, counts in (
        ("plain", _add_plain, [draws.turns, none]),
        ("filtered", _add_sorted, [none, draws.turns]),
    ):
        count = graph.node("Where", [settings.no_filter, *counts], f"{name}_turns")
        loop = _Loop(config, weights, settings, add_filter, draws.others, first_places)
        carried = loop.add(graph, f"{name}_", count, first.go_on, carried)
    _add_written(graph, first.token, carried[-1], draws.steps, axis_0)
    S = len(finals[0])
    states = carried[2:-1]
    add_stacked_state(graph, [states[i : i + S] for i in range(0, len(states), S)], axis_0, "final_state")


def _one_value(value: float, dtype: Any) -> onnx.TensorProto:
    """Return what ``ConstantOfShape`` fills its output with."""
    return onnx.numpy_helper.from_array(np.array([value], dtype))


def _add_written(graph: Graph, first: str, rows: str, steps: str, axis_0: str) -> None:
    """Add ``written``: the first token (1, batch) and the rows that the loops reached; the others hold -1."""
    every = graph.node("Concat", [first, rows], "all_rows", axis=0)
    column = graph.node("Gather", [every, graph.constant("first_column", 0)], "column", axis=1)
    reached = graph.node("GreaterOrEqual", [column, graph.constant("lowest_token", 0, np.int32)], "reached")
    flags = graph.node("Cast", [reached], "reached_flags", to=TensorProto.INT64)
    count = graph.node("Min", [graph.node("ReduceSum", [flags, axis_0], "reached_rows"), steps], "written_rows")
    tokens = graph.node("Slice", [every, axis_0, count, axis_0], "written_tokens")
    graph.node("Cast", [tokens], "written", to=TensorProto.INT64)


class _Draws(NamedTuple):
    """Names of what the uniforms say.

    Args:
        first: uniforms of the first token (batch, 1).
        others: those of the tokens after it (steps, batch, 1).
        steps: their number (1,).
        turns: the number of iterations of a loop ().
        rows: one of -1 for each token that a loop may write, and a spare one (steps + 1, batch).
    """

    first: str
    others: str
    steps: str
    turns: str
    rows: str


def _add_draws(graph: Graph, axis_0: str) -> _Draws:
    shape = graph.node("Shape", ["uniforms"], "uniforms_shape")  # (steps, batch)
    steps = graph.node("Gather", [shape, graph.constant("places_0", [0])], "steps", axis=0)
    batch = graph.node("Gather", [shape, graph.constant("places_1", [1])], "batch", axis=0)
    one = graph.constant("from_1", [1])
    left = graph.node("Max", [graph.node("Sub", [steps, one], "steps_left"), axis_0], "some_left")
    turns = graph.node("Squeeze", [left, axis_0], "turns")
    # The first token is drawn outside the loop, and one is drawn even where none is asked for: so there is a row for it.
    spare = graph.node("Concat", [graph.constant("one_row", [1]), batch], "spare_shape", axis=0)
    no_draw = graph.node("ConstantOfShape", [spare], "no_draw", value=_one_value(0, np.float64))
    rows = graph.node("Concat", ["uniforms", no_draw], "uniforms_and_spare", axis=0)
    # u·total rounded up to the total would be no token's. Rounding keeps the order, so that the smaller of u·total and
    # (1 - ulp)·total is the smaller of both factors times the total.
    below_one = graph.constant("below_one", 1 - 2.0**-52, np.float64)
    bounded = graph.node("Min", [rows, below_one], "u_bounded")
    columns = graph.node("Unsqueeze", [bounded, graph.constant("axis_2", [2])], "u_columns")  # (steps + 1, batch, 1)
    all_rows = graph.constant("to_end", [np.iinfo(np.int64).max])
    u_row = graph.node("Gather", [columns, axis_0], "u_first_row", axis=0)
    first = graph.node("Squeeze", [u_row, axis_0], "u_first")
    others = graph.node("Slice", [columns, one, all_rows, axis_0], "u_rest")
    unwritten = _one_value(-1, np.int32)
    empty = graph.node("ConstantOfShape", [graph.node("Shape", [rows], "rows_shape")], "no_rows", value=unwritten)
    return _Draws(first, others, steps, turns, empty)


AddFilter = Callable[[Graph, str, str, "_Settings"], str]


class _Settings:
    """What does not change from turn to turn, as names of values outside the loop."""

    def __init__(self, graph: Graph, V: int) -> None:
        self.V = V
        size, zero, one = graph.constant("V", [V]), graph.constant("zero", 0), graph.constant("one", 1.0, np.float64)
        self.temperature = "temperature"
        # top_k: how many are sorted; 0 means all, but where all are many, a part first
        off = graph.node("Equal", ["top_k", zero], "top_k_off")
        some = graph.constant("partly", [min(V, PARTLY)])
        wanted = graph.node("Where", [off, some, "top_k"], "wanted_k")
        self.k = graph.node("Min", [wanted, size], "k")  # (1,)
        self.all = size
        infinity = graph.constant("infinity", np.inf, np.float64)
        all_stay = graph.node("GreaterOrEqual", ["top_p", one], "top_p_off")
        self.top_p = graph.node("Where", [all_stay, infinity, "top_p"], "top_p_limit")
        self.no_filter = graph.node("And", [off, all_stay], "no_filter")
        self.top_p_alone = off
        self.axis_0, self.axis_1 = "axis_0", "axis_1"
        self.along_1 = graph.constant("along_1", 1)  # CumSum takes a scalar
        self.nothing, self.tiny = graph.constant("nothing", 0.0, np.float64), graph.constant("tiny", 1e-300, np.float64)
        self.one_flag = graph.constant("one_flag", 1, np.int32)
        self.end_token = graph.node("Cast", ["end_token"], "end", to=TOKEN)
        self.last = graph.constant("last_place", [V - 1])


class _Loop(NamedTuple):
    """A loop whose iterations read the token that is given and draw the next one.

    The tokens go into rows that the loop carries. Scan outputs would do the same without a copy, but what they are after no
    iteration is left open by the specification: onnx's reference evaluator fails, OpenVINO returns those of another call.
    For 64 texts (1 × 128) the copy is lost in the noise at 200 tokens a call and costs 5% at 1,000, so that hosts ask for a
    few hundred at a time.

    Args:
        add_filter: adds the weights (B, V) of the tokens, given graph, scores, the largest of them, and settings.
        u: name of the uniforms (≥ turns, B, 1).
        first_places: name of the place of the first row for each token of a row (1, B): zeros.
    """

    config: ModelConfig
    weights: GraphWeights
    settings: _Settings
    add_filter: AddFilter
    u: str
    first_places: str

    def add(self, graph: Graph, name: str, turns: str, go_on: str, carried: list[str]) -> list[str]:
        """Add the loop, and return what is carried after it.

        Carried are whether each row has ended (1, B), its token (1, B), states (1, B, H) by layer, tokens (≥ turns, B).
        """
        body = graph.inner(f"{name}loop_")
        outputs = [f"{name}last_{i}" for i in range(len(carried))]
        graph.node("Loop", [turns, go_on, *carried], outputs, body=self._body(body, len(carried) - 3))
        return [graph.prefix + output for output in outputs]

    def _body(self, body: Graph, states: int) -> onnx.GraphProto:
        turn, on, ended, token, rows = (f"{body.prefix}{name}" for name in ("turn", "on", "ended", "given", "rows"))
        given = [f"{body.prefix}given_{i}" for i in range(states)]
        S = self.config.spec.states
        x = body.node("Gather", [self.weights.embedding, token], "embedded", axis=0)  # (1, B, E)
        moved: list[str] = []
        for layer, weights in enumerate(self.weights.layers):
            _, last = add_layer(body, self.config, layer, weights, x, given[layer * S : (layer + 1) * S])
            x = last[0]
            moved += last
        u = body.node("Gather", [self.u, turn], "u", axis=0)  # (B, 1)
        drawn = _add_token(body, self.weights, x, u, ended, self.settings, self.add_filter)
        places = body.node("Add", [self.first_places, turn], "places")  # (1, B)
        longer = body.node("ScatterElements", [rows, places, drawn.token], "longer", axis=0)
        B, I, F = TensorProto.BOOL, TOKEN, TensorProto.FLOAT
        inputs = [(turn, TensorProto.INT64), (on, B), (ended, B), (token, I), *((name, F) for name in given), (rows, I)]
        outputs = [(drawn.go_on, B), (drawn.ended, B), (drawn.token, I), *((name, F) for name in moved), (longer, I)]
        scalars = {turn: (), on: (), drawn.go_on: ()}
        typed = [[_typed(name, kind, scalars.get(name)) for name, kind in values] for values in (inputs, outputs)]
        return body.proto("turn", *typed)


class _Token(NamedTuple):
    """Names of a token (1, B), of whether each row has ended (1, B), and of whether any has not ()."""

    token: str
    ended: str
    go_on: str


def _add_token(
    graph: Graph, weights: GraphWeights, h: str, u: str, ended: str, settings: _Settings, add_filter: AddFilter
) -> _Token:
    """The next token from the last layer's h (1, B, H); rows that have ``ended`` (1, B; "": none) get the end token."""
    rows = graph.node("Squeeze", [h, settings.axis_0], "h")  # (B, H)
    logits = add_logits(graph, weights, rows, "logits")
    drawn = _add_draw(graph, logits, u, settings, add_filter)
    if ended:
        token = graph.node("Where", [ended, settings.end_token, drawn], "token")
    else:
        token = graph.node("Unsqueeze", [drawn, settings.axis_0], "token")
    now = graph.node(
        "Equal", [token, settings.end_token], "ended_now"
    )  # of those before, too: the end token is what they got
    flags = graph.node("Cast", [now], "ended_flags", to=TensorProto.INT32)
    every = graph.node("ReduceMin", [flags], "ended_all", keepdims=0)
    return _Token(token, now, graph.node("Less", [every, settings.one_flag], "go_on"))


def _add_draw(graph: Graph, logits: str, u: str, settings: _Settings, add_filter: AddFilter) -> str:
    """Tokens (B,) from logits (B, V) and uniforms (B, 1)."""
    wide = graph.node("Cast", [logits], "wide_logits", to=TensorProto.DOUBLE)
    scores = graph.node("Div", [wide, settings.temperature], "scores")
    largest = graph.node("ReduceMax", [scores], "largest", axes=[1])
    weights = add_filter(graph, scores, largest, settings)
    cdf = graph.node("CumSum", [weights, settings.along_1], "cdf")
    total = graph.node("Gather", [cdf, settings.last], "total", axis=1)  # (B, 1)
    target = graph.node("Mul", [u, total], "target")
    below = graph.node("LessOrEqual", [cdf, target], "below")
    counted = graph.node("Cast", [below], "below_flags", to=TOKEN)
    return graph.node("ReduceSum", [counted, settings.axis_1], "drawn", keepdims=0)


def _add_weights_of(graph: Graph, scores: str, largest: str, name: str) -> str:
    """Probabilities up to a factor, the largest 1."""
    return graph.node("Exp", [graph.node("Sub", [scores, largest], f"{name}_below")], name)


def _add_plain(graph: Graph, scores: str, largest: str, settings: _Settings) -> str:
    """No filter: every token keeps its weight."""
    return _add_weights_of(graph, scores, largest, "weights")


def _add_either(graph: Graph, scores: str, largest: str, settings: _Settings) -> str:
    """As the settings say."""
    plain, filtered = graph.inner("plain_"), graph.inner("filtered_")
    outs = [add(inner, scores, largest, settings) for add, inner in ((_add_plain, plain), (_add_sorted, filtered))]
    then, other = (
        inner.proto(name, [], [_typed(out, TensorProto.DOUBLE)])
        for inner, name, out in zip((plain, filtered), ("no_filter", "filter"), outs, strict=True)
    )
    return graph.node("If", [settings.no_filter], "weights", then_branch=then, else_branch=other)


def _add_sorted(graph: Graph, scores: str, largest: str, settings: _Settings) -> str:
    """Top-k, then top-p among the k."""
    best = graph.node("TopK", [scores, settings.k], ["best", "order"])
    order = graph.prefix + "order"
    p = _add_weights_of(graph, best, largest, "best_weights")
    found = graph.node("ReduceSum", [p, settings.axis_1], "found")
    if settings.V <= PARTLY:
        return _add_kept(graph, scores, p, order, found, settings)
    every = graph.node("ReduceSum", [_add_weights_of(graph, scores, largest, "weights"), settings.axis_1], "every")
    total = graph.node("Where", [settings.top_p_alone, every, found], "total_to_keep")
    limit = graph.node("Mul", [total, settings.top_p], "limit")
    flags = graph.node("Cast", [graph.node("Less", [found, limit], "short")], "short_flags", to=TensorProto.INT32)
    some = graph.node("ReduceMax", [flags], "short_some", keepdims=0)
    any_short = graph.node("Cast", [some], "short_any", to=TensorProto.BOOL)
    sort_all = graph.node("And", [any_short, settings.top_p_alone], "sort_all")
    whole, part = graph.inner("whole_"), graph.inner("part_")
    whole_best = whole.node("TopK", [scores, settings.all], ["best", "order"])
    whole_p = _add_weights_of(whole, whole_best, largest, "best_weights")
    whole_out = _add_kept(whole, scores, whole_p, whole.prefix + "order", total, settings)
    part_out = _add_kept(part, scores, p, order, total, settings)
    return graph.node(
        "If",
        [sort_all],
        "kept_weights",
        then_branch=whole.proto("sort_all", [], [_typed(whole_out, TensorProto.DOUBLE)]),
        else_branch=part.proto("sort_some", [], [_typed(part_out, TensorProto.DOUBLE)]),
    )


def _add_kept(graph: Graph, scores: str, p: str, order: str, total: str, settings: _Settings) -> str:
    """Of the best weights ``p``, falling, those that top-p keeps, in their places; ties: the lower index came first."""
    before = graph.node("CumSum", [p, settings.along_1], "before", exclusive=1)
    limit = graph.node("Mul", [total, settings.top_p], "limit_of_kept")
    # the first always stays: 0 is before it, and the limit more than 0
    positive = graph.node("Max", [limit, settings.tiny], "positive_limit")
    stays = graph.node("Less", [before, positive], "stays")
    kept = graph.node("Where", [stays, p, settings.nothing], "kept")
    shape = graph.node("Shape", [scores], "shape")
    empty = graph.node("ConstantOfShape", [shape], "empty", value=_one_value(0, np.float64))
    return graph.node("ScatterElements", [empty, order, kept], "in_place", axis=1)
