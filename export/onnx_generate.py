"""The generate form: the whole sampling loop inside the graph, by the sampling rules of ``unrolled.runtime``.

    tokens (time, batch), lengths (batch,), state, uniforms (steps, batch), temperature, top_k, top_p, end_token
    -> written (≤ steps, batch), final_state

The prompt is read as a sequence, and the first token drawn behind it. Then each turn of the loop reads a token and draws the
next. No branch depends on a row; one that depends on the settings leaves out the filters, another the sorting of a large
vocabulary. A node costs some 0.4 us whatever it computes, so that what can stand before the loop stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from unrolled.engine.config import ModelConfig
from unrolled.export.onnx_graph import Graph, GraphWeights, add_layer, add_logits, add_stacked_state

# With top_p alone, so many of the most probable tokens are sorted first; all of them only where these do not suffice.
PARTLY = 256


def _typed(name: str, kind: int, shape: tuple[int | str, ...] | None = None) -> onnx.ValueInfoProto:
    """A value of an inner graph; shapes that can vary are not said, which keeps strict runtimes content."""
    return helper.make_tensor_value_info(name, kind, shape)


def add_generation(
    graph: Graph, config: ModelConfig, weights: GraphWeights, finals: list[list[str]], axis_0: str
) -> None:
    """``written`` and ``final_state`` from the states behind the prompt."""
    settings = _Settings(graph, config.vocab_size)
    shape = graph.node("Shape", ["uniforms"], "uniforms_shape")  # (steps, batch)
    steps = graph.node("Gather", [shape, graph.constant("places_0", [0])], "steps", axis=0)
    batch = graph.node("Gather", [shape, graph.constant("places_1", [1])], "batch", axis=0)
    one = graph.constant("from_1", [1])
    u_first, u_rest = _add_uniforms(graph, batch, one, axis_0)
    turns = graph.node("Max", [graph.node("Sub", [steps, one], "steps_left"), axis_0], "turns")
    named = Graph("first_", graph.nodes, graph.initializers)  # the same graph: form both has logits of its own
    token = _add_token(named, weights, finals[-1][0], u_first, "", settings, _add_either)
    carried = [token.ended, token.token, *(name for layer in finals for name in layer)]
    some_rows = graph.node("Concat", [graph.constant("any", [-1]), batch], "rows_shape", axis=0)
    written = [token.token]
    none = graph.constant("no_turns", [0])
    # Two loops one behind the other, of which one has no turns. In the branches of an If, onnxruntime 1.32 would pack their
    # weights anew in each turn.
    for name, add_filter, counts in (("plain", _add_plain, [turns, none]), ("filtered", _add_sorted, [none, turns])):
        count = graph.node("Where", [settings.no_filter, *counts], f"{name}_turns")
        loop = _Loop(config, weights, settings, add_filter, u_rest)
        carried, rows = loop.add(graph, f"{name}_", count, token.go_on, carried)
        written.append(graph.node("Reshape", [rows, some_rows], f"{name}_rows"))  # (0, 0) where there was no turn
    every = graph.node("Concat", written, "all_written", axis=0)
    graph.node("Slice", [every, axis_0, steps, axis_0], "written")
    S = len(finals[0])
    states = carried[2:]
    add_stacked_state(graph, [states[i : i + S] for i in range(0, len(states), S)], axis_0, "final_state")


def _add_uniforms(graph: Graph, batch: str, one: str, axis_0: str) -> tuple[str, str]:
    """Uniforms as draws take them: of the first token (batch, 1), and of the others (steps, batch, 1)."""
    # The first token is drawn outside the loop, and one is drawn even where none is asked for: so there is a row for it.
    spare = graph.node("Concat", [graph.constant("one_row", [1]), batch], "spare_shape", axis=0)
    zero = onnx.numpy_helper.from_array(np.array([0.0]))
    no_draw = graph.node("ConstantOfShape", [spare], "no_draw", value=zero)
    rows = graph.node("Concat", ["uniforms", no_draw], "uniforms_and_spare", axis=0)
    # u·total rounded up to the total would be no token's. Rounding keeps the order, so that the smaller of u·total and
    # (1 - ulp)·total is the smaller of both factors times the total.
    below_one = graph.constant("below_one", 1 - 2.0**-52, np.float64)
    bounded = graph.node("Min", [rows, below_one], "u_bounded")
    columns = graph.node("Unsqueeze", [bounded, graph.constant("axis_2", [2])], "u_columns")  # (steps + 1, batch, 1)
    all_rows = graph.constant("to_end", [np.iinfo(np.int64).max])
    u_row = graph.node("Gather", [columns, axis_0], "u_first_row", axis=0)
    u_first = graph.node("Squeeze", [u_row, axis_0], "u_first")
    return u_first, graph.node("Slice", [columns, one, all_rows, axis_0], "u_rest")


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
        self.nothing, self.tiny = graph.constant("nothing", 0.0, np.float64), graph.constant("tiny", 1e-300, np.float64)
        self.last = graph.constant("last_place", [V - 1])


class _Loop(NamedTuple):
    """A loop whose turns read the token that is given and draw the next one.

    Args:
        add_filter: adds the weights (B, V) of the tokens, given graph, scores, the largest of them, and settings.
        u: name of the uniforms (≥ turns, B, 1).
    """

    config: ModelConfig
    weights: GraphWeights
    settings: _Settings
    add_filter: AddFilter
    u: str

    def add(self, graph: Graph, name: str, turns: str, go_on: str, carried: list[str]) -> tuple[list[str], str]:
        """Add the loop; what is carried: whether each row has ended (1, B), its token (1, B), states (1, B, H) by layer.

        Returns what is carried behind it, and the tokens written (turns, B).
        """
        body = graph.inner(f"{name}loop_")
        outputs = [f"{name}last_{i}" for i in range(len(carried))]
        graph.node(
            "Loop", [turns, go_on, *carried], [*outputs, f"{name}written"], body=self._body(body, len(carried) - 2)
        )
        return [graph.prefix + output for output in outputs], f"{graph.prefix}{name}written"

    def _body(self, body: Graph, states: int) -> onnx.GraphProto:
        turn, on, ended, token = (f"{body.prefix}{name}" for name in ("turn", "on", "ended", "given"))
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
        row = body.node("Squeeze", [drawn.token, self.settings.axis_0], "row")
        B, I, F = TensorProto.BOOL, TensorProto.INT64, TensorProto.FLOAT
        inputs = [(turn, I), (on, B), (ended, B), (token, I), *((name, F) for name in given)]
        outputs = [(drawn.go_on, B), (drawn.ended, B), (drawn.token, I), *((name, F) for name in moved), (row, I)]
        shapes = {turn: (), on: (), drawn.go_on: (), row: ("batch",)}
        typed = [[_typed(name, kind, shapes.get(name)) for name, kind in values] for values in (inputs, outputs)]
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
        token = graph.node("Where", [ended, "end_token", drawn], "token")
    else:
        token = graph.node("Unsqueeze", [drawn, settings.axis_0], "token")
    now = graph.node("Equal", [token, "end_token"], "ended_now")  # of those before, too: the end token is what they got
    flags = graph.node("Cast", [now], "ended_flags", to=TensorProto.INT32)
    every = graph.node("ReduceMin", [flags], "ended_all", keepdims=0)
    stop = graph.node("Cast", [every], "stop", to=TensorProto.BOOL)
    return _Token(token, now, graph.node("Not", [stop], "go_on"))


def _add_draw(graph: Graph, logits: str, u: str, settings: _Settings, add_filter: AddFilter) -> str:
    """Tokens (B,) from logits (B, V) and uniforms (B, 1)."""
    wide = graph.node("Cast", [logits], "wide_logits", to=TensorProto.DOUBLE)
    scores = graph.node("Div", [wide, settings.temperature], "scores")
    largest = graph.node("ReduceMax", [scores], "largest", axes=[1])
    weights = add_filter(graph, scores, largest, settings)
    cdf = graph.node("CumSum", [weights, settings.axis_1], "cdf")
    total = graph.node("Gather", [cdf, settings.last], "total", axis=1)  # (B, 1)
    target = graph.node("Mul", [u, total], "target")
    below = graph.node("LessOrEqual", [cdf, target], "below")
    counted = graph.node("Cast", [below], "below_flags", to=TensorProto.INT64)
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
    before = graph.node("CumSum", [p, settings.axis_1], "before", exclusive=1)
    limit = graph.node("Mul", [total, settings.top_p], "limit_of_kept")
    # the first always stays: 0 is before it, and the limit more than 0
    positive = graph.node("Max", [limit, settings.tiny], "positive_limit")
    stays = graph.node("Less", [before, positive], "stays")
    kept = graph.node("Where", [stays, p, settings.nothing], "kept")
    zero = onnx.numpy_helper.from_array(np.array([0.0]))
    empty = graph.node("ConstantOfShape", [graph.node("Shape", [scores], "shape")], "empty", value=zero)
    return graph.node("ScatterElements", [empty, order, kept], "in_place", axis=1)
