"""Weights of language models trained elsewhere: a ``state_dict`` of common layouts becomes a checkpoint.

What a tensor is, its name and shape say together. Gate order and both biases are PyTorch's own, so that nothing is
reordered: importing is finding, checking and renaming. Whether a module was batch-first is no matter of its weights.

Letters: V vocabulary, E embedding, H hidden, L layers, G gates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, layer_names, parameter_shapes
from unrolled.export.importing.foreign_tensors import changes_function, no_part
from unrolled.export.importing.recurrent_layers import (
    KINDS,
    Layer,
    Weights,
    choose_cell,
    hidden_size,
    listed,
    recurrent_layers,
)
from unrolled.export.importing.reparametrization import Recombined, recombine

# The last part of a module's name, in lower case and without numbers.
EMBEDDINGS = ("embedding", "embeddings", "embed", "embeds", "emb", "encoder", "wte", "word_embeddings", "char_embeddings",
              "token_embedding", "tok_embeddings", "lookup")  # fmt: skip
OUTPUTS = ("decoder", "fc", "linear", "out", "output", "head", "lm_head", "proj", "projection", "dense", "logits",
           "classifier", "output_layer", "fc_out")  # fmt: skip
MAX_ONE_HOT = 4096  # tokens: the identity that stands in for an embedding has the square of it


class Match(NamedTuple):
    """A tensor that was recognised; without a source it was made here."""

    source: str | None
    name: str
    shape: tuple[int, ...]
    note: str = ""


@dataclass
class Imported:
    """A model made of foreign weights, and how."""

    config: ModelConfig
    params: Params
    matches: list[Match]
    ignored: list[str]
    notes: list[str] = field(default_factory=list)


class ModelSettings(NamedTuple):
    """Settings of a model that its weights do not contain."""

    cell: str
    tie: bool


class _Ends(NamedTuple):
    """Source names around the recurrent layers; None: not in the file."""

    embedding: str | None
    output: str | None
    bias: str | None


def import_weights(
    weights: Weights,
    cell: str | None = None,
    tie: bool = False,
    ignore: Sequence[str] = (),
    dtypes: Mapping[str, str] | None = None,
    embedding: str | None = None,
    output_layer: str | None = None,
    recurrent: str | None = None,
) -> Imported:
    """Recognise a language model in the arrays of a ``state_dict``.

    Args:
        weights: arrays by their names in the file.
        cell: a key of ``CELLS``; needed where the number of gates does not say it (rnn, the default, or rnn_relu).
        tie: the output layer shares the embedding's matrix, of which only one is in the file.
        ignore: names of tensors to leave out, or patterns with ``*``; those that are known to change what a model
            computes are refused all the same.
        dtypes: what the file has them in, where that is no dtype of NumPy's.
        embedding: the embedding's matrix or module, where its name does not say it.
        output_layer: the output layer's matrix or module, likewise.
        recurrent: the module of the recurrent layers, or what their modules are in, where there are several.

    Raises:
        ModelFileError: no such model, or one that this package has no room for; names the tensors.
        ConfigError: a setting does not go with the weights.
    """
    whole = recombine(weights)
    layers, replaced = recurrent_layers(whole.arrays, recurrent)
    H = hidden_size(whole.arrays, layers)
    cell, notes = choose_cell(whole.arrays, layers, H, cell)
    notes += [f"{name}: not used, {name}_raw stands for it" for name in sorted(replaced)]
    used = {source for layer in layers for source in layer.sources.values()} | replaced
    rest = {name: value for name, value in whole.arrays.items() if name not in used}
    E = int(whole.arrays[layers[0].sources["weight_ih"]].shape[1])
    ends, doubles = _find_ends(rest, E, H, embedding, output_layer)
    left = {name: value for name, value in rest.items() if name not in {*ends, *doubles}}
    notes += [f"{name}: the same values as {one}, read once" for name, one in doubles.items()]
    notes += _leave_out(left, ignore)
    return _assemble(whole, layers, ends, ModelSettings(cell, tie), notes, dtypes or {}, sorted(left))


def _leave_out(left: Weights, ignore: Sequence[str]) -> list[str]:
    """Check that a model without the tensors that are ``left`` is the same, or was asked for; what there is to note."""
    changing = {name: kind for name, value in left.items() if (kind := changes_function(name, value))}
    for kind in sorted(set(changing.values())):
        raise ModelFileError(
            f"{listed(name for name in changing if changing[name] == kind)}: no part of a language model of embedding, "
            f"recurrent layers and output, but {kind}, without which the model computes something else; it cannot be "
            "imported, and --ignore does not leave it out"
        )
    harmless = {name: kind for name, value in left.items() if (kind := no_part(name, value))}
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in left):
            raise ConfigError(
                f"--ignore: {pattern!r} matches no tensor that is left over; these are {listed(left) or 'none'}"
            )
    asked = [name for name in left if any(fnmatchcase(name, pattern) for pattern in ignore)]
    if unknown := [name for name in left if name not in {*harmless, *asked}]:
        raise ModelFileError(
            f"{listed(unknown)}: no part of a language model of embedding, recurrent layers and output, or not recognised; "
            f"only if the logits do not depend on it, say --ignore {shlex.quote(unknown[0])}"
            + (" and the others" if unknown[1:] else "")
        )
    notes = [f"{name}: left out, {kind}" for name, kind in harmless.items() if name not in asked]
    if asked:
        notes.append(
            f"{listed(asked, 16)}: left out as --ignore says; if the original's logits depend on it, this model computes "
            "something else: compare them"
        )
    return notes


def _stem(name: str) -> str:
    """Of fc.1.weight: fc."""
    parts = [part for part in name.lower().split(".")[:-1] if not part.isdigit()]
    return re.sub(r"_?[0-9]+$", "", parts[-1]) if parts else ""


def _one_of(kind: str, names: list[str], weights: Weights, doubles: dict[str, str]) -> str | None:
    """The one tensor among ``names``; copies of it go to ``doubles``."""
    if not names:
        return None
    for other in names[1:]:
        if not np.array_equal(weights[other], weights[names[0]]):
            option = "--embedding" if kind == "embedding" else "--output-layer"
            raise ModelFileError(f"{listed(names)}: several {kind}s, and a model here has one; say which with {option}")
        doubles[other] = names[0]
    return names[0]


def _named(option: str, name: str, tables: list[str]) -> str:
    """The matrix that an option names, by its own name or its module's."""
    for table in (name, f"{name}.weight"):
        if table in tables:
            return table
    raise ConfigError(f"{option}: got {name!r}, which is no matrix of the file; there are {listed(tables, 8)}")


def _find_ends(
    rest: Weights, E: int, H: int, embedding_name: str | None = None, output_name: str | None = None
) -> tuple[_Ends, dict[str, str]]:
    """Embedding, output matrix and output bias: as named, else by usual names, then by shape where one alone has it."""
    tables = [name for name in sorted(rest) if name.endswith(".weight") and rest[name].ndim == 2]
    with_bias = {name for name in tables if name.removesuffix("weight") + "bias" in rest}
    named_embeddings = [name for name in tables if _stem(name) in EMBEDDINGS and name not in with_bias]
    named_outputs = [name for name in tables if _stem(name) in OUTPUTS]
    if embedding_name is not None:
        named_embeddings = [_named("--embedding", embedding_name, tables)]
        named_outputs = [name for name in named_outputs if name not in named_embeddings]
    if output_name is not None:
        named_outputs = [_named("--output-layer", output_name, tables)]
        if embedding_name is None:
            named_embeddings = [name for name in named_embeddings if name not in named_outputs]
    unnamed = [name for name in tables if _stem(name) not in {*EMBEDDINGS, *OUTPUTS}]
    if not named_embeddings:
        others = [name for name in unnamed if name not in with_bias and name not in named_outputs]
        named_embeddings = [name for name in others if rest[name].shape[1] == E]
    if not named_outputs:
        others = [name for name in unnamed if name not in named_embeddings and rest[name].shape[1] == H]
        named_outputs = [name for name in others if name in with_bias] or others
    doubles: dict[str, str] = {}
    embedding = _one_of("embedding", named_embeddings, rest, doubles)
    output = _one_of("output layer", named_outputs, rest, doubles)
    if output is not None:
        beside = output.removesuffix("weight") + "bias"
        biases = [beside] if beside in rest else []
    else:
        biases = [name for name in sorted(rest) if name.endswith(".bias") and _stem(name) in OUTPUTS]
    for double, one in list(doubles.items()):  # of a matrix that is there twice, the bias can be too
        copy, original = (name.removesuffix("weight") + "bias" for name in (double, one))
        if copy in rest and original in rest and np.array_equal(rest[copy], rest[original]):
            doubles[copy] = original
    return _Ends(embedding, output, _one_of("output bias", biases, rest, doubles)), doubles


def _tied(weights: Weights, ends: _Ends, E: int, H: int, tie: bool) -> bool:
    """Whether one matrix serves as embedding and output."""
    if ends.embedding is not None and ends.output is not None:
        same = np.array_equal(weights[ends.embedding], weights[ends.output])
        if tie and not same:
            raise ConfigError(f"--tie: {ends.embedding} and {ends.output} are two different matrices")
        return same
    tied = tie
    if ends.output is None and not tie:
        raise ModelFileError(
            f"no output layer: no matrix (V, {H}) called {', '.join(OUTPUTS[:6])} or the like; "
            "if it shares the embedding's, say --tie, and if it has another name, --output-layer"
        )
    if ends.output is not None and not tie:  # no embedding: tied, or the input is one-hot
        V = weights[ends.output].shape[0]
        if E == H == V:
            raise ModelFileError("no embedding: the input may be one-hot, or share the output's matrix; then say --tie")
        if E == H:
            raise ModelFileError(
                f"no embedding: no matrix (V, {E}) called {', '.join(EMBEDDINGS[:6])} or the like; if it shares the "
                "output's, say --tie, and if it has another name, --embedding"
            )
    if tied and ends.embedding is None and ends.output is None:
        raise ModelFileError("no embedding and no output layer")
    if tied and E != H:
        raise ModelFileError(
            f"no output layer, and the embedding's width {E} is not the layers' {H}: they cannot share it"
        )
    return tied


def _assemble(
    whole: Recombined,
    layers: list[Layer],
    ends: _Ends,
    settings: ModelSettings,
    notes: list[str],
    dtypes: Mapping[str, str],
    left: list[str],
) -> Imported:
    """Check sizes and values of what was found, and name it as this package does."""
    weights, (cell, tie) = whole.arrays, settings
    first_in, first_hh = (weights[layers[0].sources[kind]] for kind in KINDS[:2])
    E, H = int(first_in.shape[1]), int(first_hh.shape[1])
    tied = _tied(weights, ends, E, H, tie)
    table = ends.embedding or (ends.output if tied else None)
    wide = ends.output or ends.embedding
    assert wide is not None
    if len(weights[wide].shape) != 2:
        raise ModelFileError(f"{wide}: shape {weights[wide].shape}, needs two axes")
    V = int(weights[table or wide].shape[0])
    if table is None:
        _check_one_hot(wide, V, E, layers[0].sources["weight_ih"])
        notes.append(f"no embedding: the input is one-hot, so the embedding is the identity of {V} tokens")
    if tied:
        notes.append("one matrix is embedding and output")
    config = ModelConfig(cell, V, E, H, len(layers), tie_weights=tied)
    sources: dict[str, str | None] = {"embedding.weight": table}
    for place, layer in enumerate(layers):
        sources.update((ours, layer.sources.get(kind)) for ours, kind in zip(layer_names(place), KINDS, strict=True))
    sources |= {"output.weight": ends.output, "output.bias": ends.bias}
    params: Params = {}
    matches = []
    for name, shape in parameter_shapes(config).items():
        source, shown = sources[name], None
        if source is not None:
            parts = whole.parts.get(source, [source])
            shown = ", ".join(parts)
            params[name], note = _float32(shown, weights[source], name, shape, dtypes.get(parts[0]))
            note = whole.kinds.get(source, note)
        elif name == "embedding.weight":
            params[name], note = np.eye(V, dtype=np.float32), "the identity"
        else:
            params[name], note = np.zeros(shape, np.float32), "not in the file: zeros"
        matches.append(Match(shown, name, shape, note))
    return Imported(config, params, matches, left, notes)


def _check_one_hot(output: str, V: int, width: int, w_ih: str) -> None:
    if width != V:
        raise ModelFileError(
            f"no embedding: no matrix (V, {width}) called {', '.join(EMBEDDINGS[:6])} or the like, and the input is not "
            f"one-hot either: {w_ih} reads {width} values, {output} writes {V}"
        )
    if V > MAX_ONE_HOT:
        raise ModelFileError(
            f"one-hot input of {V} tokens: up to {MAX_ONE_HOT} can be imported, as an identity embedding"
        )


def _float32(
    source: str, value: NDArray, name: str, shape: tuple[int, ...], dtype: str | None
) -> tuple[NDArray, str]:  # fmt: skip
    """A weight as this package keeps it, and what was done to it."""
    dtype = dtype or str(value.dtype)
    if not np.issubdtype(value.dtype, np.floating):
        raise ModelFileError(f"{source}: dtype {dtype}, needs float16, bfloat16, float32 or float64")
    if value.shape != shape:
        raise ModelFileError(f"{source}: shape {value.shape}, needs {shape} as {name}")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(converted).all():
        bad = int(converted.size - np.isfinite(converted).sum())
        raise ModelFileError(f"{source}: {bad} values are NaN, infinite or too large for float32")
    return converted, "" if dtype == "float32" else f"from {dtype}"
