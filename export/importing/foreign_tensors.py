"""Tensors left over from an import: those that a model can do without, and those that change what it computes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.export.importing.named_arrays import NamedArrays, listed

# Words in the names of modules; names are split at dots, underscores and digits.
_WORDS = {
    "a normalisation": {"norm", "layernorm", "batchnorm", "groupnorm", "instancenorm", "rmsnorm", "ln", "bn", "lnorm"},
    "an attention": {
        "att",
        "attn",
        "attention",
        "attentions",
        "selfattn",
        "selfattention",
        "multihead",
        "mha",
        "query",
        "queries",
    },
    "a positional embedding": {"pos", "position", "positions", "positional", "wpe", "pe"},
    "a convolution": {"conv", "convs", "convolution", "cnn"},
    "a highway": {"highway"},
    "a peephole of an LSTM": {"peephole", "peepholes"},
}
_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_STATES = {"h", "c", "hx", "cx", "hidden", "cell", "state", "memory"}
_INITIAL = {"init", "initial", "learned", "start", "0"}
_COUNTERS = ("n_averaged",)  # torch.optim.swa_utils.AveragedModel saves it
_LOSSES = {"criterion", "loss", "lossfn", "lossfunc", "lossfunction"}
_PEEPHOLE = re.compile(r"w(eight)?_?c[ifo](_l[0-9]+)?")  # w_ci, weight_co_l0
_PART = re.compile(r"(weight|bias)(_[ih]h)?(_l[0-9]+)?_(g|v|u|orig|mask)|original[01]?|_[uv]")


def _words(part: str) -> set[str]:
    """Return the words in a part of a name: hidden and 0 for Hidden_0, h and 0 for h0, layernorm for LayerNorm1d."""
    words = set(re.findall(r"[a-z]+|[0-9]+", part.lower()))
    return {word.removesuffix("s") if word in ("norms", "attns") else word for word in words} - {"d"}


def changes_function(name: str, value: NDArray) -> str | None:
    """Return the kind of a tensor that certainly takes part in what its model computes; None if that is not known."""
    *modules, last = name.split(".")
    words = set().union(*map(_words, (*modules, last)))
    if last in _NORM_STATISTICS:
        return "a normalisation"
    for kind, known in _WORDS.items():
        if words & known:
            return kind
    if _PEEPHOLE.fullmatch(last.lower()):
        return "a peephole of an LSTM"
    if _PART.fullmatch(last) or "parametrizations" in modules:
        return "a part of a reparametrised weight"
    if _is_initial_state(modules, last):
        return "a learned initial state" if _not_zero(value) else None
    if last in ("weight", "gamma", "beta") and value.ndim == 1 and not _LOSSES & {m.replace("_", "") for m in modules}:
        return "a normalisation or activation with weights"
    if last == "weight" and value.ndim > 2:
        return "a convolution"
    return None


def _is_initial_state(modules: list[str], last: str) -> bool:
    named = [part for part in (*modules, last) if not part.isdigit()]
    own, outer = _words(named[-1]) if named else set(), _words(named[-2]) if len(named) > 1 else set()
    if own & _STATES and own <= _STATES | _INITIAL:
        return True
    return bool(outer & _STATES and outer & _INITIAL and outer <= _STATES | _INITIAL)


def _not_zero(value: NDArray) -> bool:
    # Integers are stand-ins of the right shape, without the file's values.
    return not np.issubdtype(value.dtype, np.floating) or bool(np.any(value != 0))


def takes_no_part(name: str, value: NDArray) -> str | None:
    """Return the kind of a tensor that certainly takes no part in a model's logits; None if that is not known."""
    *modules, last = name.split(".")
    if last in _COUNTERS and value.size <= 1:
        return "a counter of averaged weights"
    if (
        _LOSSES & {module.replace("_", "") for module in modules}
        and last in ("weight", "pos_weight")
        and value.ndim <= 1
    ):
        return "the weights of classes in a loss"
    if _is_initial_state(modules, last) and not changes_function(name, value):
        return "an initial state of zeros, as it is here"
    return None


def leave_out(left: NamedArrays, ignore: Sequence[str]) -> list[str]:
    """Check that the tensors ``left`` over can be left out, and return notes on them.

    Args:
        ignore: names to leave out, or patterns with ``*``.

    Raises:
        ModelFileError: a tensor takes part in what the model computes, or may and is not ignored.
        ConfigError: a pattern matches no tensor.
    """
    changing = {name: kind for name, value in left.items() if (kind := changes_function(name, value))}
    for kind in sorted(set(changing.values())):
        raise ModelFileError(
            f"{listed(name for name in changing if changing[name] == kind)}: no part of a language model of embedding, "
            f"recurrent layers and output, but {kind}, without which the model computes something else; it cannot be "
            "imported, and --ignore does not leave it out"
        )
    harmless = {name: kind for name, value in left.items() if (kind := takes_no_part(name, value))}
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
