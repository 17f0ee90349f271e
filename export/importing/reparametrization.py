"""Reparametrised weights (weight norm, spectral norm, pruning), combined from their parts as torch does in ``eval()``.

Names are those of ``torch.nn.utils`` (``weight_g``, ``weight_v``; ``weight_orig``, ``weight_u``, ``weight_v``) and of
``torch.nn.utils.parametrizations`` (``parametrizations.weight.original0``, …). Sums are in float64.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError

_OLD = re.compile(
    r"(?P<plain>(?:.*\.)?(?:weight|bias)(?:_[ih]h(?:_l[0-9]{1,4})?(?:_reverse)?)?)_(?P<part>g|v|u|orig|mask)"
)
_NEW = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<tensor>[^.]+)\.(?P<part>.+)")


class Recombined(NamedTuple):
    """Arrays by their plain names; for each combined one, the names of its parts and the kind of reparametrisation."""

    arrays: dict[str, NDArray]
    parts: dict[str, list[str]]
    kinds: dict[str, str]


def recombine(weights: Mapping[str, NDArray]) -> Recombined:
    """Combine the weights whose parts are all there; the other arrays stay unchanged.

    Raises:
        ModelFileError: parts whose shapes do not fit, or parts next to the plain weight.
    """
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in weights:
        if m := _OLD.fullmatch(name):
            groups[m["plain"]][m["part"]] = name
        elif m := _NEW.fullmatch(name):
            groups[m["module"] + m["tensor"]][m["part"]] = name
    arrays, parts, kinds = dict(weights), {}, {}
    for plain, names in groups.items():
        known = _REPARAMETRIZATIONS.get(frozenset(names))
        values = [weights[name] for name in names.values()]
        if known is None or not all(np.issubdtype(value.dtype, np.floating) for value in values):
            continue
        if plain in weights:
            raise ModelFileError(f"{plain}, {', '.join(names.values())}: a weight, and parts that make another of it")
        order, kind, combine = known
        sources = [names[part] for part in order]
        for name in sources:
            del arrays[name]
        wide = [weights[name].astype(np.float64) for name in sources]
        with np.errstate(all="ignore"):  # zeros become NaN, as in torch; the caller refuses them
            arrays[plain] = combine(", ".join(sources), *wide)
        parts[plain], kinds[plain] = sources, kind
    return Recombined(arrays, parts, kinds)


def _weight_norm(names: str, length: NDArray, direction: NDArray) -> NDArray:
    """Return g · v / |v|; the norm is over the axes of size 1 in g, which shows the ``dim`` that was kept."""
    if length.ndim not in (0, direction.ndim) or any(
        n not in (1, m) for n, m in zip(length.shape, direction.shape, strict=bool(length.ndim))
    ):
        raise ModelFileError(f"{names}: shapes {length.shape} and {direction.shape} are not those of a weight norm")
    axes = tuple(axis for axis, n in enumerate(length.shape) if n == 1) if length.ndim else None
    return direction * (length / np.sqrt(np.square(direction).sum(axes, keepdims=length.ndim > 0)))


def _spectral_norm(names: str, weight: NDArray, left: NDArray, right: NDArray) -> NDArray:
    """Return W / σ with σ = uᵀ W v; ``dim`` is 0 or 1, and for a square matrix, where both fit, the larger σ decides."""
    fitting = [W for W in (weight, weight.T) if weight.ndim == 2 and W.shape == left.shape + right.shape]
    if not fitting:
        raise ModelFileError(
            f"{names}: shapes {weight.shape}, {left.shape} and {right.shape} are not those of a spectral norm of a matrix"
        )
    sigmas = [left @ W @ right for W in fitting]
    if len(sigmas) == 2 and not abs(sigmas[0]) >= abs(sigmas[1]):
        raise ModelFileError(
            f"{names}: a spectral norm of the transposed matrix, or one that was never trained; it cannot be told which. "
            "Remove it (remove_spectral_norm, remove_parametrizations) and save again"
        )
    return weight / sigmas[0]


def _pruned(names: str, weight: NDArray, mask: NDArray) -> NDArray:
    if weight.shape != mask.shape:
        raise ModelFileError(f"{names}: shapes {weight.shape} and {mask.shape} of a weight and its mask differ")
    return weight * mask


# By parts: these in the order of the function's arguments, the kind, and the function.
_REPARAMETRIZATIONS: dict[frozenset[str], tuple[tuple[str, ...], str, Callable[..., NDArray]]] = {
    frozenset(parts): (parts, kind, combine)
    for parts, kind, combine in (
        (("g", "v"), "weight norm", _weight_norm),
        (("original0", "original1"), "weight norm", _weight_norm),
        (("orig", "u", "v"), "spectral norm", _spectral_norm),
        (("original", "0._u", "0._v"), "spectral norm", _spectral_norm),
        (("orig", "mask"), "pruning", _pruned),
    )
}
