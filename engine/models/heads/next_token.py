"""The head of a language model: the next token at every time step, by a softmax over the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from unrolled.engine.checks import check_whole
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.heads.head import Metric
from unrolled.engine.models.heads.softmax import WEIGHT, SoftmaxHead, numbers_of, step_metrics
from unrolled.engine.models.inputs.batch import TOKENS
from unrolled.engine.models.inputs.input import Input
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.settings import MODEL_PANEL, Setting, check_settings

TIE = Setting("tie", "Use the embedding as output weights; needs embed = hidden.", MODEL_PANEL, search="false,true")


@dataclass(frozen=True)
class TokenMetrics:
    """Means over ``tokens`` predictions."""

    loss: float  # nats a token
    accuracy: float  # share of targets that were the most probable token
    tokens: int

    @property
    def count(self) -> int:
        """Return the number of predictions."""
        return self.tokens

    @property
    def perplexity(self) -> float:
        """Return e^loss; infinity where it overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_token(self) -> float:
        """Return the loss in bits."""
        return self.loss / math.log(2)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "loss": self.loss, "accuracy": self.accuracy, "tokens": self.tokens, "perplexity": self.perplexity,
            "bits_per_token": self.bits_per_token,
        }  # fmt: skip


@dataclass(frozen=True)
class NextTokenHead(SoftmaxHead):
    """Predicts the token that follows each token of the input "tokens".

    Args:
        vocab_size: V, the size of that input.
        tie_weights: whether the output layer uses the embedding's matrix; needs E = H.
    """

    vocab_size: int
    tie_weights: Annotated[bool, TIE] = False

    kind: ClassVar[str] = "next_token"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("loss", False, "loss", unit="nats a token", axis="cross-entropy, nats a token"),
        Metric("perplexity", False, "perplexity", ".2f", derived=True),
        Metric("bits_per_token", False, "bits", ".3f", "bits a token", derived=True, detail=True),
        Metric("accuracy", True, "accuracy", ".1%"),
    )
    counts: ClassVar[str] = "tokens"
    whose: ClassVar[str] = "the vocabulary's"

    def __post_init__(self) -> None:
        check_whole("vocab_size", self.vocab_size, 2)
        check_settings(self)

    @property
    def num_classes(self) -> int:
        """Return V."""
        return self.vocab_size

    @property
    def weight_name(self) -> str:
        """Return the name of the output layer's (V, H) matrix, which is the embedding's if the weights are tied."""
        return "embedding.weight" if self.tie_weights else WEIGHT

    def check(self, core: CoreConfig, inputs: Sequence[Input]) -> None:
        """Check that the core has one direction, and that there is an input "tokens" of the same vocabulary."""
        if core.bidirectional:
            raise ConfigError(
                SettingName("bidirectional"),
                ": the head next_token predicts the token that follows, which the second direction reads; needs one direction",
            )
        tokens = next((column for column in inputs if column.name == TOKENS), None)
        sizes = {} if tokens is None else tokens.parameter_shapes()
        if sizes.get("embedding.weight", (0,))[0] != self.vocab_size:
            raise ConfigError(f"head: next_token needs an input tokens of {self.vocab_size} ids")
        if self.tie_weights and sizes["embedding.weight"][1] != core.hidden_size:
            raise ConfigError(
                SettingName("tie_weights"), " needs ", SettingName("embedding_size"), " = ", SettingName("hidden_size"),
                f", got {sizes['embedding.weight'][1]} and {core.hidden_size}",
            )  # fmt: skip

    def capabilities(self, core: CoreConfig, inputs: Sequence[Input]) -> frozenset[str]:
        """Return "step" and "run", and "generate" if tokens are all that the model reads."""
        return frozenset(
            {"step", "run", "generate"} if [column.kind for column in inputs] == [TOKENS] else {"step", "run"}
        )

    def metrics_of(self, sums: LossSums) -> TokenMetrics:
        """Return loss, accuracy and tokens of an evaluation."""
        means = step_metrics(sums)
        return TokenMetrics(means.loss, means.accuracy, means.count)

    def metrics_from_dict(self, values: Mapping[str, Any]) -> TokenMetrics:
        """Return the metrics that ``to_dict`` wrote."""
        return TokenMetrics(*numbers_of(values, self.counts))
