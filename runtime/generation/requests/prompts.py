"""Prompts: their tokens, and reading many of them together, common prefixes only once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.models.batch_invariance import RowModel


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> NDArray[np.int64]:
    """Return the ids (n,) of a prompt, n ≥ 1, after <bos> if the vocabulary has it.

    Raises:
        UnknownTokenError: the prompt holds a text outside the vocabulary, or is empty.
    """
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
        return np.concatenate([[tokenizer.bos_id], ids]).astype(np.int64)
    if len(ids) == 0:
        raise UnknownTokenError(
            f"prompt: {prompt!r} has no token to start from, and this model has no <bos>; begin with some text, for "
            f"instance {tokenizer.start_prompt()!r}, or train with batching 'records', which gives <bos>"
        )
    return ids


def _common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return the length of the common prefix of two prompts."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def read_prompts(
    model: RowModel, prompts: Sequence[NDArray[np.int64]], states: Sequence[NDArray | None] | None = None
) -> tuple[NDArray, NDArray]:
    """Return logits (B, V) and states (S, L, B, H) after the last token of each of B prompts of different lengths.

    Sorted prompts with a common prefix are neighbours. Between two positions where one of them ends or differs from its
    neighbour, one row is read for all prompts that are equal so far; no row sees padding.

    Args:
        states: (S, L, H) before each prompt; None: zeros. Prompts share their prefix only if their state is one object.
    """
    B = len(prompts)
    starts = [None] * B if states is None else states
    if B == 1:  # the usual case of one text: what follows would take longer than reading a short prompt
        state = zero_state(model.config, 1) if starts[0] is None else np.ascontiguousarray(starts[0][:, :, None])
        return model.read(np.ascontiguousarray(prompts[0][:, None]), state)
    order = sorted(range(B), key=lambda row: (id(starts[row]), prompts[row].tolist()))
    lengths = np.array([len(prompts[row]) for row in order], np.int64)
    # the prefix that each prompt has in common with the one before it; the first has none
    common = np.zeros(B, np.int64)
    common[1:] = [
        _common_prefix(prompts[a], prompts[b]) * (starts[a] is starts[b]) for a, b in itertools.pairwise(order)
    ]
    moved = zero_state(model.config, B)
    tokens = np.zeros((lengths.max(), B), np.int64)
    for column, row in enumerate(order):
        tokens[: lengths[column], column] = prompts[row]
        if (start := starts[row]) is not None:
            moved[:, :, column] = start
    logits = np.empty((B, model.config.vocab_size), np.float32)
    begin = 0
    for end in np.union1d(lengths, common[common > 0]):
        going = np.flatnonzero(lengths >= end)
        # A row starts a new branch if its common prefix with the previous active row is shorter than ``end``.
        leads = np.minimum.reduceat(common[: going[-1] + 1], np.append(0, going[:-1] + 1)) < end
        leads[0] = True
        first = going[leads]
        read, after = model.read(
            np.ascontiguousarray(tokens[begin:end, first]), np.ascontiguousarray(moved[:, :, first])
        )
        branch = np.cumsum(leads) - 1
        logits[going], moved[:, :, going] = read[branch], after[:, :, branch]
        begin = end
    back = np.argsort(order)
    return logits[back], np.ascontiguousarray(moved[:, :, back])
