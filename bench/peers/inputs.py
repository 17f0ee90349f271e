"""Random inputs of a workload, the same for every peer: a batch, initial parameters, a checkpoint."""

from __future__ import annotations

import numpy as np

from unrolled.bench.peers.workloads import Workload
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.parameters import Params
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer

FIRST_CHARACTER = 0xE000  # characters of the vocabulary: Unicode's private ones


def make_batch(work: Workload) -> Batch:
    """Return a batch of random tokens, or for a tagger one of random tokens or values with random labels."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, work.vocab, (work.length + 1, work.batch))
    inputs, targets = np.ascontiguousarray(tokens[:-1]), np.ascontiguousarray(tokens[1:])
    if work.classes is None:
        return Batch.of_tokens(inputs, targets, carry=True)
    labels = rng.integers(0, work.classes, inputs.shape)
    (reads,) = work.spec.inputs
    array = rng.standard_normal((*inputs.shape, work.values), np.float32) if work.values else inputs
    return Batch({reads.name: array}, labels, np.ones(inputs.shape, np.bool_), work.lengths, carry=False)


def make_params(work: Workload) -> Params:
    """Return initial parameters."""
    return pytorch_params(work.spec, 0)


def make_checkpoint(work: Workload) -> Checkpoint:
    """Return a model with random weights, larger than initial ones so that probabilities differ."""
    params = {name: value * np.float32(2) for name, value in make_params(work).items()}
    tokenizer = CharTokenizer([chr(FIRST_CHARACTER + i) for i in range(work.vocab)])
    return Checkpoint.of_language_model(work.config, params, tokenizer, {})
