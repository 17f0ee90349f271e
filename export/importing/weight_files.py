"""Weights and vocabularies from elsewhere: a ``state_dict`` as .safetensors or saved by torch, tokens as JSON or text.

Files are data: nothing of them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from unrolled.engine.checks import check_choice
from unrolled.engine.data.readers.file_names import format_suffix, printable_name
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.errors import ConfigError, ModelFileError, first_line
from unrolled.engine.storage.json_text import parse_value
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import TOKENIZERS
from unrolled.engine.tokenizers.vocabulary import SPECIALS, UNK

# of safetensors: the dtype, and how NumPy reads it, which has no bfloat16
FLOATS = {"F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2")}
TORCH_FLOATS = tuple(dtype for dtype, _ in FLOATS.values())
# files of other frameworks, by their first bytes
FOREIGN = {
    b"\x89HDF\r\n": "an HDF5 file (of Keras, for instance)",
    b"\x1f\x8b": "compressed by gzip: decompress it first",
    b"GGUF": "a GGUF file",
}
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


def bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class StoredWeights(NamedTuple):
    """Arrays by name, and the dtype of each in the file; those that are no floats are stand-ins of the right shape."""

    arrays: dict[str, NDArray]
    dtypes: dict[str, str]
    notes: list[str]  # where in the file they are, and what is beside them


def _stand_in(shape: Sequence[int]) -> NDArray:
    """Of any size, without memory."""
    return np.broadcast_to(np.zeros((), np.int64), shape)


def _read_safetensors(path: Path) -> StoredWeights:
    try:
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({first_line(error)})") from error
    stored = StoredWeights({}, {}, [])
    for name, tensor in tensors:
        kind, data, shape = tensor["dtype"], tensor["data"], tensor["shape"]
        dtype, layout = FLOATS.get(kind, (kind, ""))
        if layout:
            value: NDArray = np.frombuffer(data, layout)
            stored.arrays[name] = (bfloat16(value) if kind == "BF16" else value).reshape(shape)
        else:
            stored.arrays[name] = _stand_in(shape)
        stored.dtypes[name] = dtype
    return stored


def _read_torch(path: Path, state_dict_key: str | None = None) -> StoredWeights:
    from unrolled.export.importing.torch_files import read_state_dict

    found = read_state_dict(path, state_dict_key)
    import torch

    stored = StoredWeights({}, {}, [])
    for name, tensor in found.tensors.items():
        dense = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        stored.dtypes[name] = str(tensor.dtype).removeprefix("torch.") if dense else f"{tensor.dtype}, {tensor.layout}"
        if dense and stored.dtypes[name] in TORCH_FLOATS:
            plain = tensor.detach().to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor.detach()
            stored.arrays[name] = plain.contiguous().numpy()
        else:
            stored.arrays[name] = _stand_in(tensor.shape)
    if found.key:
        stored.notes.append(f"read are the tensors under {found.key}")
    if found.beside:
        more = f" and {len(found.beside) - 8} more" if len(found.beside) > 8 else ""
        stored.notes.append(f"left out beside them: {', '.join(found.beside[:8])}{more}")
    return stored


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as .safetensors does: the header's length, and a JSON object of that length."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def read_weights(path: Path, state_dict_key: str | None = None) -> StoredWeights:
    """Return the arrays of a ``state_dict`` by name; float16, float32 and float64 as they are, bfloat16 as float32.

    The content of a file decides what it is, so that it can have any ending.

    Args:
        path: a .safetensors file, or one that ``torch.save`` wrote.
        state_dict_key: which of several in a file of torch's, as the message that asks for it lists them.

    Raises:
        ModelFileError: missing, damaged, of another kind, or holding more than weights.
        ConfigError: a file with several models of which none is named, or ``state_dict_key`` without need.
        MissingDependencyError: a file of torch's, and torch is not installed.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.suffix.lower() == ".safetensors" or _is_safetensors(path):
        if state_dict_key is not None:
            raise ConfigError(f"state_dict_key: {path} is a .safetensors file, which holds one")
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(8)
    for magic, kind in FOREIGN.items():
        if start.startswith(magic):
            raise ModelFileError(f"{path}: is {kind}; needed is a state_dict, saved by torch or as .safetensors")
    return _read_torch(path, state_dict_key)


def read_vocabulary(path: Path, level: str) -> list[str]:
    r"""Tokens in the order of their ids.

    A .json file holds a list of tokens, or an object from token to id or from id to token, or one of these inside an
    object. Any other file is text with a token a line; at character level \n, \t, \r and \\ stand for what they mean.

    Raises:
        ConfigError: missing, not UTF-8, or none of these.
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
    """A token a line; not ``splitlines``, because what else ends a line can be a token."""
    *ended, last = text.split("\n")
    if all(line.endswith("\r") for line in ended):
        ended = [line[:-1] for line in ended]
    lines = [*ended, last] if last else ended
    return [ESCAPES.get(line, line) for line in lines] if escaped else lines


def _tokens_of(value: Any) -> list[str] | None:
    """The tokens of a list, of token to id, or of id to token; None for anything else."""
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
    """Pairs of ids that join, of a .json file that holds a tokeniser of byte pairs as exported files do.

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
            "export/README.md describes it; tokenisers of other libraries cut text into other words, and cannot be taken over"
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
) -> Tokenizer:
    """A tokeniser of the tokens that a model of V tokens was trained with.

    ``unknown`` left out: words become <unk> where the vocabulary has it; anything else is an error. ``merges`` are those of
    byte pairs.

    Raises:
        ConfigError: another number of tokens, or tokens that are none of that level.
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
    policy = unknown or ("replace" if level == "word" and UNK in tokens else "error")
    own: dict[str, dict[str, Any]] = {"char": {}, "word": {"punctuation": punctuation}, "bpe": {"merges": merges}}
    return TOKENIZERS[level](vocabulary=tokens, unknown=policy, lowercase=lowercase, **own[level])
