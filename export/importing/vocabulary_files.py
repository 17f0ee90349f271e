"""Vocabularies from elsewhere: tokens as JSON or text, merges of byte pairs as JSON, and the tokeniser made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.engine.checks import check_choice
from unrolled.engine.data.readers.file_names import format_suffix, printable_name
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.errors import ConfigError, first_line
from unrolled.engine.storage.json_text import parse_value
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION
from unrolled.engine.tokenizers.registry import TOKENIZERS
from unrolled.engine.tokenizers.vocabulary import SPECIALS, UNK

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


def read_vocabulary(path: Path, level: str) -> list[str]:
    r"""Return tokens in the order of their ids.

    A .json file holds a list of tokens, or an object from token to id or from id to token, or one of these inside an
    object. Any other file is text with a token a line; at character level \n, \t, \r and \\ are escapes.

    Raises:
        ConfigError: missing, not UTF-8, or in none of these formats.
    """
    text = _vocabulary_text(path)
    if format_suffix(path) != ".json":
        return _lines(text, level == "char")
    try:
        value = parse_value(text)
    except ValueError as error:
        raise ConfigError(f"vocabulary: {path} is not JSON ({error})") from error
    inside = list(value.values()) if isinstance(value, dict) else []
    found = [tokens for part in (value, *inside) if (tokens := _tokens_of(part)) is not None]
    if not found:
        raise ConfigError(
            f"vocabulary: {path} holds neither a list of tokens nor an object from token to id, with ids 0, 1, 2, …"
        )
    if any(tokens != found[0] for tokens in found[1:]):
        raise ConfigError(f"vocabulary: {path} holds several, and they differ; write a list of tokens alone")
    return found[0]


def _vocabulary_text(path: Path) -> str:
    return Source(str(path), None, f"vocabulary: {printable_name(path)}", ConfigError).read()


def _lines(text: str, escaped: bool) -> list[str]:
    """Return a token a line; not by ``splitlines``, which splits at characters that can be tokens."""
    *ended, last = text.split("\n")
    if all(line.endswith("\r") for line in ended):
        ended = [line[:-1] for line in ended]
    lines = [*ended, last] if last else ended
    return [ESCAPES.get(line, line) for line in lines] if escaped else lines


def _tokens_of(value: Any) -> list[str] | None:
    """Return the tokens of a list, of token to id, or of id to token; None for anything else."""
    if isinstance(value, list):
        return value if value and all(isinstance(token, str) for token in value) else None
    if not isinstance(value, dict) or not value:
        return None
    if all(isinstance(token, str) for token in value.values()):
        if not all(re.fullmatch("[0-9]{1,9}", key) for key in value):
            return None
        value = {token: int(key) for key, token in value.items()}
    if not all(type(index) is int for index in value.values()):
        return None
    if sorted(value.values()) != list(range(len(value))):
        return None
    return sorted(value, key=lambda token: value[token])


def read_merges(path: Path) -> list[list[int]]:
    """Return the merges (pairs of ids) of a .json file with a byte-pair tokeniser as exported files hold it.

    Raises:
        ConfigError: missing, or another kind of file.
    """
    try:
        value = parse_value(_vocabulary_text(path))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"vocabulary: {path} cannot be read as JSON ({first_line(error)})") from error
    merges = value.get("merges") if isinstance(value, dict) else None
    pairs = isinstance(merges, list) and all(isinstance(pair, list) for pair in merges)
    if not isinstance(merges, list) or not pairs:
        raise ConfigError(
            f"vocabulary: {path} has no merges; --level bpe needs a JSON object with vocabulary and merges (pairs of ids) as "
            "docs/formats.md describes it; tokenisers of other libraries cut text into other words, and cannot be taken over"
        )
    return merges


def make_tokenizer(
    tokens: list[str],
    V: int,
    level: str,
    lowercase: bool = False,
    punctuation: bool = False,
    unknown: str | None = None,
    merges: Sequence[Sequence[int]] = (),
    normalize: str = NO_NORMALIZATION,
) -> Tokenizer:
    """Return a tokeniser with the tokens that a model of V tokens was trained with.

    Args:
        unknown: policy for unknown tokens; if left out, words become <unk> if the vocabulary has it, else they are an error.
        merges: merges of byte pairs (level bpe only).
        normalize: the Unicode form of the text that the model was trained on.

    Raises:
        ConfigError: another number of tokens, or tokens of another level.
    """
    check_choice("level", level, TOKENIZERS)
    if len(tokens) != V:
        raise ConfigError(f"vocabulary: {len(tokens)} tokens, and the model has {V}")
    if punctuation and level != "word":
        raise ConfigError("--punctuation goes with --level word")
    if level == "char" and (long := [token for token in tokens if len(token) != 1 and token not in SPECIALS]):
        raise ConfigError(
            f"vocabulary: {long[0]!r} is not a single character; for words say --level word, and for a marker that no "
            "text holds write a character of private use, such as U+E000"
        )
    policy = unknown or ("replace" if level in ("word", "whitespace") and UNK in tokens else "error")
    own: dict[str, dict[str, Any]] = {"word": {"punctuation": punctuation}, "bpe": {"merges": merges}}
    kind, more = TOKENIZERS[level], own.get(level, {})
    return kind(vocabulary=tokens, unknown=policy, lowercase=lowercase, normalize=normalize, **more)
