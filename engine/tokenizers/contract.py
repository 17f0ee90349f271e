"""The interface of tokenisers: text to ids, and ids to text, at once or incrementally."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.tokenizers.pieces import TextOrPieces
from unrolled.engine.tokenizers.streamers import TextStreamer


class Tokenizer(Protocol):
    """The part of a tokeniser that the rest of the package uses."""

    level: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]  # data settings that ``fit`` accepts
    boundary: ClassVar[re.Pattern[str] | None]  # where a text may be split; None: anywhere
    vocabulary: tuple[str, ...]
    unknown: str

    @property
    def unk_id(self) -> int | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    def encode(self, text: str) -> NDArray[np.int64]: ...
    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def streamer(self) -> TextStreamer: ...
    def start_prompt(self) -> str: ...
    def examples(self, count: int) -> list[str]: ...
    def to_dict(self) -> dict[str, Any]: ...
