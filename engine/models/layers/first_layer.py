"""The input product of the first recurrent layer, which reads the embedding."""

from __future__ import annotations

from numpy.typing import NDArray

from unrolled.engine.models.layers.embedding import embedding_backward, embedding_forward
from unrolled.engine.models.layers.linear import linear_backward_input, linear_backward_weight, linear_forward


def embedded_linear_forward(embedding: NDArray, tokens: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    """Return the first layer's input product (T, B, G·H): ``linear_forward`` of the embeddings of ``tokens`` (T, B)."""
    return linear_forward(embedding_forward(embedding, tokens), weight, bias)


def first_layer_backward(
    dxg: NDArray,
    dhg: NDArray,
    h_prev: NDArray,
    embedding: NDArray,
    tokens: NDArray,
    w_ih: NDArray,
    grads: tuple[NDArray, NDArray, NDArray, NDArray, NDArray],
) -> None:
    """Add the gradients of embedding (V, E), w_ih, b_ih, w_hh and b_hh to the arrays of ``grads``, in this order.

    Args:
        dxg, dhg: (T, B, G·H), gradients of the layer's input and hidden products.
        h_prev: (T, B, H), the input of the hidden products.
    """
    dembedding, dw_ih, db_ih, dw_hh, db_hh = grads
    linear_backward_weight(dhg, h_prev, dw_hh, db_hh)
    linear_backward_weight(dxg, embedding_forward(embedding, tokens), dw_ih, db_ih)
    embedding_backward(linear_backward_input(dxg, w_ih), tokens, dembedding)
