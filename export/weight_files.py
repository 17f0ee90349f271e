"""Weights and vocabularies from elsewhere: a ``state_dict`` as .safetensors or saved by torch, tokens as JSON or text.

Files are data: nothing of them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError, first_line
from unrolled.engine.jsontext import parse_value
from unrolled.engine.text import LEVELS, SPECIALS, UNK, Tokenizer
from unrolled.export.archive import check_archive

# of safetensors: the dtype, and how NumPy reads it, which has no bfloat16
FLOATS = {"F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2")}
TORCH_FLOATS = tuple(dtype for dtype, _ in FLOATS.values())
# where a training's checkpoint keeps its weights
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params")
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
SPREAD = 4  # times the file's size: tied weights are stored once and named twice


def bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class StoredWeights(NamedTuple):
    """Arrays by name, and the dtype of each in the file; those that are no floats are stand-ins of the right shape."""

    arrays: dict[str, NDArray]
    dtypes: dict[str, str]


def _stand_in(shape: Sequence[int]) -> NDArray:
    """Of any size, without memory."""
    return np.broadcast_to(np.zeros((), np.int64), shape)


def _read_safetensors(path: Path) -> StoredWeights:
    try:
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({first_line(error)})") from error
    stored = StoredWeights({}, {})
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


def _load_torch(path: Path) -> Any:
    """What torch's own reader of plain weights makes of a file; it runs no code, and says what it would have to run."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f'{path}: reading weights saved by torch needs torch: pip install "unrolled[torch]"; '
            "or save them as .safetensors"
        ) from error
    if zipfile.is_zipfile(path):
        names = check_archive(path, "a file of torch's")
        if any(name.endswith("/constants.pkl") for name in names):
            raise ModelFileError(
                f"{path}: is a TorchScript file, which is a program; save the module's state_dict() instead"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the ways in which older releases of torch wrote files
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        needs = re.findall(r"(?:GLOBAL|global|Unsupported class|type) ([\w.]+\.\w+)", str(error))
        if needs:
            raise ModelFileError(
                f"{path}: holds more than weights ({needs[0]}), and reading that would run code of the file; "
                "save the module's state_dict() alone, best as .safetensors"
            ) from error
        raise ModelFileError(f"{path}: not weights saved by torch, or damaged ({first_line(error)})") from error


def _state_dict(values: Any, path: Path) -> dict[str, Any]:
    """The tensors by name, at the top or one level down, where a training keeps them."""
    import torch

    if isinstance(values, Mapping):
        for name in (None, *NESTED):
            part = values if name is None else values.get(name)
            if isinstance(part, Mapping):
                found = {key: value for key, value in part.items() if isinstance(value, torch.Tensor)}
                if found and all(isinstance(key, str) for key in found):
                    return found
    raise ModelFileError(
        f"{path}: holds no tensors by name, neither at the top nor under {', '.join(NESTED)}; "
        "save the module's state_dict()"
    )


def _read_torch(path: Path) -> StoredWeights:
    tensors = _state_dict(_load_torch(path), path)
    import torch

    # a view with strides of 0 is of any shape and takes no place in the file
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > SPREAD * path.stat().st_size:
        raise ModelFileError(f"{path}: declares {total:,} bytes of weights, the file has {path.stat().st_size:,}")
    stored = StoredWeights({}, {})
    for name, tensor in tensors.items():
        dense = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        stored.dtypes[name] = str(tensor.dtype).removeprefix("torch.") if dense else f"{tensor.dtype}, {tensor.layout}"
        if dense and stored.dtypes[name] in TORCH_FLOATS:
            plain = tensor.detach().to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor.detach()
            stored.arrays[name] = plain.contiguous().numpy()
        else:
            stored.arrays[name] = _stand_in(tensor.shape)
    return stored


READERS = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch}


def read_weights(path: Path) -> StoredWeights:
    """The arrays of a ``state_dict`` by name; float16, float32 and float64 as they are, bfloat16 as float32.

    Raises:
        ModelFileError: missing, damaged, of another kind, or holding more than weights.
        MissingDependencyError: a file of torch's, and torch is not installed.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.suffix.lower() not in READERS:
        raise ModelFileError(f"{path}: the ending {path.suffix!r} is of no weights; known are {', '.join(READERS)}")
    return READERS[path.suffix.lower()](path)


def read_vocabulary(path: Path, level: str) -> list[str]:
    r"""Tokens in the order of their ids.

    A .json file holds a list of tokens, or an object from token to id or from id to token, or one of these inside an
    object. Any other file is text with a token a line; at character level \n, \t, \r and \\ stand for what they mean.

    Raises:
        ConfigError: missing, not UTF-8, or none of these.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"vocabulary: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"vocabulary: {path} is not UTF-8 ({error})") from error
    if path.suffix.lower() != ".json":
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
        value = parse_value(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
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
    check_choice("level", level, LEVELS)
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
    return LEVELS[level](vocabulary=tokens, unknown=policy, lowercase=lowercase, **own[level])
