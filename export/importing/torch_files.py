"""Files saved by torch, read as data: the tensors of a ``state_dict``, wherever a training put it."""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError, SettingName, first_line
from unrolled.export.importing.inert_pickle import CallRefused, InertPickle, StandIn
from unrolled.export.torch.archive import check_archive

RECURRENT = re.compile(r"(^|\.)(weight|bias)_(ih|hh)(_|\.|$)")
MAX_DEPTH = 6  # of nested dictionaries
MAX_PLACES = 100_000  # of dictionaries with tensors: an optimiser has one for each parameter
MAX_SHARING = 4  # declared bytes by stored bytes: tied weights are stored once and named twice
SAVE_ADVICE = "save the module's state_dict() alone, best as .safetensors"


KeyPath = tuple[str, ...]  # keys from the outermost dictionary to an inner one


class StateDict(NamedTuple):
    """The tensors of a ``state_dict`` by name, the keys that lead to it, and the keys next to it."""

    tensors: dict[str, Any]
    key: str
    beside: list[str]


def read_state_dict(path: Path, key: str | None = None) -> StateDict:
    """Read the ``state_dict`` with recurrent layers of a file saved by torch.

    Args:
        path: a zip archive, a pickle or a tar archive, as releases of torch have written.
        key: the name of one of several, as the message that asks for it lists them.

    Raises:
        ModelFileError: damaged, a program, without tensors by name, or with objects that only a call could read.
        ConfigError: several with different weights and no ``key``, or a ``key`` that none of them has.
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch  # noqa: F401 - fails here, where the file is known
    except ImportError as error:
        raise MissingDependencyError(
            f'{path}: reading weights saved by torch needs torch: pip install "unrolled[torch]"; '
            "or save them as .safetensors"
        ) from error
    values = _load(path)
    if isinstance(values, StandIn):
        raise ModelFileError(_more_than_weights(path, type(values).full_name))
    every = _tensor_dicts(path, values, (), {})
    if not every:
        raise ModelFileError(
            f"{path}: holds no tensors by name, neither at the top nor in dictionaries there; save the module's state_dict()"
        )
    found = {where: part for where, part in every.items() if any(map(_is_recurrent, part.items()))}
    if not found:  # the message about what is missing names the tensors of the largest
        found = dict(sorted(every.items(), key=lambda item: -len(item[1]))[:1])
    for part in found.values():
        _check_size(path, part)
    chosen = _choose(path, found, key)
    where, tensors = _join_modules(values, chosen, found[chosen])
    return StateDict(tensors, ".".join(where), _unread_keys(values, where))


def _check_size(path: Path, tensors: Mapping[str, Any]) -> None:
    """Refuse views with strides of 0, which have any shape and need no space in the file."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > MAX_SHARING * path.stat().st_size:
        raise ModelFileError(f"{path}: declares {total:,} bytes of weights, the file has {path.stat().st_size:,}")


def _more_than_weights(path: Path, name: str) -> str:
    return f"{path}: holds more than weights ({name}), and reading that would run code of the file; {SAVE_ADVICE}"


def _load(path: Path) -> Any:
    """Read with torch's reader of plain weights; if there are other objects, read again with stand-ins for them."""
    import torch

    if zipfile.is_zipfile(path):
        names = check_archive(path, "a file of torch's")
        if any(name.endswith("/constants.pkl") for name in names):
            raise ModelFileError(
                f"{path}: is a TorchScript file, which is a program; save the module's state_dict() instead"
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise ModelFileError(f"{path}: a zip archive, but not one of torch's (there are {', '.join(names[:4])})")
    plain = not _is_tar(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of older releases of torch
            if plain:
                try:
                    return torch.load(path, map_location="cpu", weights_only=True)
                except pickle.UnpicklingError:
                    pass  # other objects beside the weights, or a newer pickle protocol
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=InertPickle)
    except CallRefused as error:
        raise ModelFileError(_more_than_weights(path, str(error))) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelFileError(f"{path}: not weights saved by torch, or damaged ({_reason(error)})") from error


def _is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive of complete regular files, as torch wrote before 0.2.

    Raises:
        ModelFileError: another tar archive.
    """
    if not tarfile.is_tarfile(path):
        return False
    try:
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ModelFileError(f"{path}: a damaged tar archive ({first_line(error)})") from error
    regular = all(member.isreg() and not member.issparse() for member in members)
    if not regular or not {"storages", "tensors", "pickle"} <= {member.name for member in members}:
        raise ModelFileError(
            f"{path}: a tar archive, but not one of torch's; unpack it and name the file with the weights"
        )
    return True


def _is_recurrent(item: tuple[str, Any]) -> bool:
    return RECURRENT.search(item[0]) is not None and item[1].ndim >= 1


def _name(key: object) -> str:
    """Return a key as text; long numbers and tuples, which can be of any size, only by their type."""
    if isinstance(key, str):
        return key
    return str(key) if isinstance(key, int) and key.bit_length() < 64 else f"<{type(key).__name__}>"


def _children(values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        # Not values.items(): a file can give an OrderedDict attributes of any name.
        yield from ((_name(key), value) for key, value in dict.items(values))
    elif isinstance(values, list | tuple):
        yield from ((str(place), value) for place, value in enumerate(values))


def _tensors_in(values: Any) -> dict[str, Any]:
    """Return the tensors directly in a dictionary with text keys, without attributes that a file gave them."""
    import torch

    if not isinstance(values, dict):
        return {}
    return {
        key: torch.Tensor.detach(value)
        for key, value in dict.items(values)
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }


def _tensor_dicts(path: Path, values: Any, where: KeyPath, empty_at: dict[int, int]) -> dict[KeyPath, dict[str, Any]]:
    """Return the dictionaries with tensors by the keys that lead to each, the outer ones first.

    Args:
        empty_at: by object, the depth at which no tensor was found in it. Without it a few lists, each many times in the
            next, would be searched in millions of places.
    """
    if empty_at.get(id(values), MAX_DEPTH + 1) <= len(where):
        return {}
    tensors = _tensors_in(values)
    found = {where: tensors} if tensors else {}
    if len(where) < MAX_DEPTH:
        for name, value in _children(values):
            if isinstance(value, dict | list | tuple):
                found |= _tensor_dicts(path, value, (*where, name), empty_at)
            if len(found) > MAX_PLACES:
                raise ModelFileError(f"{path}: holds tensors in more than {MAX_PLACES:,} places; {SAVE_ADVICE}")
    if not found:
        empty_at[id(values)] = len(where)
    return found


def _choose(path: Path, found: Mapping[KeyPath, dict[str, Any]], key: str | None) -> KeyPath:
    """Return the place that ``key`` names, or the only one; several with equal tensors count as one."""
    named = {".".join(where) or ".": where for where in found}  # ".": the outermost dictionary
    places = ", ".join(list(named)[:8])
    if key is not None:
        if key not in named:
            raise ConfigError(SettingName("state_dict_key"), f": got {key!r}, but weights of {path} are under {places}")
        return named[key]
    first, *others = found
    if not all(_equal(found[first], found[other]) for other in others):
        raise ConfigError(SettingName("state_dict_key"), f": {path} holds several models, under {places}; name one")
    return first


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    import torch

    def same(a: Any, b: Any) -> bool:
        return a.layout == b.layout == torch.strided and a.dtype == b.dtype and torch.equal(a, b)

    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def _join_modules(values: Any, where: KeyPath, tensors: dict[str, Any]) -> tuple[KeyPath, dict[str, Any]]:
    """Join dictionaries of single modules, ``{"embedding": …, "lstm": …, "fc": …}``, to one ``state_dict``."""
    if not where or any("." in name for name in tensors):
        return where, tensors
    outer = values
    for name in where[:-1]:
        outer = dict(_children(outer))[name]
    modules = {name: _tensors_in(part) for name, part in _children(outer) if _tensors_in(part)}
    whole = {name: part for name, part in modules.items() if len(part) == len(dict(_children(outer))[name])}
    joined = {f"{name}.{inner}": value for name, part in whole.items() for inner, value in part.items()}
    return where[:-1], joined


def _unread_keys(values: Any, where: KeyPath) -> list[str]:
    """Return the outermost keys whose content is not read."""
    if where:
        return [name for name, _ in _children(values) if name != where[0]]
    read = _tensors_in(values)
    return [name for name, value in _children(values) if name not in read and not _tensors_in(value)]


def _reason(error: Exception) -> str:
    """Return why a pickle cannot be read; for an unknown instruction Python's unpickler raises only its number."""
    if isinstance(error, KeyError) and isinstance(error.args[0], int):
        return f"byte {error.args[0]:#04x} is no instruction of a pickle"
    return first_line(error)
