"""Pickling and copying of models, by the arguments from which they were built.

A compiled engine, an onnxruntime session and a TorchScript program cannot be pickled. A model keeps the checkpoint or the
bytes of the file from which it was built, and its pickle consists of these and the function that builds it. So the pickle
is self-contained, as that of a scikit-learn model is: it does not need the file, which a later training may have replaced.
It is as large as the file; if a path names the same file in every process, passing the path is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from unrolled.engine.errors import ConfigError


class Rebuildable:
    """A model that is pickled and copied as the call that builds it, once ``built_by`` has set this call."""

    engine: str
    _origin: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def built_by(self, build: Callable[..., Any], *arguments: Any) -> Self:
        """Set the call that builds an equal model, and return the model."""
        self._origin = build, arguments
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._origin is None:
            raise ConfigError(
                f"model: this one of engine {self.engine} is still trained, or was put together by hand, and cannot be "
                "pickled or copied; save its checkpoint, and load that in the other process"
            )
        return self._origin
