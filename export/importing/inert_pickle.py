"""A pickle reader that imports and runs nothing: it replaces every class and function of a file by an empty stand-in.

``torch.load`` takes ``InertPickle`` as its ``pickle_module``. Training frameworks save objects of their own beside the
weights (hyper-parameters, paths, NumPy scalars), and torch's reader of plain weights then refuses the weights too. Here
those objects become stand-ins, so that the tensors can be read. No call is ever made, whatever its name; a file that asks
for a call into the standard library is refused all the same, because it is a program and not a checkpoint of a training.
"""

from __future__ import annotations

import pickle
import struct
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import IO, Any, ClassVar

# Modules and names of the standard library whose objects are plain data.
_DATA_MODULES = {"_codecs", "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools",
                 "pathlib", "typing", "uuid"}  # fmt: skip
_DATA_NAMES = {"types.SimpleNamespace", *(f"builtins.{name}" for name in (
    "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set", "slice", "str", "tuple"
))}  # fmt: skip
# Functions of torch._utils that make tensors of storages, and check offsets, sizes and strides against them.
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")


class CallRefused(Exception):
    """A file asks for a call of a function of the standard library; the argument is its name."""


class _Inert(type):
    """The type of a file's classes: a call returns an empty object, whatever its arguments."""

    full_name = ""

    def __call__(cls, *arguments: object, **named: object) -> Any:
        module = cls.full_name.partition(".")[0]
        if module in sys.stdlib_module_names and module not in _DATA_MODULES and cls.full_name not in _DATA_NAMES:
            raise CallRefused(cls.full_name)
        return super().__call__()


class StandIn(metaclass=_Inert):
    """An object of a file, without its content."""

    def __new__(cls, *arguments: object, **named: object) -> Any:
        return object.__new__(cls)

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    extend = add = append


def _new_dict(*arguments: object) -> dict[object, object]:
    """Stand for ``defaultdict``, whose first argument is a function."""
    return {}


def _known(module: str, name: str) -> Any:
    """Return a class or function that tensors and their containers are made of; None for anything else."""
    if module == "collections":
        return {"OrderedDict": OrderedDict, "defaultdict": _new_dict}.get(name)
    if module.partition(".")[0] != "torch":
        return None
    import torch

    if module == "torch._utils" and name in _REBUILD:
        return vars(torch._utils)[name]
    if module == "torch":
        value = vars(torch).get(name)  # attribute access could import modules
        storage = isinstance(value, type) and issubclass(value, torch.TypedStorage)
        return value if storage or isinstance(value, torch.dtype) or name in ("Size", "device") else None
    return None


# The unpickler in C would allocate as many memo entries as a file declares, up to 32 GB; this is the one in Python.
class InertUnpickler(pickle._Unpickler):
    """Read a pickle with stand-ins for all classes and functions except those of plain tensors."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Ignore the state of an object: it could set attributes of anything that has a name, functions included."""
        self.stack.pop()  # type: ignore[attr-defined]

    def load_bytearray8(self) -> None:
        """Read before allocating; the inherited method allocates as many bytes as a file declares."""
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(min(size, sys.maxsize))))  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]], dispatch[pickle.BYTEARRAY8[0]] = load_build, load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        if self.proto < 3:  # type: ignore[attr-defined] # these have the names of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        known = _known(module, name)
        if known is not None:
            return known
        return _Inert(name.rpartition(".")[2], (StandIn,), {"full_name": f"{module}.{name}"})


class InertPickle:
    """The part of module ``pickle`` that ``torch.load`` uses."""

    Unpickler = InertUnpickler

    @staticmethod
    def load(file: IO[bytes], **settings: Any) -> Any:
        """Read one pickle."""
        return InertUnpickler(file, **settings).load()
