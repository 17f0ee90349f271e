"""Weights of language models trained elsewhere: a ``state_dict`` of common layouts becomes a checkpoint.

What a tensor is, its name and shape say together. Gate order and both biases are PyTorch's own, so that nothing is
reordered: importing is finding, checking and renaming. Whether a module was batch-first is no matter of its weights.

Letters: V vocabulary, E embedding, H hidden, L layers, G gates.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.cells import CELLS
from unrolled.engine.checks import check_choice
from unrolled.engine.config import ModelConfig
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.params import Params, layer_names, parameter_shapes

Weights = Mapping[str, NDArray]

# The last part of a module's name, in lower case and without numbers.
EMBEDDINGS = ("embedding", "embeddings", "embed", "embeds", "emb", "encoder", "wte", "word_embeddings", "char_embeddings",
              "token_embedding", "tok_embeddings", "lookup")  # fmt: skip
OUTPUTS = ("decoder", "fc", "linear", "out", "output", "head", "lm_head", "proj", "projection", "dense", "logits",
           "classifier", "output_layer", "fc_out")  # fmt: skip
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
MAX_ONE_HOT = 4096  # tokens: the identity that stands in for an embedding has the square of it
REMOVE = (
    "merge it into plain weights first (remove_weight_norm, remove_parametrizations, or saving from the plain module)"
)

_RECURRENT = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<kind>(?:weight|bias)_(?:ih|hh))(?:_l(?P<layer>[0-9]{1,4}))?(?P<tail>.*)"
)
_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and weight dropping, of torch.compile


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


class _Layer(NamedTuple):
    """Source names of one recurrent layer, by kind."""

    where: str
    sources: dict[str, str]


class _Ends(NamedTuple):
    """Source names around the recurrent layers; None: not in the file."""

    embedding: str | None
    output: str | None
    bias: str | None


def import_weights(
    weights: Weights,
    cell: str | None = None,
    tie: bool = False,
    ignore: bool = False,
    dtypes: Mapping[str, str] | None = None,
) -> Imported:
    """Recognise a language model in the arrays of a ``state_dict``.

    Args:
        weights: arrays by their names in the file.
        cell: a key of ``CELLS``; needed where the number of gates does not say it (rnn, the default, or rnn_relu).
        tie: the output layer shares the embedding's matrix, of which only one is in the file.
        ignore: leave out what is no part of the model, instead of refusing it.
        dtypes: what the file has them in, where that is no dtype of NumPy's.

    Raises:
        ModelFileError: no such model, or one that this package has no room for; names the tensors.
        ConfigError: ``cell`` or ``tie`` does not go with the weights.
    """
    _refuse_variants(weights)
    layers, replaced = _recurrent_layers(weights)
    H = _hidden_size(weights, layers)
    cell, notes = _choose_cell(weights, layers, H, cell)
    notes += [f"{name}: not used, {name}_raw stands for it" for name in sorted(replaced)]
    used = {source for layer in layers for source in layer.sources.values()} | replaced
    rest = {name: weights[name] for name in weights if name not in used}
    E = int(weights[layers[0].sources["weight_ih"]].shape[1])
    ends, doubles = _find_ends(rest, E, H)
    left = [name for name in rest if name not in {*ends, *doubles}]
    if left and not ignore:
        raise ModelFileError(
            f"{_listed(left)}: no part of a language model of embedding, recurrent layers and output, or not recognised; "
            "say --ignore to leave that out"
        )
    notes += [f"{name}: the same values as {one}, read once" for name, one in doubles.items()]
    return _assemble(weights, cell, layers, ends, tie, left, notes, dtypes or {})


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _refuse_variants(weights: Weights) -> None:
    """Recurrent layers that are not those of this package."""
    tails = {name: m["tail"] for name in weights if (m := _RECURRENT.fullmatch(name))}
    if names := [name for name, tail in tails.items() if tail.startswith("_reverse")]:
        raise ModelFileError(f"{_listed(names)}: a bidirectional layer, which cannot write text from left to right")
    if names := [name for name in weights if re.search(r"(^|\.)weight_hr(_l|$)", name)]:
        raise ModelFileError(f"{_listed(names)}: an LSTM with projections (proj_size), which is not supported")
    if names := [name for name, tail in tails.items() if tail not in ("", "_raw")]:
        raise ModelFileError(f"{_listed(names)}: a reparametrised weight; {REMOVE}")
    if names := [name for name in weights if ".parametrizations." in f".{name}"]:
        raise ModelFileError(f"{_listed(names)}: a reparametrised weight; {REMOVE}")


def _recurrent_layers(weights: Weights) -> tuple[list[_Layer], set[str]]:
    """The layers in their order, and plain weights for which a ``_raw`` one stands (dropped-out copies of a training)."""
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    replaced = set()
    for name in sorted(weights, key=lambda name: (name.endswith("_raw"), name)):
        if m := _RECURRENT.fullmatch(name):
            module = ".".join(part for part in m["module"].split(".") if part not in _WRAPPERS)
            sources = found[module, int(m["layer"] or 0)]
            if m["kind"] in sources:
                if not m["tail"]:
                    raise ModelFileError(f"{sources[m['kind']]}, {name}: two of one layer")
                replaced.add(sources[m["kind"]])
            sources[m["kind"]] = name
    if not found:
        raise ModelFileError(
            f"no recurrent layer: no name ends in weight_ih_l0 or weight_ih; there are {_listed(sorted(weights), 8)}"
        )
    layers = [_Layer(f"{module}…_l{number}", found[module, number]) for module, number in _in_order(found)]
    for layer in layers:
        missing = [kind for kind in KINDS[:2] if kind not in layer.sources]
        if not missing and len(layer.sources) == 3:
            missing = [kind for kind in KINDS if kind not in layer.sources]
        if missing:
            raise ModelFileError(
                f"{layer.where}: {', '.join(missing)} missing beside {_listed(layer.sources.values())}"
            )
    return layers, replaced


def _in_order(found: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Modules by the numbers in their names, then layers by theirs; whatever else tells modules apart is no order."""
    found = list(found)
    modules = sorted({module for module, _ in found})
    if len({re.sub(r"[0-9]+", "", module) for module in modules}) > 1:
        raise ModelFileError(
            f"recurrent layers under {_listed(modules)}: their order cannot be told from the names; "
            "import files with one model, its layers numbered"
        )
    ordered = sorted(found, key=lambda place: ([int(n) for n in re.findall(r"[0-9]+", place[0])], place[1]))
    for module in modules:
        numbers = [number for name, number in ordered if name == module]
        if numbers != list(range(len(numbers))):
            absent = min(set(range(max(numbers))) - set(numbers))
            raise ModelFileError(f"{module}weight_ih_l{absent}: missing; layers {numbers} are there")
    return ordered


def _hidden_size(weights: Weights, layers: list[_Layer]) -> int:
    """H of all layers; shapes that contradict each other are named."""
    sizes = []
    for layer in layers:
        name = layer.sources["weight_hh"]
        shape = weights[name].shape
        if len(shape) != 2 or 0 in shape or shape[0] % shape[1]:
            raise ModelFileError(f"{name}: shape {shape}, needs (G·H, H) of a cell with G gates")
        sizes.append(int(shape[1]))
    if len(set(sizes)) > 1:
        raise ModelFileError(f"layers of different widths, {sizes}; this package has one width for all")
    H = sizes[0]
    rows = {layer.where: weights[layer.sources["weight_hh"]].shape[0] for layer in layers}
    if len(set(rows.values())) > 1:
        raise ModelFileError(f"layers of different cells: weight_hh has {sorted(set(rows.values()))} rows")
    for place, layer in enumerate(layers):
        name = layer.sources["weight_ih"]
        shape, wanted = weights[name].shape, (rows[layer.where], "E" if place == 0 else H)
        if len(shape) != 2 or shape[0] != wanted[0] or 0 in shape or (place and shape[1] != H):
            raise ModelFileError(
                f"{name}: shape {shape}, needs ({wanted[0]}, {wanted[1]}) beside {layer.sources['weight_hh']}"
            )
    return H


def _choose_cell(weights: Weights, layers: list[_Layer], H: int, cell: str | None) -> tuple[str, list[str]]:
    """The cell with as many gates as the weights have."""
    G = weights[layers[0].sources["weight_hh"]].shape[0] // H
    fitting = [name for name, spec in CELLS.items() if spec.gates == G]
    if not fitting:
        raise ModelFileError(f"{layers[0].sources['weight_hh']}: {G} gates, and no cell has as many")
    if cell is None:
        notes = [f"{fitting[0]} assumed; if it is {' or '.join(fitting[1:])}, say --cell"] if fitting[1:] else []
        return fitting[0], notes
    check_choice("cell", cell, CELLS)
    if cell not in fitting:
        raise ConfigError(f"cell: got {cell!r}, but the weights have {G} gates, which is {' or '.join(fitting)}")
    return cell, []


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
            raise ModelFileError(f"{_listed(names)}: several {kind}s, and a model here has one")
        doubles[other] = names[0]
    return names[0]


def _find_ends(rest: Weights, E: int, H: int) -> tuple[_Ends, dict[str, str]]:
    """Embedding, output matrix and output bias: by name first, then by shape where one alone has it."""
    tables = [name for name in sorted(rest) if name.endswith(".weight") and rest[name].ndim == 2]
    with_bias = {name for name in tables if name.removesuffix("weight") + "bias" in rest}
    named_embeddings = [name for name in tables if _stem(name) in EMBEDDINGS and name not in with_bias]
    named_outputs = [name for name in tables if _stem(name) in OUTPUTS]
    unnamed = [name for name in tables if _stem(name) not in {*EMBEDDINGS, *OUTPUTS}]
    if not named_embeddings:
        named_embeddings = [name for name in unnamed if name not in with_bias and rest[name].shape[1] == E]
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
    if ends.output is None:
        if not tie and ends.bias is None:
            raise ModelFileError(
                f"no output layer: no matrix (V, {H}) called {', '.join(OUTPUTS[:6])} or the like; "
                "if it shares the embedding's, say --tie"
            )
        tied = True
    else:  # without an embedding: tied, or the input is one-hot
        V = weights[ends.output].shape[0]
        if E == H == V and not tie:
            raise ModelFileError("no embedding: the input may be one-hot, or share the output's matrix; then say --tie")
        tied = tie or (E == H and E != V)
    if tied and ends.embedding is None and ends.output is None:
        raise ModelFileError("no embedding and no output layer")
    if tied and E != H:
        raise ModelFileError(
            f"no output layer, and the embedding's width {E} is not the layers' {H}: they cannot share it"
        )
    return tied


def _assemble(
    weights: Weights,
    cell: str,
    layers: list[_Layer],
    ends: _Ends,
    tie: bool,
    left: list[str],
    notes: list[str],
    dtypes: Mapping[str, str],
) -> Imported:
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
        source = sources[name]
        if source is not None:
            params[name], note = _float32(source, weights[source], name, shape, dtypes.get(source))
        elif name == "embedding.weight":
            params[name], note = np.eye(V, dtype=np.float32), "the identity"
        else:
            params[name], note = np.zeros(shape, np.float32), "not in the file: zeros"
        matches.append(Match(source, name, shape, note))
    return Imported(config, params, matches, sorted(left), notes)


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
