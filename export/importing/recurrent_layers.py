"""Recurrent layers of a foreign model: number, order and cell, read off the names and shapes of its weights.

Letters: E embedding, H hidden, G gates.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.cells import CELLS
from unrolled.export.importing.named_arrays import NamedArrays, listed

PARAMETER_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
REMOVE = (
    "merge it into plain weights first (remove_weight_norm, remove_parametrizations, or saving from the plain module)"
)

_RECURRENT = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<kind>(?:weight|bias)_(?:ih|hh))(?:_l(?P<layer>[0-9]{1,4}))?(?P<tail>.*)"
)
# Parts of names that wrappers add: "module" by DataParallel and weight dropping, "_orig_mod" by torch.compile.
_WRAPPERS = ("module", "_orig_mod")


class RecurrentLayer(NamedTuple):
    """Source names of one recurrent layer, by kind of parameter."""

    where: str
    sources: dict[str, str]


def _refuse_variants(found: Mapping[str, re.Match[str]], weights: NamedArrays, recurrent: str | None) -> None:
    """Refuse variants of recurrent layers that this package does not have."""
    if names := [name for name, m in found.items() if m["tail"].startswith("_reverse")]:
        raise ModelFileError(f"{listed(names)}: a bidirectional layer, which cannot write text from left to right")
    projected = [name for name in weights if re.search(r"(^|\.)weight_hr(_l|$)", name)]
    if names := [name for name in projected if _is_under(name.rpartition(".")[0], recurrent)]:
        raise ModelFileError(f"{listed(names)}: an LSTM with projections (proj_size), which is not supported")
    if names := [name for name, m in found.items() if m["tail"] not in ("", "_raw")]:
        raise ModelFileError(f"{listed(names)}: a reparametrised weight; {REMOVE}")
    if names := [name for name in weights if ".parametrizations." in f".{name}"]:
        raise ModelFileError(f"{listed(names)}: a reparametrised weight; {REMOVE}")


def _is_under(module: str, outer: str | None) -> bool:
    """Return whether a module is ``outer`` or inside it; ``outer`` may leave out wrappers."""
    plain = ".".join(part for part in module.split(".") if part not in _WRAPPERS)
    return outer is None or any(f"{name}.".startswith(f"{outer}.") for name in (module, plain))


def recurrent_layers(weights: NamedArrays, recurrent: str | None) -> tuple[list[RecurrentLayer], set[str]]:
    """Return the layers in order, and plain weights that a ``_raw`` one replaces (copies with dropout, made in training).

    Args:
        recurrent: the module of the layers, or one around their modules; None: any.
    """
    every = {name: m for name in weights if (m := _RECURRENT.fullmatch(name))}
    if not every:
        raise ModelFileError(
            f"no recurrent layer: no name ends in weight_ih_l0 or weight_ih; there are {listed(sorted(weights), 8)}"
        )
    chosen = {name: m for name, m in every.items() if _is_under(m["module"].removesuffix("."), recurrent)}
    if not chosen:
        modules = sorted({m["module"].removesuffix(".") for m in every.values()})
        raise ConfigError(f"--recurrent: no recurrent layer is under {recurrent!r}; there are {listed(modules)}")
    _refuse_variants(chosen, weights, recurrent)
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    replaced = set()
    for name in sorted(chosen, key=lambda name: (name.endswith("_raw"), name)):
        m = chosen[name]
        module = ".".join(part for part in m["module"].split(".") if part not in _WRAPPERS)
        sources = found[module, int(m["layer"] or 0)]
        if m["kind"] in sources:
            if not m["tail"]:
                raise ModelFileError(f"{sources[m['kind']]}, {name}: two of one layer")
            replaced.add(sources[m["kind"]])
        sources[m["kind"]] = name
    layers = [RecurrentLayer(f"{module}…_l{number}", found[module, number]) for module, number in _in_order(found)]
    for layer in layers:
        missing = [kind for kind in PARAMETER_KINDS[:2] if kind not in layer.sources]
        if not missing and len(layer.sources) == 3:
            missing = [kind for kind in PARAMETER_KINDS if kind not in layer.sources]
        if missing:
            raise ModelFileError(f"{layer.where}: {', '.join(missing)} missing beside {listed(layer.sources.values())}")
    return layers, replaced


def _in_order(found: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Order modules by the numbers in their names, then layers by theirs; modules that differ in more have no order."""
    found = list(found)
    modules = sorted({module for module, _ in found})
    if len({re.sub(r"[0-9]+", "", module) for module in modules}) > 1:
        raise ModelFileError(
            f"recurrent layers under {listed(modules)}: their order cannot be told from the names; "
            "say with --recurrent under which the model is, or import files with one model, its layers numbered"
        )
    ordered = sorted(found, key=lambda place: ([int(n) for n in re.findall(r"[0-9]+", place[0])], place[1]))
    for module in modules:
        numbers = [number for name, number in ordered if name == module]
        if numbers != list(range(len(numbers))):
            absent = min(set(range(max(numbers))) - set(numbers))
            raise ModelFileError(f"{module}weight_ih_l{absent}: missing; layers {numbers} are there")
    return ordered


def hidden_size(weights: NamedArrays, layers: list[RecurrentLayer]) -> int:
    """Return H of all layers.

    Raises:
        ModelFileError: shapes contradict each other; the message names them.
    """
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


def choose_cell(weights: NamedArrays, layers: list[RecurrentLayer], H: int, cell: str | None) -> tuple[str, list[str]]:
    """Return the cell with as many gates as the weights have, and notes on the choice."""
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
