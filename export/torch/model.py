"""The program of a language model: ``nn.Embedding``, ``nn.RNN``/``nn.GRU``/``nn.LSTM``, ``nn.Linear``, and drawing of tokens.

``TorchNetwork`` is the twin of any model in training; this module is what TorchScript compiles for hosts.
"""

# TorchScript evaluates the annotations of this module: no ``from __future__ import annotations`` here.
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, check_params
from unrolled.export.torch.cells import TORCH_CELLS
from unrolled.export.torch.network import load_params


class TorchLM(nn.Module):
    """A language model with one state array (S, L, B, H), S = 1; the subclass for the LSTM has S = 2.

    ``forward(tokens (T, B), state) -> (logits (T, B, V), state)``. The module has no dropout.
    """

    vocab_size: Final[int]  # evaluated: TorchScript reads it

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        sizes = config.embedding_size, config.hidden_size, config.num_layers
        make_layers = TORCH_CELLS[config.cell].module
        if make_layers is None:
            raise ConfigError(
                f"cell: {config.cell} has no module in torch, which the program of a language model needs"
            )
        self.rnn: nn.RNNBase = make_layers(*sizes)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        if config.tie_weights:
            self.output.weight = self.embedding.weight

    def run_layers(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(x, state[0])
        return y, h.unsqueeze(0)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, state = self.run_layers(self.embedding(tokens), state)
        return self.output(h), state

    @torch.jit.export
    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, V) and state after one token a row (B,)."""
        logits, state = self.forward(tokens.unsqueeze(0), state)
        return logits[0], state

    @torch.jit.export
    def choose(self, logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """Return tokens (B,) drawn from logits (B, V) at uniforms ``u`` (B,), by the rules of ``unrolled.engine.sampling``.

        ``top_k`` 0 and ``top_p`` 1 are off. ``top_k`` 1 or ``temperature`` 0 is greedy: the lowest index among the maxima.
        """
        if temperature == 0.0:
            temperature, top_k = 1.0, 1
        scores = logits.to(torch.float64) / temperature
        if top_k > 0 or top_p < 1.0:
            ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
            keep = torch.ones_like(order, dtype=torch.bool)
            if top_k > 0:
                keep[:, top_k:] = False
            if top_p < 1.0:
                p = torch.exp(ordered - ordered[:, :1]) * keep
                before = F.pad(torch.cumsum(p, dim=-1)[:, :-1], [1, 0])  # sum over the more probable tokens
                keep = keep & (before < top_p * p.sum(dim=-1, keepdim=True))
                keep[:, 0] = True
            scores = scores.masked_fill(torch.zeros_like(keep).scatter(1, order, ~keep), -float("inf"))
        p = torch.exp(scores - scores.max(dim=-1, keepdim=True)[0])
        cdf = torch.cumsum(p, dim=-1)
        index = (cdf <= u.to(torch.float64).unsqueeze(1) * cdf[:, -1:]).sum(dim=-1)
        last = (torch.arange(self.vocab_size) * (p > 0)).max(dim=-1)[0]  # if u · total rounds up to the total
        return torch.minimum(index, last)

    @torch.jit.export
    def generate(
        self,
        prompt: Tensor,
        lengths: Tensor,
        state: Tensor,
        uniforms: Tensor,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        end_token: int = -1,
    ) -> tuple[Tensor, Tensor]:
        """Read prompts of different lengths and write a token for each of ``uniforms``.

        Args:
            prompt: (T, B) int64, row b valid for its first ``lengths[b]`` steps.
            lengths: (B,) int64, each from 1 to T.
            state: (S, L, B, H); zeros to start.
            uniforms: (N, B) in [0, 1), one a draw; with ``top_k`` 1, which is greedy, their values do not matter.
            end_token: a row that wrote it repeats it, and writing stops when every row has; -1: none.

        Returns:
            Tokens (n, B), n ≤ N, and the state after the last token read; the last token written is not read.
        """
        shortest = int(lengths.min())
        scores, state = self.forward(prompt[:shortest], state)
        logits = scores[-1]
        for t in range(shortest, prompt.size(0)):
            stepped, moved = self.step(prompt[t], state)
            reads = t < lengths  # (B,)
            logits = torch.where(reads.unsqueeze(1), stepped, logits)
            state = torch.where(reads.unsqueeze(1), moved, state)
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        tokens: list[Tensor] = []
        for n in range(uniforms.size(0)):
            if n > 0:
                logits, state = self.step(tokens[-1], state)
            token = self.choose(logits, uniforms[n], temperature, top_k, top_p)
            token = torch.where(ended, torch.full_like(token, end_token), token)
            tokens.append(token)
            ended = ended | (token == end_token)
            if bool(ended.all()):
                break
        if len(tokens) == 0:
            return prompt[:0], state
        return torch.stack(tokens), state


class TorchLSTM(TorchLM):
    """A TorchLM whose state is h and c."""

    def run_layers(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, c) = self.rnn(x, (state[0], state[1]))
        return y, torch.stack([h, c])


def make_torch_model(config: LanguageModelConfig, params: Params) -> TorchLM:
    """Return a TorchLM with the given parameters, in their dtype."""
    check_params(config.spec, params)
    model = (TorchLSTM if config.cell_definition.states == 2 else TorchLM)(config)
    model.to(torch.from_numpy(params["output.bias"]).dtype)
    load_params(model, params)
    return model
