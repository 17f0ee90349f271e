"""Inputs of ids: each selects a row of an embedding.

x_t = W[id_t],   W (size, embedding_size)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import canonical_settings
from unrolled.engine.checks import check_whole
from unrolled.engine.errors import ShapeError
from unrolled.engine.models.inputs.batch import TOKENS
from unrolled.engine.models.inputs.input import Shapes, check_name
from unrolled.engine.models.layers.embedding import embedding_backward, embedding_forward
from unrolled.engine.settings import COUNT, MODEL_PANEL, Setting, check_settings

EMBEDDING = Setting("embed", "Width of the embedding.", MODEL_PANEL, COUNT, search="32,64,128,256")


@dataclass(frozen=True)
class _EmbeddedInput:
    """Ids (T, B) int64 that select rows of an embedding.

    Args:
        size: the number of ids, at least 2.
        embedding_size: columns of x.
        name: the input's name in a batch.
    """

    size: int
    embedding_size: Annotated[int, EMBEDDING]
    name: str

    kind: ClassVar[str]
    dtype: ClassVar[np.dtype] = np.dtype(np.int64)

    def __post_init__(self) -> None:
        check_whole("size", self.size, 2)
        check_settings(self)
        check_name(self.name)

    @property
    def width(self) -> int:
        """Return the width of the embedding."""
        return self.embedding_size

    @property
    def axes(self) -> tuple[str | int, ...]:
        """Return the axes of the ids."""
        return ("time", "batch")

    @property
    def lookup(self) -> str:
        """Return the name of the embedding's matrix; that of the input "tokens" is PyTorch's of a language model."""
        return "embedding.weight" if self.name == TOKENS else f"embeddings.{self.name}.weight"

    def parameter_shapes(self) -> Shapes:
        """Return the shape of the embedding's matrix."""
        return {self.lookup: (self.size, self.embedding_size)}

    def check_values(self, array: NDArray) -> None:
        """Check that all ids are from 0 to size - 1."""
        # One comparison instead of two: read as unsigned, negative ids are larger than any size.
        if int(array.view(np.uint64).max(initial=0)) >= self.size:
            raise ShapeError(
                f"{self.name}: ids from {array.min()} to {array.max()}; the vocabulary has 0 … {self.size - 1}"
            )

    def forward(self, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
        """Return the embeddings (T, B, E) of the ids."""
        return embedding_forward(params[self.lookup], array)

    def backward(
        self, params: Mapping[str, NDArray], dx: NDArray, array: NDArray, grads: Mapping[str, NDArray]
    ) -> None:
        """Add the gradient of the embedding, given that of its columns (T, B, E)."""
        embedding_backward(dx, array, grads[self.lookup])

    def example(self, rng: np.random.Generator, T: int, B: int) -> NDArray:
        """Return random ids (T, B)."""
        return rng.integers(0, self.size, (T, B))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": self.kind, **canonical_settings(self)}


@dataclass(frozen=True)
class TokensInput(_EmbeddedInput):
    """Token ids (T, B), the main column of a text."""

    kind: ClassVar[str] = TOKENS
    name: str = TOKENS


@dataclass(frozen=True)
class CategoriesInput(_EmbeddedInput):
    """Ids (T, B) of a further column with an embedding of its own, such as a part of speech or a word's shape."""

    kind: ClassVar[str] = "categories"
