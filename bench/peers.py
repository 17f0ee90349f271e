"""Who is measured: for each peer, the settings of which the fastest counts, and how a step or a text is made with it.

A contestant is made in a process of its own (``worker``), so nothing is imported here that a peer does not need.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.workloads import Workload
from unrolled.engine.data.batches import Batch
from unrolled.engine.models.parameters import Params, initial_params
from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.engine.network.backends import BF16, FLOAT32
from unrolled.engine.optimizers.config import OPTIMIZERS, OptimizerConfig
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer

CLIP_NORM, LEARNING_RATE = 1.0, 1e-3
# Of Adam's usual 1e-8 a gradient that is rounding alone makes a whole update, and peers that are right differ.
ADAM_EPS = 1e-6
Arrays = dict[str, NDArray]


class Contestant(Protocol):
    """A peer, set up for one workload."""

    def run(self) -> None:
        """One training step, or one text in every stream."""
        ...

    def parity(self) -> Arrays:
        """What must equal the NumPy reference's arrays of the same names; called once, before ``run``."""
        ...


Setting = dict[str, Any]
Maker = Callable[[Workload, Setting, int], Contestant]  # workload, setting, threads


@dataclass(frozen=True)
class Peer:
    """Args:
    title: what it is.
    needs: a module without which it is left out.
    train, generate: its makers; None where it does not take part.
    settings: by suite, named ways to run it; the fastest counts.
    rounded: its products are in bfloat16, which the parity check allows for.
    """

    title: str
    needs: str
    train: Maker | None = None
    generate: Maker | None = None
    settings: dict[str, dict[str, Setting]] = field(default_factory=dict)
    rounded: bool = False

    @property
    def available(self) -> bool:
        return importlib.util.find_spec(self.needs) is not None

    def maker(self, suite: str) -> Maker | None:
        return self.train if suite == "train" else self.generate

    def settings_of(self, suite: str) -> dict[str, Setting]:
        return self.settings.get(suite, {"default": {}})


def make_batch(work: Workload) -> Batch:
    """Random tokens, the same for every peer."""
    tokens = np.random.default_rng(0).integers(0, work.vocab, (work.length + 1, work.batch))
    inputs, targets = np.ascontiguousarray(tokens[:-1]), np.ascontiguousarray(tokens[1:])
    return Batch(inputs, targets, np.ones(inputs.shape, np.bool_), carry=True)


def make_params(work: Workload) -> Params:
    return initial_params(work.config, 0)


def make_checkpoint(work: Workload) -> Checkpoint:
    """Of random weights, larger than initial ones so that probabilities differ; its characters are private ones."""
    params = {name: value * np.float32(2) for name, value in make_params(work).items()}
    tokenizer = CharTokenizer([chr(0xE000 + i) for i in range(work.vocab)])
    return Checkpoint(work.config, params, tokenizer, {})


def _train_result(loss: float, norm: float, params: Params, step: int) -> Arrays:
    values = {f"loss {step}": np.array(loss), f"norm {step}": np.array(norm)}
    return values | {f"{name} {step}": value for name, value in params.items()}


class TrainableContestant:
    """A Trainable of this package."""

    def __init__(self, engine: str, work: Workload, precision: str = FLOAT32) -> None:
        from unrolled.export.training_engines import make_trainable

        constants: dict[str, Any] = {"eps": ADAM_EPS} if "eps" in OPTIMIZERS[work.optimizer].hyperparameters else {}
        optimizer = OptimizerConfig(work.optimizer, LEARNING_RATE, **constants)
        self.model = make_trainable(engine, work.config, make_params(work), optimizer, CLIP_NORM, precision)
        self.batch, self.state = make_batch(work), zero_state(work.config, work.batch)

    def run(self) -> None:
        self.model.train_step(self.batch, self.state, LEARNING_RATE, None)

    def parity(self) -> Arrays:
        values: Arrays = {}
        for step in (1, 2):
            result = self.model.train_step(self.batch, self.state, LEARNING_RATE, None)
            loss = result.loss.loss / result.loss.tokens
            values |= _train_result(loss, result.grad_norm, self.model.export_params(), step)
        return values


def _from_scratch(engine: str, precision: str = FLOAT32) -> Maker:
    return lambda work, setting, threads: TrainableContestant(engine, work, precision)


class TorchTraining:
    """A lean loop in torch on tensors: no conversions, no accuracy, nothing that a plain training script has not."""

    def __init__(self, work: Workload, setting: Setting, threads: int) -> None:
        import torch

        from unrolled.export.torch.model import make_torch_model

        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = setting["onednn"]
        self.torch = torch
        self.model = make_torch_model(work.config, make_params(work))
        self.forward = torch.compile(self.model) if setting.get("compile") else self.model
        adam = {"eps": ADAM_EPS}
        kinds = {"adam": (torch.optim.Adam, adam), "adamw": (torch.optim.AdamW, adam), "sgd": (torch.optim.SGD, {})}
        kind, constants = kinds[work.optimizer]
        self.optimizer = kind(self.model.parameters(), lr=LEARNING_RATE, **constants, **setting["optimizer"])
        self.autocast = bool(setting.get("autocast"))
        batch = make_batch(work)
        self.tokens, self.targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets).flatten()
        self.state = torch.from_numpy(zero_state(work.config, work.batch))
        self.loss = self.norm = torch.zeros(())

    def run(self) -> None:
        torch = self.torch
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits, _ = self.forward(self.tokens, self.state)
            self.loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.targets)
        self.loss.backward()
        self.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM, foreach=True)
        self.optimizer.step()

    def parity(self) -> Arrays:
        values: Arrays = {}
        for step in (1, 2):
            self.run()
            params = {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}
            values |= _train_result(float(self.loss), float(self.norm), params, step)
        return values


PARITY_TOKENS = 32  # written greedily, and read for their logits


class GenerateContestant:
    """``generate`` of this package on one of its models."""

    def __init__(self, model: StepModel, work: Workload) -> None:
        from unrolled.runtime.generation.generate import generate
        from unrolled.runtime.generation.requests.config import GenerationConfig

        self.model, self.work = model, work
        self._generate, self._config = generate, GenerationConfig
        self.seed = 0

    def run(self) -> None:
        work = self.work
        self.seed += 1
        sizes: Any = {"max_new_tokens": work.length, "num_return_sequences": work.batch, "batch_size": work.batch}
        self._generate(self.model, [chr(0xE000)], self._config(seed=self.seed, **sizes))

    def parity(self) -> Arrays:
        greedy = self._config(do_sample=False, max_new_tokens=PARITY_TOKENS)
        tokens = self._generate(self.model, [chr(0xE000), chr(0xE001)], greedy)
        return _generate_result(self.model.step, self.work, np.array([row.tokens for row in tokens]))


def _generate_result(step: Callable[..., Any], work: Workload, greedy: NDArray) -> Arrays:
    on = np.random.default_rng(1).integers(0, work.vocab, (PARITY_TOKENS, 2))
    logits, _ = step(on, zero_state(work.config, 2))
    return {"logits": np.asarray(logits), "greedy": greedy}


def _package_engine(engine: str, precision: str = FLOAT32) -> Maker:
    def make(work: Workload, setting: Setting, threads: int) -> GenerateContestant:
        from unrolled.runtime.models.engines import make_model

        return GenerateContestant(make_model(make_checkpoint(work), engine, precision), work)

    return make


def _graph(work: Workload, setting: Setting, threads: int) -> GenerateContestant:
    """The loop inside the file; of form both, whose logits the parity check looks at."""
    from unrolled.runtime.models.onnx_model import open_checkpoint

    return GenerateContestant(open_checkpoint(make_checkpoint(work), "both"), work)


class TorchGeneration:
    """The best step loop that torch has: nn modules one step at a time, multinomial sampling, nothing leaves torch."""

    def __init__(self, work: Workload, setting: Setting, threads: int) -> None:
        import torch

        from unrolled.export.torch.model import make_torch_model

        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = setting["onednn"]
        self.torch, self.work = torch, work
        self.model = make_torch_model(work.config, make_checkpoint(work).float32()).eval()

    def _step(self, tokens: NDArray, state: NDArray) -> tuple[NDArray, NDArray]:
        with self.torch.inference_mode():
            logits, moved = self.model(self.torch.from_numpy(tokens), self.torch.from_numpy(state))
        return logits.numpy(), moved.numpy()

    def _write(self, first: Any, length: int, sample: bool) -> Any:
        torch, work, model = self.torch, self.work, self.model
        lstm = work.config.spec.states > 1
        with torch.inference_mode():
            state = torch.from_numpy(zero_state(work.config, len(first)))
            hidden: Any = (state[0], state[1]) if lstm else state[0]
            tokens, written = first, []
            for _ in range(length):
                h, hidden = model.rnn(model.embedding(tokens.unsqueeze(0)), hidden)
                logits = model.output(h[0])
                tokens = torch.multinomial(logits.softmax(-1), 1)[:, 0] if sample else logits.argmax(-1)
                written.append(tokens)
            return torch.stack(written, 1).numpy()

    def run(self) -> None:
        self._write(self.torch.zeros(self.work.batch, dtype=self.torch.int64), self.work.length, True)

    def parity(self) -> Arrays:
        return _generate_result(self._step, self.work, self._write(self.torch.arange(2), PARITY_TOKENS, False))


def _torch_settings(**extra: Any) -> dict[str, Setting]:
    """oneDNN on and off, one fused optimiser and one over lists of tensors."""
    return {
        f"{'onednn' if onednn else 'no onednn'}, {kind}": {"onednn": onednn, "optimizer": {kind: True}, **extra}
        for onednn in (True, False)
        for kind in ("fused", "foreach")
    }


PEERS: dict[str, Peer] = {
    "numpy": Peer("the reference from scratch", "numpy", _from_scratch("numpy"), _package_engine("numpy")),
    "numba": Peer("the compiled engine from scratch", "numba", _from_scratch("numba"), _package_engine("numba")),
    "numba-bf16": Peer(
        "the compiled engine, products in bfloat16",
        "numba",
        _from_scratch("numba", BF16),
        _package_engine("numba", BF16),
        rounded=True,
    ),
    "torch": Peer(
        "PyTorch, eager",
        "torch",
        TorchTraining,
        TorchGeneration,
        {"train": _torch_settings(), "generate": {"no onednn": {"onednn": False}, "onednn": {"onednn": True}}},
    ),
    "torch-compile": Peer(
        "PyTorch, torch.compile",
        "torch",
        TorchTraining,
        settings={"train": {"onednn, fused": {"onednn": True, "optimizer": {"fused": True}, "compile": True}}},
    ),
    "torch-bf16": Peer(
        "PyTorch, autocast to bfloat16",
        "torch",
        TorchTraining,
        settings={"train": _torch_settings(autocast=True)},
        rounded=True,
    ),
    "torchscript": Peer("TorchScript, this package's sampler", "torch", None, _package_engine("torchscript")),
    "onnxruntime": Peer("ONNX file, this package's sampler", "onnxruntime", None, _package_engine("onnxruntime")),
    "onnxruntime-graph": Peer("ONNX file, the sampling loop inside", "onnxruntime", None, _graph),
}
REFERENCE = "numpy"


def peers_of(suite: str) -> list[str]:
    """Names of those that take part in a suite."""
    return [name for name, peer in PEERS.items() if peer.maker(suite) is not None]
