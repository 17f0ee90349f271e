"""Reading of files that a test writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.errors import CorpusError

Write = Callable[[str, bytes | str], Path]


def failure(*sources: str | Path, options: ReadOptions | None = None) -> str:
    """Return the message of the CorpusError that reading raises."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(sources, options)
    return str(caught.value)
