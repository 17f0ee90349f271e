"""The generate form: the whole sampling loop inside the graph, by the sampling rules of ``unrolled.runtime``.

    tokens (time, batch), lengths (batch,), state, uniforms (steps, batch), temperature, top_k, top_p, end_token
    -> written (≤ steps, batch), final_state

The prompt is read as a sequence, and the first token drawn behind it. Then each turn of the loop reads a token and draws the
next. No branch depends on a row; one that depends on the settings leaves out the filters, another the sorting of a large
vocabulary. A node costs some 0.4 us whatever it computes, so that what can stand before the loop stands there.
"""

from __future__ import annotations

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
    one, all_rows = graph.constant("from_1", [1]), graph.constant("to_end", [np.iinfo(np.int64).max])
    first = graph.node("Gather", [columns, axis_0], "u_first_row", axis=0)
    draws = _Draws(
        graph.node("Squeeze", [first, axis_0], "u_first"),
        graph.node("Slice", [columns, one, all_rows, axis_0], "u_rest"),
        graph.node("Max", [graph.node("Sub", [steps, one], "steps_left"), axis_0], "turns"),
    )
    lasts = [[f"last_{name}" for name in layer] for layer in finals]
    outputs = ["all_written", *(name for layer in lasts for name in layer)]
    branches = {}
    for name, filtered in (("plain", False), ("filtered", True)):
        branch = graph.inner(f"{name}_")
        made = _add_writing(branch, config, weights, finals, settings, draws, filtered)
        kinds = [TensorProto.INT64, *[TensorProto.FLOAT] * (len(made) - 1)]
        branches[name] = branch.proto(name, [], [_typed(*pair) for pair in zip(made, kinds, strict=True)])
    # outside the loop, because it is the same for all turns
    graph.node(
        "If", [settings.no_filter], outputs, then_branch=branches["plain"], else_branch=branches["filtered"]
    )  # fmt: skip
    graph.node("Slice", ["all_written", axis_0, steps, axis_0], "written")
    add_stacked_state(graph, lasts, axis_0, "final_state")


class _Draws(NamedTuple):
    """Names of uniforms: of the first token (batch, 1), of the others (≥ turns, batch, 1), and how many those are."""

    first: str
    rest: str
    turns: str


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


def _add_writing(
    graph: Graph,
    config: ModelConfig,
    weights: GraphWeights,
    finals: list[list[str]],
    settings: _Settings,
    draws: _Draws,
    filtered: bool,
) -> list[str]:
    """All tokens (turns + 1, B) and the states that have read all but the last, each state (1, B, H)."""
    first = _add_token(graph, weights, finals[-1][0], draws.first, "", settings, filtered)
    body = _loop_body(graph.inner("loop_"), config, weights, finals, settings, draws, filtered)
    lasts = [f"last_{name}" for layer in finals for name in layer]
    carried = [first.ended, first.token, *(name for layer in finals for name in layer)]
    graph.node(
        "Loop",
        [draws.turns, first.go_on, *carried],
        ["unused_ended", "unused_token", *lasts, "turns_written"],
        body=body,
    )
    rows = graph.node("Concat", [graph.constant("any", [-1]), "batch"], "written_shape", axis=0)
    rest = graph.node("Reshape", [graph.prefix + "turns_written", rows], "rest")  # (0, 0) where there was no turn
    written = graph.node("Concat", [first.token, rest], "written", axis=0)
    return [written, *(graph.prefix + name for name in lasts)]


def _loop_body(
    body: Graph,
    config: ModelConfig,
    weights: GraphWeights,
    finals: list[list[str]],
    settings: _Settings,
    draws: _Draws,
    filtered: bool,
) -> onnx.GraphProto:
    """The loop's body: read the token that is given, draw the next one."""
    states = [[f"{body.prefix}given_{name}" for name in layer] for layer in finals]
    given = f"{body.prefix}given_token"
    x = body.node("Gather", [weights.embedding, given], "embedded", axis=0)  # (1, B, E)
    moved = []
    for layer in range(config.num_layers):
        _, last = add_layer(body, config, layer, weights.layers[layer], x, states[layer])
        x = last[0]
        moved.append(last)
    turn, on, ended = (f"{body.prefix}{name}" for name in ("turn", "on", "ended"))
    u = body.node("Gather", [draws.rest, turn], "u", axis=0)  # (B, 1)
    next_ = _add_token(body, weights, x, u, ended, settings, filtered)
    inputs = [
        _typed(turn, TensorProto.INT64, ()),
        _typed(on, TensorProto.BOOL, ()),
        _typed(ended, TensorProto.BOOL),
        _typed(given, TensorProto.INT64),
        *(_typed(name, TensorProto.FLOAT) for layer in states for name in layer),
    ]
    outputs = [
        _typed(next_.go_on, TensorProto.BOOL, ()),
        _typed(next_.ended, TensorProto.BOOL),
        _typed(next_.token, TensorProto.INT64),
        *(_typed(name, TensorProto.FLOAT) for layer in moved for name in layer),
        _typed(body.node("Squeeze", [next_.token, settings.axis_0], "row"), TensorProto.INT64, ("batch",)),
    ]
    return body.proto("turn", inputs, outputs)


class _Token(NamedTuple):
    """Names of a token (1, B), of whether each row has ended (1, B), and of whether any has not ()."""

    token: str
    ended: str
    go_on: str


def _add_token(
    graph: Graph, weights: GraphWeights, h: str, u: str, ended: str, settings: _Settings, filtered: bool
) -> _Token:
    """The next token from the last layer's h (1, B, H); rows that have ``ended`` (1, B; "": none) get the end token."""
    rows = graph.node("Squeeze", [h, settings.axis_0], "h")  # (B, H)
    logits = add_logits(graph, weights, rows, "logits")
    drawn = _add_draw(graph, logits, u, settings, filtered)
    if ended:
        token = graph.node("Where", [ended, "end_token", drawn], "token")
    else:
        token = graph.node("Unsqueeze", [drawn, settings.axis_0], "token")
    now = graph.node("Equal", [token, "end_token"], "ended_now")  # of those before, too: the end token is what they got
    flags = graph.node("Cast", [now], "ended_flags", to=TensorProto.INT32)
    every = graph.node("ReduceMin", [flags], "ended_all", keepdims=0)
    stop = graph.node("Cast", [every], "stop", to=TensorProto.BOOL)
    return _Token(token, now, graph.node("Not", [stop], "go_on"))


def _add_draw(graph: Graph, logits: str, u: str, settings: _Settings, filtered: bool) -> str:
    """Tokens (B,) from logits (B, V) and uniforms (B, 1)."""
    wide = graph.node("Cast", [logits], "wide_logits", to=TensorProto.DOUBLE)
    scores = graph.node("Div", [wide, settings.temperature], "scores")
    largest = graph.node("ReduceMax", [scores], "largest", axes=[1])
    add_weights = _add_sorted if filtered else _add_plain
    weights = add_weights(graph, scores, largest, settings)
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
