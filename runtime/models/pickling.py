"""Models as values: pickled, copied and sent to other processes by what they were made of.

A compiled engine, a session of onnxruntime and a TorchScript program cannot be pickled. A model keeps the checkpoint or the
bytes of the file that it was made of, and its pickle is these with the function that makes it anew. So the pickle is whole, as
that of a scikit-learn model is: it does not need the file, which a later training may have replaced. It is as large as the
file; where a path means the same file everywhere, passing the path is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from unrolled.engine.errors import ConfigError


class Remade:
    """A model that pickles and copies as a call that makes it anew, once ``made_by`` has told which."""

    engine: str
    _origin: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def made_by(self, make: Callable[..., Any], *arguments: Any) -> Self:
        """Keep the call that makes an equal model; returns the model."""
        self._origin = make, arguments
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._origin is None:
            raise ConfigError(
                f"model: this one of engine {self.engine} is still trained, or was put together by hand, and cannot be "
                "pickled or copied; save its checkpoint, and load that in the other process"
            )
        return self._origin
