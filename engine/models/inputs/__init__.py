"""Kinds of inputs, one readable reference file each, and the registry ``INPUTS`` from which all code enumerates them.

An input turns one named array of a batch into columns of x (T, B, E); ``Input`` documents the contract.
"""

from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.input import Input
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput

INPUTS: dict[str, type[Input]] = {kind.kind: kind for kind in (TokensInput, CategoriesInput, ValuesInput, StaticInput)}
