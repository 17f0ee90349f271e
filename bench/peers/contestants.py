"""Contestants: how a training step or a text is made with each peer.

A contestant is made in a process of its own, so no library is imported here that only some peers need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.peers.inputs import FIRST_CHARACTER, make_batch, make_checkpoint, make_params
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.models.inputs.batch import TOKENS
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.optimizers.config import OPTIMIZERS, OptimizerConfig

CLIP_NORM, LEARNING_RATE = 1.0, 1e-3
# With the usual 1e-8, a gradient of rounding errors alone causes a full update, so that correct peers differ.
ADAM_EPS = 1e-6
ParityArrays = dict[str, NDArray]


class Contestant(Protocol):
    """A peer, set up for one workload."""

    def run(self) -> None:
        """Make one training step, one text in every stream, or one call."""
        ...

    def parity(self) -> ParityArrays:
        """Return arrays that must equal those of the NumPy reference; called once, before ``run``."""
        ...


PeerSetting = dict[str, Any]
ContestantMaker = Callable[[Workload, PeerSetting, int], Contestant]  # workload, setting, threads


def train_result(loss: float, norm: float, params: Params, step: int) -> ParityArrays:
    values = {f"loss {step}": np.array(loss), f"norm {step}": np.array(norm)}
    return values | {f"{name} {step}": value for name, value in params.items()}


class TrainableContestant:
    """A ``Trainable`` of this package."""

    def __init__(self, engine: str, work: Workload, precision: str = FLOAT32) -> None:
        from unrolled.export.training_engines import make_trainable

        constants: dict[str, Any] = {"eps": ADAM_EPS} if "eps" in OPTIMIZERS[work.optimizer].hyperparameters else {}
        optimizer = OptimizerConfig(work.optimizer, LEARNING_RATE, **constants)
        self.model = make_trainable(engine, work.spec, make_params(work), optimizer, CLIP_NORM, precision)
        self.batch, self.state = make_batch(work), zero_state(work.spec, work.batch)

    def run(self) -> None:
        self.model.train_step(self.batch, self.state, LEARNING_RATE, None)

    def parity(self) -> ParityArrays:
        values: ParityArrays = {}
        for step in (1, 2):
            result = self.model.train_step(self.batch, self.state, LEARNING_RATE, None)
            loss = result.loss.loss / result.loss.weight
            values |= train_result(loss, result.grad_norm, self.model.export_params(), step)
        return values


def trained_by(engine: str, precision: str = FLOAT32) -> ContestantMaker:
    """Return the maker of a training engine of this package."""
    return lambda work, setting, threads: TrainableContestant(engine, work, precision)


def torch_optimizer(name: str, model: Any, setting: PeerSetting) -> Any:
    """Return torch's optimizer of a module, with the constants of the other contestants."""
    import torch

    adam = {"eps": ADAM_EPS}
    kinds = {"adam": (torch.optim.Adam, adam), "adamw": (torch.optim.AdamW, adam), "sgd": (torch.optim.SGD, {})}
    kind, constants = kinds[name]
    return kind(model.parameters(), lr=LEARNING_RATE, **constants, **setting["optimizer"])


class TorchTraining:
    """A lean training loop in torch on tensors: no conversions, no accuracy, no more than a plain script does."""

    def __init__(self, work: Workload, setting: PeerSetting, threads: int) -> None:
        import torch

        from unrolled.export.torch.model import make_torch_model

        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = setting["onednn"]
        self.torch = torch
        self.model = make_torch_model(work.config, make_params(work))
        self.forward = torch.compile(self.model) if setting.get("compile") else self.model
        self.optimizer = torch_optimizer(work.optimizer, self.model, setting)
        self.autocast = bool(setting.get("autocast"))
        batch = make_batch(work)
        self.tokens, self.targets = torch.from_numpy(batch.inputs[TOKENS]), torch.from_numpy(batch.targets).flatten()
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

    def parity(self) -> ParityArrays:
        values: ParityArrays = {}
        for step in (1, 2):
            self.run()
            params = {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}
            values |= train_result(float(self.loss), float(self.norm), params, step)
        return values


PARITY_TOKENS = 32  # generated greedily, and read for their logits


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
        self._generate(self.model, [chr(FIRST_CHARACTER)], self._config(seed=self.seed, **sizes))

    def parity(self) -> ParityArrays:
        greedy = self._config(do_sample=False, max_new_tokens=PARITY_TOKENS)
        tokens = self._generate(self.model, [chr(FIRST_CHARACTER), chr(FIRST_CHARACTER + 1)], greedy)
        return _generate_result(self.model.step, self.work, np.array([row.tokens for row in tokens]))


def _generate_result(step: Callable[..., Any], work: Workload, greedy: NDArray) -> ParityArrays:
    tokens = np.random.default_rng(1).integers(0, work.vocab, (PARITY_TOKENS, 2))
    logits, _ = step(tokens, zero_state(work.config, 2))
    return {"logits": np.asarray(logits), "greedy": greedy}


def generated_by(engine: str, precision: str = FLOAT32) -> ContestantMaker:
    """Return the maker of an engine of this package that generates."""

    def make(work: Workload, setting: PeerSetting, threads: int) -> GenerateContestant:
        from unrolled.runtime.models.engines import make_model

        return GenerateContestant(make_model(make_checkpoint(work), engine, precision), work)

    return make


def generated_in_graph(work: Workload, setting: PeerSetting, threads: int) -> GenerateContestant:
    """Return the generation loop inside an ONNX file; form both has the logits that the parity gate compares."""
    from unrolled.runtime.models.onnx_model import open_checkpoint

    return GenerateContestant(open_checkpoint(make_checkpoint(work), "both"), work)


class TorchGeneration:
    """The fastest step loop in torch: nn modules one step at a time, multinomial sampling, all data in torch."""

    def __init__(self, work: Workload, setting: PeerSetting, threads: int) -> None:
        import torch

        from unrolled.export.torch.model import make_torch_model

        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = setting["onednn"]
        self.torch, self.work = torch, work
        self.model = make_torch_model(work.config, make_checkpoint(work).float32()).eval()

    def _step(self, tokens: NDArray, state: NDArray) -> tuple[NDArray, NDArray]:
        with self.torch.inference_mode():
            logits, after = self.model(self.torch.from_numpy(tokens), self.torch.from_numpy(state))
        return logits.numpy(), after.numpy()

    def _write(self, first: Any, length: int, sample: bool) -> Any:
        torch, work, model = self.torch, self.work, self.model
        lstm = work.config.cell_definition.states > 1
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

    def parity(self) -> ParityArrays:
        return _generate_result(self._step, self.work, self._write(self.torch.arange(2), PARITY_TOKENS, False))
