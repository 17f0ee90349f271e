"""The layers around the recurrent ones: embedding and output of a foreign model, found by name, else by shape.

Letters: V vocabulary, E embedding, H hidden.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.export.importing.named_arrays import NamedArrays, listed

# The last part of a module's name, in lower case and without numbers.
EMBEDDING_NAMES = ("embedding", "embeddings", "embed", "embeds", "emb", "encoder", "wte", "word_embeddings",
                   "char_embeddings", "token_embedding", "tok_embeddings", "lookup")  # fmt: skip
OUTPUT_NAMES = ("decoder", "fc", "linear", "out", "output", "head", "lm_head", "proj", "projection", "dense", "logits",
                "classifier", "output_layer", "fc_out")  # fmt: skip
MAX_ONE_HOT = 4096  # tokens: the identity that replaces an embedding has the square of it


class OuterLayers(NamedTuple):
    """Source names of the tensors around the recurrent layers; None: not in the file."""

    embedding: str | None
    output: str | None
    bias: str | None


def _stem(name: str) -> str:
    """Return the last part of a tensor's module, in lower case and without numbers: fc for fc.1.weight."""
    parts = [part for part in name.lower().split(".")[:-1] if not part.isdigit()]
    return re.sub(r"_?[0-9]+$", "", parts[-1]) if parts else ""


def _bias_of(matrix: str) -> str:
    return matrix.removesuffix("weight") + "bias"


def _only_one(kind: str, names: list[str], arrays: NamedArrays, doubles: dict[str, str]) -> str | None:
    """Return the one tensor among ``names``, and add copies of it to ``doubles``."""
    if not names:
        return None
    for other in names[1:]:
        if not np.array_equal(arrays[other], arrays[names[0]]):
            option = "--embedding" if kind == "embedding" else "--output-layer"
            raise ModelFileError(f"{listed(names)}: several {kind}s, and a model here has one; say which with {option}")
        doubles[other] = names[0]
    return names[0]


def _named(option: str, name: str, tables: list[str]) -> str:
    """Return the matrix that an option names, by its own name or its module's."""
    for table in (name, f"{name}.weight"):
        if table in tables:
            return table
    raise ConfigError(f"{option}: got {name!r}, which is no matrix of the file; there are {listed(tables, 8)}")


def _candidates(
    rest: NamedArrays, E: int, H: int, embedding_name: str | None, output_name: str | None
) -> tuple[list[str], list[str]]:
    """Return the matrices that may be the embedding, and those that may be the output layer."""
    tables = [name for name in sorted(rest) if name.endswith(".weight") and rest[name].ndim == 2]
    with_bias = {name for name in tables if _bias_of(name) in rest}
    embeddings = [name for name in tables if _stem(name) in EMBEDDING_NAMES and name not in with_bias]
    outputs = [name for name in tables if _stem(name) in OUTPUT_NAMES]
    if embedding_name is not None:
        embeddings = [_named("--embedding", embedding_name, tables)]
        outputs = [name for name in outputs if name not in embeddings]
    if output_name is not None:
        outputs = [_named("--output-layer", output_name, tables)]
        if embedding_name is None:
            embeddings = [name for name in embeddings if name not in outputs]
    unnamed = [name for name in tables if _stem(name) not in {*EMBEDDING_NAMES, *OUTPUT_NAMES}]
    if not embeddings:
        others = [name for name in unnamed if name not in with_bias and name not in outputs]
        embeddings = [name for name in others if rest[name].shape[1] == E]
    if not outputs:
        others = [name for name in unnamed if name not in embeddings and rest[name].shape[1] == H]
        outputs = [name for name in others if name in with_bias] or others
    return embeddings, outputs


def find_outer_layers(
    rest: NamedArrays, E: int, H: int, embedding_name: str | None = None, output_name: str | None = None
) -> tuple[OuterLayers, dict[str, str]]:
    """Return embedding, output matrix and output bias, and copies of them by the names of both.

    A tensor is the one that is named, else one with a usual name, else the only one of its shape.

    Args:
        rest: arrays that no recurrent layer uses.
        embedding_name: the embedding's matrix or module.
        output_name: the output layer's matrix or module.
    """
    embeddings, outputs = _candidates(rest, E, H, embedding_name, output_name)
    doubles: dict[str, str] = {}
    embedding = _only_one("embedding", embeddings, rest, doubles)
    output = _only_one("output layer", outputs, rest, doubles)
    if output is not None:
        biases = [_bias_of(output)] if _bias_of(output) in rest else []
    else:
        biases = [name for name in sorted(rest) if name.endswith(".bias") and _stem(name) in OUTPUT_NAMES]
    for double, one in list(doubles.items()):  # a copied matrix may have a copied bias
        copy, original = _bias_of(double), _bias_of(one)
        if copy in rest and original in rest and np.array_equal(rest[copy], rest[original]):
            doubles[copy] = original
    return OuterLayers(embedding, output, _only_one("output bias", biases, rest, doubles)), doubles


def are_tied(arrays: NamedArrays, outer: OuterLayers, E: int, H: int, tie: bool) -> bool:
    """Return whether one matrix is embedding and output.

    Args:
        tie: whether the caller states that it is.
    """
    if outer.embedding is not None and outer.output is not None:
        same = np.array_equal(arrays[outer.embedding], arrays[outer.output])
        if tie and not same:
            raise ConfigError(f"--tie: {outer.embedding} and {outer.output} are two different matrices")
        return same
    if outer.output is None and not tie:
        raise ModelFileError(
            f"no output layer: no matrix (V, {H}) called {', '.join(OUTPUT_NAMES[:6])} or the like; "
            "if it shares the embedding's, say --tie, and if it has another name, --output-layer"
        )
    if outer.output is not None and not tie:  # no embedding: tied, or the input is one-hot
        V = arrays[outer.output].shape[0]
        if E == H == V:
            raise ModelFileError("no embedding: the input may be one-hot, or share the output's matrix; then say --tie")
        if E == H:
            raise ModelFileError(
                f"no embedding: no matrix (V, {E}) called {', '.join(EMBEDDING_NAMES[:6])} or the like; if it shares the "
                "output's, say --tie, and if it has another name, --embedding"
            )
    if tie and outer.embedding is None and outer.output is None:
        raise ModelFileError("no embedding and no output layer")
    if tie and E != H:
        raise ModelFileError(
            f"no output layer, and the embedding's width {E} is not the layers' {H}: they cannot share it"
        )
    return tie


def check_one_hot(output: str, V: int, width: int, w_ih: str) -> None:
    """Check that a model without an embedding reads one-hot input of a size that can be imported."""
    if width != V:
        raise ModelFileError(
            f"no embedding: no matrix (V, {width}) called {', '.join(EMBEDDING_NAMES[:6])} or the like, and the input is not "
            f"one-hot either: {w_ih} reads {width} values, {output} writes {V}"
        )
    if V > MAX_ONE_HOT:
        raise ModelFileError(
            f"one-hot input of {V} tokens: up to {MAX_ONE_HOT} can be imported, as an identity embedding"
        )
