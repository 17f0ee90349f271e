"""Contestants of the suite "stream": one call of ``step`` with one token a row, as an online prediction makes it.

Models of this package are called through their public method, which checks its arguments; torch and onnxruntime also as a
lean program would call them, on their own tensors and without checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.peers.contestants import PARITY_TOKENS, ContestantMaker, ParityArrays, PeerSetting
from unrolled.bench.peers.inputs import make_checkpoint
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.models.step_contract import StepModel, zero_state


class StepCalls:
    """Calls of a model of this package; each continues from the state that the last one returned."""

    def __init__(self, model: StepModel, work: Workload) -> None:
        self.work, self._step = work, model.step
        self._tokens = np.zeros((work.length, work.batch), np.int64)
        self._state = zero_state(work.config, work.batch)

    def run(self) -> None:
        _, self._state = self._step(self._tokens, self._state)

    def parity(self) -> ParityArrays:
        return _parity_of(self.work, self._step)


def _parity_of(work: Workload, step: Any) -> ParityArrays:
    """Return the logits of a random text that is read token by token, and the state after it."""
    tokens = np.random.default_rng(1).integers(0, work.vocab, (PARITY_TOKENS, work.length, work.batch))
    state, logits = zero_state(work.config, work.batch), []
    for now in tokens:
        of_step, state = step(now, state)
        logits.append(np.array(of_step))
    return {"logits": np.stack(logits), "state": np.array(state)}


def stepped_by(engine: str) -> ContestantMaker:
    """Return the maker of an engine of this package."""

    def make(work: Workload, setting: PeerSetting, threads: int) -> StepCalls:
        from unrolled.runtime.models.engines import make_model

        return StepCalls(make_model(make_checkpoint(work), engine), work)

    return make


class TorchSteps:
    """Calls of a module of torch, eager or scripted, on tensors."""

    def __init__(self, work: Workload, setting: PeerSetting, threads: int) -> None:
        import torch

        from unrolled.export.torch.model import make_torch_model
        from unrolled.export.torch.torchscript import script

        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = setting["onednn"]
        self.torch, self.work, checkpoint = torch, work, make_checkpoint(work)
        scripted = setting.get("script", False)
        self.model = script(checkpoint) if scripted else make_torch_model(work.config, checkpoint.float32()).eval()
        self._tokens = torch.zeros(work.length, work.batch, dtype=torch.int64)
        self._state = torch.from_numpy(zero_state(work.config, work.batch))

    def run(self) -> None:
        with self.torch.inference_mode():
            _, self._state = self.model(self._tokens, self._state)

    def _step(self, tokens: NDArray, state: NDArray) -> tuple[NDArray, NDArray]:
        with self.torch.inference_mode():
            logits, after = self.model(self.torch.from_numpy(tokens), self.torch.from_numpy(state))
        return logits.numpy(), after.numpy()

    def parity(self) -> ParityArrays:
        return _parity_of(self.work, self._step)


class SessionSteps:
    """Calls of onnxruntime's session with the exported file of form step.

    Settings: with ``bound``, arrays are bound to the session once; without, each call passes and returns arrays.
    """

    def __init__(self, work: Workload, setting: PeerSetting, threads: int) -> None:
        from unrolled.runtime.models.onnx_model import open_checkpoint

        self.work = work
        self._model: Any = open_checkpoint(
            make_checkpoint(work)
        )  # with as many threads as the process's environment has
        self._run = self._model.session.run
        self._inputs = {
            "tokens": np.zeros((work.length, work.batch), np.int64),
            "state": zero_state(work.config, work.batch),
        }
        self._bound = self._model.bind(work.batch) if setting["bound"] else None

    def run(self) -> None:
        if self._bound is not None:
            self._bound.step(0)  # sets the first row's token
        else:
            _, self._inputs["state"] = self._run(["logits", "next_state"], self._inputs)

    def _step(self, tokens: NDArray, state: NDArray) -> tuple[NDArray, NDArray]:
        if self._bound is None:
            logits, after = self._run(["logits", "next_state"], {"tokens": tokens, "state": state})
            return logits, after
        logits, after = self._bound.move(tokens[0], state)
        return logits[None], after.copy()

    def parity(self) -> ParityArrays:
        return _parity_of(self.work, self._step)
