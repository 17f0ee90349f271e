"""Weights trained elsewhere: a ``state_dict`` in a .safetensors file, or saved by torch.

Files are data: nothing of them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from unrolled.engine.errors import ConfigError, ModelFileError, SettingName, first_line

# By the dtype in .safetensors: its usual name, and the layout that NumPy reads; NumPy has no bfloat16.
SAFETENSORS_FLOATS = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
}
TORCH_FLOATS = tuple(dtype for dtype, _ in SAFETENSORS_FLOATS.values())
# Files of other frameworks, by their first bytes.
FOREIGN_MAGIC = {
    b"\x89HDF\r\n": "an HDF5 file (of Keras, for instance)",
    b"\x1f\x8b": "compressed by gzip: decompress it first",
    b"GGUF": "a GGUF file",
}


def bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return float32 values of bfloat16 bits, which are the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class StoredWeights(NamedTuple):
    """Arrays by name, and the dtype of each in the file; arrays without floats are stand-ins of the right shape."""

    arrays: dict[str, NDArray]
    dtypes: dict[str, str]
    notes: list[str]  # their place in the file, and what else the file holds


def _stand_in(shape: Sequence[int]) -> NDArray:
    """Return integers of any shape that take no memory."""
    return np.broadcast_to(np.zeros((), np.int64), shape)


def _read_safetensors(path: Path) -> StoredWeights:
    try:
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({first_line(error)})") from error
    stored = StoredWeights({}, {}, [])
    for name, tensor in tensors:
        kind, data, shape = tensor["dtype"], tensor["data"], tensor["shape"]
        dtype, layout = SAFETENSORS_FLOATS.get(kind, (kind, ""))
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
    """Return whether a file starts as .safetensors does: the header's length, and a JSON object of that length."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def read_weights(path: Path, state_dict_key: str | None = None) -> StoredWeights:
    """Return the arrays of a ``state_dict`` by name; float16, float32 and float64 unchanged, bfloat16 as float32.

    The content of a file decides its format, so the name can have any ending.

    Args:
        path: a .safetensors file, or one that ``torch.save`` wrote.
        state_dict_key: the name of one of several in a file of torch's, as the message that asks for it lists them.

    Raises:
        ModelFileError: missing, damaged, of another kind, or holding more than weights.
        ConfigError: a file with several models and no ``state_dict_key``, or a key that the file does not need.
        MissingDependencyError: a file of torch's while torch is not installed.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.suffix.lower() == ".safetensors" or _is_safetensors(path):
        if state_dict_key is not None:
            raise ConfigError(SettingName("state_dict_key"), f": {path} is a .safetensors file, which holds one")
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(8)
    for magic, kind in FOREIGN_MAGIC.items():
        if start.startswith(magic):
            raise ModelFileError(f"{path}: is {kind}; needed is a state_dict, saved by torch or as .safetensors")
    return _read_torch(path, state_dict_key)
