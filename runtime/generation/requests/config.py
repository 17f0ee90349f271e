"""The settings of generation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any

from unrolled.engine.checks import check_whole
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.settings import DECODING_PANEL, SEVERAL_TEXTS, Setting

_RULES = tuple(field.name for field in fields(SamplingConfig))


@lru_cache(maxsize=1024)
def _one_object(values: tuple[Any, ...]) -> SamplingConfig:
    """Return the same object for equal settings, so that rows that share them are found by identity."""
    return SamplingConfig(**dict(zip(_RULES, values, strict=True)))


@dataclass(frozen=True)
class GenerationConfig(SamplingConfig):
    """Settings that write texts; those of ``SamplingConfig`` choose each token.

    Args:
        max_new_tokens: the most tokens written after a prompt.
        stop: texts at which writing ends; the stop text itself is left out.
        num_return_sequences: texts for each prompt.
        batch_size: rows run side by side; does not change their texts.
        logprobs: also return the log-probability of each token under the model itself.
    """

    max_new_tokens: Annotated[int, Setting("max_new_tokens", "The most tokens written behind a prompt.")] = 200
    stop: Annotated[
        tuple[str, ...],
        Setting("stop", "Text at which writing ends; may be repeated.", DECODING_PANEL, typed=SEVERAL_TEXTS),
    ] = ()
    num_return_sequences: Annotated[int, Setting("number", "Texts for each prompt.", flags=("-n", "--number"))] = 1
    batch_size: int = 256
    logprobs: Annotated[
        bool,
        Setting(
            "logprobs",
            "With --json or --input: how probable the model found each token.",
            DECODING_PANEL,
            flags=("--logprobs",),
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "num_return_sequences", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(SettingName("stop"), f": got {self.stop!r}, needs texts that are not empty")
        object.__setattr__(self, "stop", tuple(stop))
        if not isinstance(self.logprobs, bool):
            raise ConfigError(SettingName("logprobs"), f": got {self.logprobs!r}, needs true or false")
        self._check_lengths()

    def _check_lengths(self) -> None:
        """Check that the required tokens fit into ``max_new_tokens`` and no stop text cuts the forced prefix."""
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                SettingName("min_new_tokens"),
                f": got {self.min_new_tokens}, needs at most ",
                SettingName("max_new_tokens"),
                f" ({self.max_new_tokens})",
            )
        prefix = self.forced_prefix
        if not isinstance(prefix, str):
            if len(prefix) > self.max_new_tokens:
                raise ConfigError(
                    SettingName("forced_prefix"),
                    f": has {len(prefix)} tokens, needs at most ",
                    SettingName("max_new_tokens"),
                    f" ({self.max_new_tokens})",
                )
        elif cuts := [text for text in self.stop if text in prefix]:
            raise ConfigError(
                SettingName("forced_prefix"),
                f": {prefix!r} holds the stop text {cuts[0]!r}; writing would end inside it",
            )

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Return the names of the settings in use beyond ``PLAIN``."""
        return super().extras + (("logprobs",) if self.logprobs else ())

    @cached_property
    def rules(self) -> SamplingConfig:
        """Return the settings that choose tokens, without those that end texts; the same object for equal settings.

        Temperature 0 becomes ``do_sample`` False, which every engine and graph accepts.
        """
        chosen = self if self.temperature > 0 else replace(self, do_sample=False, temperature=1.0)
        return _one_object(tuple(getattr(chosen, name) for name in _RULES))
