"""Heads, one readable reference file each, and the registry ``HEADS`` from which all code enumerates them.

A head predicts from the outputs and the final state of the core, and scores its predictions; ``Head`` documents the contract.
"""

from unrolled.engine.models.heads.head import Head
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.heads.step_labels import StepLabelsHead

HEADS: dict[str, type[Head]] = {head.kind: head for head in (NextTokenHead, StepLabelsHead)}
