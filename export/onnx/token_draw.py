"""Nodes that draw one token a row from logits, by the sampling rules of ``unrolled.engine.sampling``.

No branch depends on a row. One that depends on the settings skips the filters, another the sorting of a large vocabulary. A
node costs about 0.4 µs whatever it computes, so everything that does not change between iterations is computed once, outside
the loop (``SamplingValues``).

Letters: B batch, V vocabulary, H hidden, k tokens kept by top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from unrolled.export.onnx.graph_builder import GraphBuilder, fill_value, inner_value
from unrolled.export.onnx.layers import add_product
from unrolled.export.onnx.weights import LanguageModelWeights

# Top-p alone sorts this many of the most probable tokens first, and all of them only if these do not reach top_p.
PARTIAL_SORT = 256
TOKEN_TYPE = TensorProto.INT32  # inside the graph: half the bytes of int64 to count and to copy


class SamplingValues:
    """Names of the values outside the loop that every draw reads: settings, limits derived from them, and constants.

    Args:
        graph: the graph around the loop, to which they are added.
        V: the size of the vocabulary.
    """

    def __init__(self, graph: GraphBuilder, V: int) -> None:
        self.V = V
        size, zero, one = graph.constant("V", [V]), graph.constant("zero", 0), graph.constant("one", 1.0, np.float64)
        self.temperature = "temperature"
        # Number of tokens to sort. top_k 0 means all of them, but of a large vocabulary a part first.
        off = graph.node("Equal", ["top_k", zero], "top_k_off")
        some = graph.constant("partly", [min(V, PARTIAL_SORT)])
        wanted = graph.node("Where", [off, some, "top_k"], "wanted_k")
        self.k = graph.node("Min", [wanted, size], "k")  # (1,)
        self.size = size
        infinity = graph.constant("infinity", np.inf, np.float64)
        keep_all = graph.node("GreaterOrEqual", ["top_p", one], "top_p_off")
        self.top_p = graph.node("Where", [keep_all, infinity, "top_p"], "top_p_limit")
        self.no_filter = graph.node("And", [off, keep_all], "no_filter")
        self.top_k_off = off
        self.axis_0, self.axis_1 = "axis_0", "axis_1"
        self.axis_1_scalar = graph.constant("along_1", 1)  # CumSum takes a scalar
        self.no_weight, self.tiny = (
            graph.constant("nothing", 0.0, np.float64),
            graph.constant("tiny", 1e-300, np.float64),
        )
        self.one_flag = graph.constant("one_flag", 1, np.int32)
        self.end_token = graph.node("Cast", ["end_token"], "end", to=TOKEN_TYPE)
        self.last_index = graph.constant("last_place", [V - 1])


# Adds the weights (B, V) that the tokens are drawn by, given the graph, scores (B, V), the largest of each row (B, 1) and the
# values outside the loop.
AddTokenWeights = Callable[[GraphBuilder, str, str, SamplingValues], str]


class DrawnToken(NamedTuple):
    """Names of a token (1, B), of whether each row has ended (1, B), and of whether any row has not ()."""

    token: str
    ended: str
    go_on: str


class TokenDraw(NamedTuple):
    """Names and functions that a draw needs, the same in every iteration of a loop."""

    weights: LanguageModelWeights
    values: SamplingValues
    add_token_weights: AddTokenWeights

    def add(self, graph: GraphBuilder, h: str, u: str, ended: str = "") -> DrawnToken:
        """Add the next token, given the last layer's h (1, B, H) and uniforms ``u`` (B, 1).

        Args:
            ended: whether each row has ended (1, B): such rows get the end token again; "": no row has.
        """
        values = self.values
        rows = graph.node("Squeeze", [h, values.axis_0], "h")  # (B, H)
        logits = add_product(graph, self.weights.output, rows, "logits")
        drawn = self._add_draw(graph, logits, u)
        if ended:
            token = graph.node("Where", [ended, values.end_token, drawn], "token")
        else:
            token = graph.node("Unsqueeze", [drawn, values.axis_0], "token")
        # Includes the rows that ended earlier, because their token is the end token.
        ended_now = graph.node("Equal", [token, values.end_token], "ended_now")
        flags = graph.node("Cast", [ended_now], "ended_flags", to=TensorProto.INT32)
        every = graph.node("ReduceMin", [flags], "ended_all", keepdims=0)
        return DrawnToken(token, ended_now, graph.node("Less", [every, values.one_flag], "go_on"))

    def _add_draw(self, graph: GraphBuilder, logits: str, u: str) -> str:
        """Add tokens (B,) drawn from logits (B, V): the number of entries of the cumulative sum up to u · total."""
        values = self.values
        wide = graph.node("Cast", [logits], "wide_logits", to=TensorProto.DOUBLE)
        scores = graph.node("Div", [wide, values.temperature], "scores")
        largest = graph.node("ReduceMax", [scores], "largest", axes=[1])
        weights = self.add_token_weights(graph, scores, largest, values)
        cdf = graph.node("CumSum", [weights, values.axis_1_scalar], "cdf")
        total = graph.node("Gather", [cdf, values.last_index], "total", axis=1)  # (B, 1)
        target = graph.node("Mul", [u, total], "target")
        below = graph.node("LessOrEqual", [cdf, target], "below")
        counted = graph.node("Cast", [below], "below_flags", to=TOKEN_TYPE)
        return graph.node("ReduceSum", [counted, values.axis_1], "drawn", keepdims=0)


def _add_exponentials(graph: GraphBuilder, scores: str, largest: str, name: str) -> str:
    """Add unnormalised probabilities, of which the largest is 1."""
    return graph.node("Exp", [graph.node("Sub", [scores, largest], f"{name}_below")], name)


def add_plain_weights(graph: GraphBuilder, scores: str, largest: str, values: SamplingValues) -> str:
    """Add the weights without a filter: every token keeps its own."""
    return _add_exponentials(graph, scores, largest, "weights")


def add_chosen_weights(graph: GraphBuilder, scores: str, largest: str, values: SamplingValues) -> str:
    """Add the plain or the filtered weights, as the settings ask."""
    plain, filtered = graph.inner("plain_"), graph.inner("filtered_")
    outs = [
        add(inner, scores, largest, values)
        for add, inner in ((add_plain_weights, plain), (add_filtered_weights, filtered))
    ]
    then, other = (
        inner.proto(name, [], [inner_value(out, TensorProto.DOUBLE)])
        for inner, name, out in zip((plain, filtered), ("no_filter", "filter"), outs, strict=True)
    )
    return graph.node("If", [values.no_filter], "weights", then_branch=then, else_branch=other)


def add_filtered_weights(graph: GraphBuilder, scores: str, largest: str, values: SamplingValues) -> str:
    """Add the weights after top-k, then top-p among the k; the others are 0."""
    best = graph.node("TopK", [scores, values.k], ["best", "order"])
    order = graph.prefix + "order"
    p = _add_exponentials(graph, best, largest, "best_weights")
    found = graph.node("ReduceSum", [p, values.axis_1], "found")
    if values.V <= PARTIAL_SORT:
        return _add_kept_weights(graph, scores, p, order, found, values)
    every = graph.node("ReduceSum", [_add_exponentials(graph, scores, largest, "weights"), values.axis_1], "every")
    total = graph.node("Where", [values.top_k_off, every, found], "total_to_keep")
    limit = graph.node("Mul", [total, values.top_p], "limit")
    flags = graph.node("Cast", [graph.node("Less", [found, limit], "short")], "short_flags", to=TensorProto.INT32)
    some = graph.node("ReduceMax", [flags], "short_some", keepdims=0)
    any_short = graph.node("Cast", [some], "short_any", to=TensorProto.BOOL)
    sort_all = graph.node("And", [any_short, values.top_k_off], "sort_all")
    whole, part = graph.inner("whole_"), graph.inner("part_")
    whole_best = whole.node("TopK", [scores, values.size], ["best", "order"])
    whole_p = _add_exponentials(whole, whole_best, largest, "best_weights")
    whole_out = _add_kept_weights(whole, scores, whole_p, whole.prefix + "order", total, values)
    part_out = _add_kept_weights(part, scores, p, order, total, values)
    return graph.node(
        "If",
        [sort_all],
        "kept_weights",
        then_branch=whole.proto("sort_all", [], [inner_value(whole_out, TensorProto.DOUBLE)]),
        else_branch=part.proto("sort_some", [], [inner_value(part_out, TensorProto.DOUBLE)]),
    )


def _add_kept_weights(graph: GraphBuilder, scores: str, p: str, order: str, total: str, values: SamplingValues) -> str:
    """Add weights (B, V) of the tokens that top-p keeps, 0 for the others.

    Args:
        p: weights in descending order (B, k).
        order: the token of each; of equal weights the lower token comes first.
        total: the sum of which top-p is a share (B, 1).
    """
    before = graph.node("CumSum", [p, values.axis_1_scalar], "before", exclusive=1)
    limit = graph.node("Mul", [total, values.top_p], "limit_of_kept")
    # A positive limit always keeps the first token, whose sum before it is 0.
    positive = graph.node("Max", [limit, values.tiny], "positive_limit")
    stays = graph.node("Less", [before, positive], "stays")
    kept = graph.node("Where", [stays, p, values.no_weight], "kept")
    shape = graph.node("Shape", [scores], "shape")
    empty = graph.node("ConstantOfShape", [shape], "empty", value=fill_value(0, np.float64))
    return graph.node("ScatterElements", [empty, order, kept], "in_place", axis=1)
