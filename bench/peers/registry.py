"""The peers of the benchmark: each with the settings of which the fastest counts, and the makers of its contestants."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unrolled.bench.peers.contestants import (
    ContestantMaker,
    PeerSetting,
    TorchGeneration,
    TorchTraining,
    generated_by,
    generated_in_graph,
    trained_by,
)
from unrolled.bench.peers.step_calls import SessionSteps, TorchSteps, stepped_by
from unrolled.bench.peers.torch_tagger import FULL, PACKED, PADDED, TorchTagger
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.errors import ConfigError
from unrolled.engine.network.backends import BF16

RAGGED, DEFAULT = "ragged", "default"
_ONEDNN: dict[str, PeerSetting] = {"no onednn": {"onednn": False}, "onednn": {"onednn": True}}


@dataclass(frozen=True)
class Peer:
    """A library or engine that is measured.

    Args:
        title: its description.
        needs: a module without which it is left out.
        train, label, generate, stream: makers of its contestants for the tasks of these names (``Workload.task``); None for a
            task in which it does not take part.
        settings: named ways to run it, by task, or by "ragged" for taggers of ragged rows; the fastest counts.
        rounded: its products are in bfloat16, for which the parity gate allows.
        adapts: it chooses its threads by itself while other processes keep cores busy, so it is measured as it is, after some
            time to adapt.
    """

    title: str
    needs: str
    train: ContestantMaker | None = None
    label: ContestantMaker | None = None
    generate: ContestantMaker | None = None
    stream: ContestantMaker | None = None
    settings: dict[str, dict[str, PeerSetting]] = field(default_factory=dict)
    rounded: bool = False
    adapts: bool = False

    @property
    def available(self) -> bool:
        """Return whether its library is installed."""
        return importlib.util.find_spec(self.needs) is not None

    def maker(self, task: str) -> ContestantMaker | None:
        """Return the maker of its contestants for a task; None where it does not take part."""
        makers = {"train": self.train, "label": self.label, "generate": self.generate, "stream": self.stream}
        return makers[task]

    def settings_of(self, work: Workload, threads: int, busy: int = 0) -> dict[str, PeerSetting]:
        """Return the named settings for a workload, each with its number of ``threads``.

        One thread is a setting beside ``threads`` where it may be faster: for small steps, and beside ``busy`` neighbours.
        """
        settings = self.settings.get(RAGGED if work.ragged else work.task, {DEFAULT: {}})
        varies = not self.adapts if busy else work.tries_one_thread
        if not varies or threads == 1:
            return {label: {**setting, "threads": threads} for label, setting in settings.items()}
        return {
            _threads_label(count) + ("" if label == DEFAULT else f", {label}"): {**setting, "threads": count}
            for count in (1, threads)
            for label, setting in settings.items()
        }


def _threads_label(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _torch_settings(**extra: Any) -> dict[str, PeerSetting]:
    """Return four settings: oneDNN on and off, each with a fused optimizer and with one over lists of tensors."""
    return {
        f"{'onednn' if onednn else 'no onednn'}, {kind}": {"onednn": onednn, "optimizer": {kind: True}, **extra}
        for onednn in (True, False)
        for kind in ("fused", "foreach")
    }


def _torch_tagger_settings(*ways: str) -> dict[str, PeerSetting]:
    """Return the settings of a tagger for each way to give it its rows; packed sequences have no path through oneDNN."""
    return {
        f"{rows}, {label}": {**setting, "rows": rows}
        for rows in ways
        for label, setting in _torch_settings().items()
        if rows != PACKED or not setting["onednn"]
    }


PEERS: dict[str, Peer] = {
    "numpy": Peer(
        "the reference from scratch",
        "numpy",
        trained_by("numpy"),
        trained_by("numpy"),
        generated_by("numpy"),
        stepped_by("numpy"),
    ),
    "numba": Peer(
        "the compiled engine from scratch",
        "numba",
        trained_by("numba"),
        trained_by("numba"),
        generated_by("numba"),
        stepped_by("numba"),
        adapts=True,
    ),
    "numba-bf16": Peer(
        "the compiled engine, products in bfloat16",
        "numba",
        trained_by("numba", BF16),
        trained_by("numba", BF16),
        generated_by("numba", BF16),
        rounded=True,
        adapts=True,
    ),
    "torch": Peer(
        "PyTorch, eager",
        "torch",
        TorchTraining,
        TorchTagger,
        TorchGeneration,
        TorchSteps,
        {
            "train": _torch_settings(),
            "label": _torch_tagger_settings(FULL),
            RAGGED: _torch_tagger_settings(PACKED, PADDED),
            "generate": _ONEDNN,
            "stream": _ONEDNN,
        },
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
    "torchscript": Peer(
        "TorchScript, this package's sampler",
        "torch",
        generate=generated_by("torchscript"),
        stream=TorchSteps,
        settings={"stream": {label: {**setting, "script": True} for label, setting in _ONEDNN.items()}},
    ),
    "onnxruntime": Peer(
        "ONNX file, this package's sampler or checks",
        "onnxruntime",
        generate=generated_by("onnxruntime"),
        stream=stepped_by("onnxruntime"),
    ),
    "onnxruntime-session": Peer(
        "ONNX file, called without this package",
        "onnxruntime",
        stream=SessionSteps,
        settings={"stream": {"run": {"bound": False}, "bound": {"bound": True}}},
    ),
    "onnxruntime-graph": Peer("ONNX file, the sampling loop inside", "onnxruntime", generate=generated_in_graph),
}
REFERENCE_PEER = "numpy"


def peers_of(task: str) -> list[str]:
    """Return the names of the peers that take part in a task."""
    return [name for name, peer in PEERS.items() if peer.maker(task) is not None]


def check_peers(peers: Sequence[str], *tasks: str) -> None:
    """Check that all names are known and that each takes part in one of the tasks.

    Raises:
        ConfigError: one does not; the message lists those that do.
    """
    there = [name for name in PEERS if any(name in peers_of(task) for task in tasks)]
    measured = "measured with taggers" if tasks == ("label",) else f"measured by unrolled bench {tasks[0]}"
    for names, why in ((PEERS, "not known"), (there, f"not {measured}")):
        if absent := [name for name in peers if name not in names]:
            raise ConfigError(f"peers: {', '.join(absent)} {why}; choose from {', '.join(there)}")
