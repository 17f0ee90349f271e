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
from unrolled.bench.peers.torch_tagger import FULL, PACKED, PADDED, TorchTagger
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.errors import ConfigError
from unrolled.engine.network.backends import BF16

RAGGED = "ragged"


@dataclass(frozen=True)
class Peer:
    """A library or engine that is measured.

    Args:
        title: its description.
        needs: a module without which it is left out.
        train, label, generate: makers of its contestants for the tasks of these names (``Workload.task``); None for a task
            in which it does not take part.
        settings: named ways to run it, by task, or by "ragged" for taggers of ragged rows; the fastest counts.
        rounded: its products are in bfloat16, for which the parity gate allows.
    """

    title: str
    needs: str
    train: ContestantMaker | None = None
    label: ContestantMaker | None = None
    generate: ContestantMaker | None = None
    settings: dict[str, dict[str, PeerSetting]] = field(default_factory=dict)
    rounded: bool = False

    @property
    def available(self) -> bool:
        """Return whether its library is installed."""
        return importlib.util.find_spec(self.needs) is not None

    def maker(self, task: str) -> ContestantMaker | None:
        """Return the maker of its contestants for a task; None where it does not take part."""
        return {"train": self.train, "label": self.label, "generate": self.generate}[task]

    def settings_of(self, work: Workload) -> dict[str, PeerSetting]:
        """Return the named settings for a workload."""
        return self.settings.get(RAGGED if work.ragged else work.task, {"default": {}})


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
        "the reference from scratch", "numpy", trained_by("numpy"), trained_by("numpy"), generated_by("numpy")
    ),
    "numba": Peer(
        "the compiled engine from scratch", "numba", trained_by("numba"), trained_by("numba"), generated_by("numba")
    ),
    "numba-bf16": Peer(
        "the compiled engine, products in bfloat16",
        "numba",
        trained_by("numba", BF16),
        trained_by("numba", BF16),
        generated_by("numba", BF16),
        rounded=True,
    ),
    "torch": Peer(
        "PyTorch, eager",
        "torch",
        TorchTraining,
        TorchTagger,
        TorchGeneration,
        {
            "train": _torch_settings(),
            "label": _torch_tagger_settings(FULL),
            RAGGED: _torch_tagger_settings(PACKED, PADDED),
            "generate": {"no onednn": {"onednn": False}, "onednn": {"onednn": True}},
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
    "torchscript": Peer("TorchScript, this package's sampler", "torch", generate=generated_by("torchscript")),
    "onnxruntime": Peer("ONNX file, this package's sampler", "onnxruntime", generate=generated_by("onnxruntime")),
    "onnxruntime-graph": Peer("ONNX file, the sampling loop inside", "onnxruntime", generate=generated_in_graph),
}
REFERENCE_PEER = "numpy"


def peers_of(task: str) -> list[str]:
    """Return the names of the peers that take part in a task."""
    return [name for name, peer in PEERS.items() if peer.maker(task) is not None]


def check_peers(peers: Sequence[str], task: str) -> None:
    """Check that all names are known and take part in the task.

    Raises:
        ConfigError: one does not; the message lists those that do.
    """
    there = peers_of(task)
    measured = "measured with taggers" if task == "label" else f"measured by unrolled bench {task}"
    for names, why in ((PEERS, "not known"), (there, f"not {measured}")):
        if absent := [name for name in peers if name not in names]:
            raise ConfigError(f"peers: {', '.join(absent)} {why}; choose from {', '.join(there)}")
