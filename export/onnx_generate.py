"""The generate form: the whole sampling loop inside the graph, by the sampling rules of ``unrolled.runtime``.

    tokens (time, batch), lengths (batch,), state, uniforms (steps, batch), temperature, top_k, top_p, end_token
    -> written (≤ steps, batch), final_state

The prompt is read as a sequence. Then each turn of the loop draws a token from the last hidden state and reads it. No
branch depends on a row; two that depend on the settings leave out the sorting of a large vocabulary.
"""

from __future__ import annotations

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
    """``written`` and ``final_state`` from the states behind the prompt; a step that is read is drawn one turn before."""
    settings = _Settings(graph, config.vocab_size)
    body = graph.inner("loop_")
    states = [[f"given_{name}" for name in layer] for layer in finals]
    moved = _add_turn(body, config, weights, states, settings, axis_0)
    carried = [name for layer in finals for name in layer]
    inside = [name for layer in states for name in layer]
    before = [body.node("Identity", [name], f"{name}_kept") for name in inside]
    shape = graph.node("Shape", ["uniforms"], "uniforms_shape")  # (steps, batch)
    turns = graph.node("Gather", [shape, graph.constant("place_0", 0)], "turns", axis=0)
    batch = graph.node("Gather", [shape, graph.constant("places_1", [1])], "batch", axis=0)
    false = onnx.numpy_helper.from_array(np.array([False]))
    ended = graph.node("ConstantOfShape", [batch], "none_ended", value=false)
    inputs = [
        _typed("loop_turn", TensorProto.INT64, ()),
        _typed("loop_on", TensorProto.BOOL, ()),
        _typed("loop_ended", TensorProto.BOOL),
        *(_typed(f"{name}_before", TensorProto.FLOAT) for name in inside),
        *(_typed(name, TensorProto.FLOAT) for name in inside),
    ]
    outputs = [
        _typed("loop_go_on", TensorProto.BOOL, ()),
        _typed("loop_ended_now", TensorProto.BOOL),
        *(_typed(name, TensorProto.FLOAT) for name in before),
        *(_typed(name, TensorProto.FLOAT) for layer in moved for name in layer),
        _typed("loop_token", TensorProto.INT64, ("batch",)),
    ]
    lasts = [[f"last_{name}" for name in layer] for layer in finals]
    graph.node(
        "Loop",
        [turns, "", ended, *carried, *carried],
        [
            "all_ended",
            *(name for layer in lasts for name in layer),
            *(f"unused_{name}" for name in carried),
            "turns_written",
        ],
        body=body.proto("turn", inputs, outputs),
    )
    # (0, 0) where there was no turn
    rows = graph.node("Concat", [graph.constant("any", [-1]), batch], "written_shape", axis=0)
    graph.node("Reshape", ["turns_written", rows], "written")
    add_stacked_state(graph, lasts, axis_0, "final_state")


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
        # u·total rounded up to the total would be no token's
        self.below_one = graph.constant("below_one", 1 - 2.0**-52, np.float64)
        self.axis_1 = "axis_1"
        self.nothing, self.tiny = graph.constant("nothing", 0.0, np.float64), graph.constant("tiny", 1e-300, np.float64)
        self.last = graph.constant("last_place", [V - 1])


def _add_turn(
    body: Graph, config: ModelConfig, weights: GraphWeights, states: list[list[str]], settings: _Settings, axis_0: str
) -> list[list[str]]:
    """Draw a token and read it; returns the states behind it."""
    h = body.node("Squeeze", [states[-1][0], axis_0], "h")  # (B, H)
    logits = add_logits(body, weights, h, "logits")
    u = body.node("Gather", ["uniforms", "loop_turn"], "u", axis=0)
    drawn = _add_draw(body, logits, u, settings)
    token = body.node("Where", ["loop_ended", "end_token", drawn], "token")
    ends = body.node("Equal", [token, "end_token"], "ends")
    ended = body.node("Or", ["loop_ended", ends], "ended_now")
    flags = body.node("Cast", [ended], "ended_flags", to=TensorProto.INT32)
    every = body.node("ReduceMin", [flags], "ended_all", keepdims=0)
    stop = body.node("Cast", [every], "stop", to=TensorProto.BOOL)
    body.node("Not", [stop], "go_on")
    row = body.node("Unsqueeze", [token, axis_0], "token_row")  # (1, B)
    x = body.node("Gather", [weights.embedding, row], "embedded", axis=0)
    moved = []
    for layer in range(config.num_layers):
        _, last = add_layer(body, config, layer, weights.layers[layer], x, states[layer])
        x = last[0]
        moved.append(last)
    return moved


def _add_draw(body: Graph, logits: str, u: str, settings: _Settings) -> str:
    """Tokens (B,) from logits (B, V) and uniforms (B,)."""
    wide = body.node("Cast", [logits], "wide_logits", to=TensorProto.DOUBLE)
    scores = body.node("Div", [wide, settings.temperature], "scores")
    largest = body.node("ReduceMax", [scores], "largest", axes=[1])
    weights = _add_filter(body, scores, largest, settings)
    cdf = body.node("CumSum", [weights, settings.axis_1], "cdf")
    total = body.node("Gather", [cdf, settings.last], "total", axis=1)  # (B, 1)
    column = body.node("Unsqueeze", [u, settings.axis_1], "u_column")
    u_total = body.node("Mul", [column, total], "u_total")
    most = body.node("Mul", [total, settings.below_one], "u_most")
    target = body.node("Min", [u_total, most], "target")
    below = body.node("LessOrEqual", [cdf, target], "below")
    counted = body.node("Cast", [below], "below_flags", to=TensorProto.INT64)
    return body.node("ReduceSum", [counted, settings.axis_1], "drawn", keepdims=0)


def _add_weights_of(graph: Graph, scores: str, largest: str, name: str) -> str:
    """Probabilities up to a factor, the largest 1."""
    return graph.node("Exp", [graph.node("Sub", [scores, largest], f"{name}_below")], name)


def _add_filter(body: Graph, scores: str, largest: str, settings: _Settings) -> str:
    """Weights (B, V) in the order of the tokens, 0 for those that a filter takes out."""
    plain, filtered = body.inner("plain_"), body.inner("filtered_")
    plain_out = _add_weights_of(plain, scores, largest, "weights")
    filtered_out = _add_sorted(filtered, scores, largest, settings)
    return body.node(
        "If",
        [settings.no_filter],
        "weights",
        then_branch=plain.proto("no_filter", [], [_typed(plain_out, TensorProto.DOUBLE)]),
        else_branch=filtered.proto("filter", [], [_typed(filtered_out, TensorProto.DOUBLE)]),
    )


def _add_sorted(graph: Graph, scores: str, largest: str, settings: _Settings) -> str:
    """Top-k, then top-p among the k."""
    best = graph.node("TopK", [scores, settings.k], ["best", "order"])
    order = graph.prefix + "order"
    p = _add_weights_of(graph, best, largest, "best_weights")
    found = graph.node("ReduceSum", [p, settings.axis_1], "found")
    if settings.V <= PARTLY:
        return _add_kept(graph, scores, p, order, found, settings)
    every = graph.node("ReduceSum", [_add_weights_of(graph, scores, largest, "weights"), settings.axis_1], "every")
    total = graph.node("Where", [settings.top_p_alone, every, found], "total")
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
