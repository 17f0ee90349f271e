"""Tell tensors that an imported model can do without from those without which it computes something else."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# words in the names of modules; a name is cut at dots, underscores and digits
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
_FIRST = {"init", "initial", "learned", "start", "0"}
_COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
_LOSSES = {"criterion", "loss", "lossfn", "lossfunc", "lossfunction"}
_PEEPHOLE = re.compile(r"w(eight)?_?c[ifo](_l[0-9]+)?")  # w_ci, weight_co_l0
_PART = re.compile(r"(weight|bias)(_[ih]h)?(_l[0-9]+)?_(g|v|u|orig|mask)|original[01]?|_[uv]")


def _words(part: str) -> set[str]:
    """The words of a part of a name: hidden and 0 of Hidden_0, h and 0 of h0, layernorm of LayerNorm1d."""
    words = set(re.findall(r"[a-z]+|[0-9]+", part.lower()))
    return {word.removesuffix("s") if word in ("norms", "attns") else word for word in words} - {"d"}


def changes_function(name: str, value: NDArray) -> str | None:
    """Return what a tensor is that certainly takes part in what its model computes; None where that is not known."""
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
    if own & _STATES and own <= _STATES | _FIRST:
        return True
    return bool(outer & _STATES and outer & _FIRST and outer <= _STATES | _FIRST)


def _not_zero(value: NDArray) -> bool:
    # whole numbers are stand-ins of the right shape, without the file's values
    return not np.issubdtype(value.dtype, np.floating) or bool(np.any(value != 0))


def no_part(name: str, value: NDArray) -> str | None:
    """Return what a tensor is that certainly takes no part in a model's logits; None where that is not known."""
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
