"""Models that other programs train with torch, imported and compared with torch's own logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
from tolerances import assert_close

from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.importing.language_model import Imported, import_weights
from unrolled.export.importing.vocabulary_files import make_tokenizer
from unrolled.export.importing.weight_files import read_weights
from unrolled.runtime.models.engines import make_model

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
nn = torch.nn
from safetensors.torch import save_file as save_tensors  # noqa: E402 - needs torch

V, E, H = models.V, models.E, models.H
TOKENS = [chr(ord("a") + i) for i in range(V)]


class Model(nn.Module):
    """A language model with layers under any names: embedding, recurrent layers, output; batch-first, as most models are."""

    def __init__(
        self, kind: str, layers: int = 1, names: tuple[str, str, str] = ("embedding", "rnn", "fc"), **how: Any
    ):
        super().__init__()
        self.names, tied = names, how.pop("tied", False)
        width = H if tied else E
        output_bias = how.pop("output_bias", True)
        setattr(self, names[0], nn.Embedding(V, width))
        setattr(self, names[1], getattr(nn, kind)(width, H, layers, batch_first=True, **how))
        setattr(self, names[2], nn.Linear(H, V, bias=output_bias))
        if tied:
            getattr(self, names[2]).weight = getattr(self, names[0]).weight

    def forward(self, tokens: Any) -> Any:
        embedding, rnn, output = (getattr(self, name) for name in self.names)
        return output(rnn(embedding(tokens))[0])


def made(build: Callable[[], Any], dtype: Any = None) -> Any:
    torch.manual_seed(1)
    module = build().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
            if dtype is not None:  # round to values of the narrow dtype, so that the module itself is the reference
                parameter.copy_(parameter.to(dtype).to(parameter.dtype))
    return module


def written(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_tensors({name: value.detach().contiguous().clone() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def imported(path: Path, state_dict_key: str | None = None, **settings: Any) -> Imported:
    stored = read_weights(path, state_dict_key)
    return import_weights(stored.arrays, dtypes=stored.dtypes, **settings)


def as_checkpoint(found: Imported) -> Checkpoint:
    return Checkpoint.of_language_model(found.config, found.params, make_tokenizer(TOKENS, V, "char"))


def assert_logits_of(found: Imported, module: Any) -> None:
    tokens = models.batch(found.config, 9, 3).inputs["tokens"]
    model = make_model(as_checkpoint(found), "numpy")
    with torch.no_grad():
        expected = module(torch.from_numpy(tokens.T.copy())).transpose(0, 1).float().numpy()
    logits, _ = model.step(tokens, zero_state(found.config, 3))
    assert_close(logits, expected, "export")
