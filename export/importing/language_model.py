"""Language models trained elsewhere: a ``state_dict`` of a common layout becomes the weights of a checkpoint.

Name and shape together identify a tensor. Gate order and both biases are PyTorch's own, so importing reorders nothing: it
finds, checks and renames. Whether a module was batch-first does not affect its weights.

Letters: V vocabulary, E embedding, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, layer_names, parameter_shapes
from unrolled.export.importing.foreign_tensors import leave_out
from unrolled.export.importing.named_arrays import NamedArrays
from unrolled.export.importing.outer_layers import OuterLayers, are_tied, check_one_hot, find_outer_layers
from unrolled.export.importing.recurrent_layers import (
    PARAMETER_KINDS,
    RecurrentLayer,
    choose_cell,
    hidden_size,
    recurrent_layers,
)
from unrolled.export.importing.reparametrization import Recombined, recombine


class MatchedTensor(NamedTuple):
    """A parameter and the tensor that became it; without a source it was made here."""

    source: str | None
    name: str
    shape: tuple[int, ...]
    note: str = ""


@dataclass
class Imported:
    """A model made of foreign weights, and a record of how."""

    config: LanguageModelConfig
    params: Params
    matches: list[MatchedTensor]
    ignored: list[str]
    notes: list[str] = field(default_factory=list)


def import_weights(
    weights: NamedArrays,
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
        cell: a key of ``CELLS``; needed if several cells have as many gates as the weights (rnn, the default, or rnn_relu).
        tie: the output layer shares the embedding's matrix, of which only one is in the file.
        ignore: names of tensors to leave out, or patterns with ``*``; tensors that are known to change what a model
            computes are refused all the same.
        dtypes: the dtypes in the file, for those that NumPy does not have.
        embedding: the embedding's matrix or module, if its name does not show it.
        output_layer: the output layer's matrix or module, likewise.
        recurrent: the module of the recurrent layers, or one around their modules, if there are several.

    Raises:
        ModelFileError: no language model, or one that this package cannot represent; the message names the tensors.
        ConfigError: a setting does not fit the weights.
    """
    whole = recombine(weights)
    layers, replaced = recurrent_layers(whole.arrays, recurrent)
    H = hidden_size(whole.arrays, layers)
    cell, notes = choose_cell(whole.arrays, layers, H, cell)
    notes += [f"{name}: not used, {name}_raw stands for it" for name in sorted(replaced)]
    used = {source for layer in layers for source in layer.sources.values()} | replaced
    rest = {name: value for name, value in whole.arrays.items() if name not in used}
    E = int(whole.arrays[layers[0].sources["weight_ih"]].shape[1])
    outer, doubles = find_outer_layers(rest, E, H, embedding, output_layer)
    left = {name: value for name, value in rest.items() if name not in {*outer, *doubles}}
    notes += [f"{name}: the same values as {one}, read once" for name, one in doubles.items()]
    notes += leave_out(left, ignore)
    tied = are_tied(whole.arrays, outer, E, H, tie)
    V = _vocab_size(whole.arrays, layers, outer, tied, notes)
    config = LanguageModelConfig(cell, V, E, H, len(layers), tie_weights=tied)
    params, matches = _take_params(whole, config, _sources(layers, outer, tied), dtypes or {})
    return Imported(config, params, matches, sorted(left), notes)


def _vocab_size(
    arrays: NamedArrays, layers: list[RecurrentLayer], outer: OuterLayers, tied: bool, notes: list[str]
) -> int:
    """Return V after checking the matrices that have it, and note a missing or shared one."""
    wide = outer.output or outer.embedding
    assert wide is not None
    if len(arrays[wide].shape) != 2:
        raise ModelFileError(f"{wide}: shape {arrays[wide].shape}, needs two axes")
    table = outer.embedding or (outer.output if tied else None)
    V = int(arrays[table or wide].shape[0])
    if table is None:
        w_ih = layers[0].sources["weight_ih"]
        check_one_hot(wide, V, int(arrays[w_ih].shape[1]), w_ih)
        notes.append(f"no embedding: the input is one-hot, so the embedding is the identity of {V} tokens")
    if tied:
        notes.append("one matrix is embedding and output")
    return V


def _sources(layers: list[RecurrentLayer], outer: OuterLayers, tied: bool) -> dict[str, str | None]:
    """Return the source of each parameter by its name in this package; None: not in the file."""
    sources = {"embedding.weight": outer.embedding or (outer.output if tied else None)}
    for place, layer in enumerate(layers):
        names = zip(layer_names(place), PARAMETER_KINDS, strict=True)
        sources.update((name, layer.sources.get(kind)) for name, kind in names)
    return sources | {"output.weight": outer.output, "output.bias": outer.bias}


def _take_params(
    whole: Recombined, config: LanguageModelConfig, sources: Mapping[str, str | None], dtypes: Mapping[str, str]
) -> tuple[Params, list[MatchedTensor]]:
    """Return all parameters in float32, and how each was matched."""
    params: Params = {}
    matches = []
    for name, shape in parameter_shapes(config.spec).items():
        source, shown = sources[name], None
        if source is not None:
            parts = whole.parts.get(source, [source])
            shown = ", ".join(parts)
            params[name], note = _float32(shown, whole.arrays[source], name, shape, dtypes.get(parts[0]))
            note = whole.kinds.get(source, note)
        elif name == "embedding.weight":
            params[name], note = np.eye(config.vocab_size, dtype=np.float32), "the identity"
        else:
            params[name], note = np.zeros(shape, np.float32), "not in the file: zeros"
        matches.append(MatchedTensor(shown, name, shape, note))
    return params, matches


def _float32(
    source: str, value: NDArray, name: str, shape: tuple[int, ...], dtype: str | None
) -> tuple[NDArray, str]:  # fmt: skip
    """Return a weight in float32, and a note on its conversion."""
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
