"""How texts are written."""

from __future__ import annotations

from dataclasses import dataclass

from unrolled.engine.errors import ConfigError
from unrolled.runtime.sampling import SamplingConfig, check_whole


@dataclass(frozen=True)
class GenerationConfig(SamplingConfig):
    """How texts are written; ``SamplingConfig`` says how each token is chosen.

    Args:
        max_new_tokens: the most tokens written behind a prompt.
        stop: texts at which writing ends; the stop text itself is left out.
        num_return_sequences: texts for each prompt.
        batch_size: rows run side by side; does not change what they say.
    """

    max_new_tokens: int = 200
    stop: tuple[str, ...] = ()
    num_return_sequences: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "num_return_sequences", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f"stop: got {self.stop!r}, needs texts that are not empty")
        object.__setattr__(self, "stop", tuple(stop))
