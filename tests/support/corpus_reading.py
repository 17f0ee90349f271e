"""Read files that a test writes: as a corpus, and by encoding them to a token file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import read_encoded
from unrolled.engine.errors import CorpusError

Write = Callable[[str, bytes | str], Path]
TEXT = "A line of text.\nÄnother — 猫が 😀, and so on.\n" * 30
ROWS = '{"prompt": "one", "text": "one"}\n{"prompt": "zwei ü", "text": "zwei ü"}\n'


def failure(*sources: str | Path, options: ReadOptions | None = None) -> str:
    """Return the message of the CorpusError that reading raises."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(sources, options)
    return str(caught.value)


def encoded_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file after encoding it to a token file, the only file that this leaves."""
    output = path.parent / "out" / "all.tokens"
    encode_files([path], output, DataConfig(), encoding)
    assert [file.name for file in output.parent.iterdir()] == ["all.tokens"]
    encoded = read_encoded(output)
    return encoded.tokenizer.decode(encoded.ids)


def corpus_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file that is read as a corpus."""
    content = read_corpus([path], ReadOptions(encoding=encoding)).content
    assert isinstance(content, str)
    return content


READERS: dict[str, Callable[..., str]] = {"corpus": corpus_text, "encode": encoded_text}
