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
from unrolled.engine.errors import ConfigError
from unrolled.engine.network.backends import BF16


@dataclass(frozen=True)
class Peer:
    """A library or engine that is measured.

    Args:
        title: its description.
        needs: a module without which it is left out.
        train, generate: makers of its contestants; None for a suite in which it does not take part.
        settings: by suite, named ways to run it; the fastest counts.
        rounded: its products are in bfloat16, for which the parity gate allows.
    """

    title: str
    needs: str
    train: ContestantMaker | None = None
    generate: ContestantMaker | None = None
    settings: dict[str, dict[str, PeerSetting]] = field(default_factory=dict)
    rounded: bool = False

    @property
    def available(self) -> bool:
        """Return whether its library is installed."""
        return importlib.util.find_spec(self.needs) is not None

    def maker(self, suite: str) -> ContestantMaker | None:
        """Return the maker of its contestants for a suite; None where it does not take part."""
        return self.train if suite == "train" else self.generate

    def settings_of(self, suite: str) -> dict[str, PeerSetting]:
        """Return the named settings of a suite."""
        return self.settings.get(suite, {"default": {}})


def _torch_settings(**extra: Any) -> dict[str, PeerSetting]:
    """Return four settings: oneDNN on and off, each with a fused optimizer and with one over lists of tensors."""
    return {
        f"{'onednn' if onednn else 'no onednn'}, {kind}": {"onednn": onednn, "optimizer": {kind: True}, **extra}
        for onednn in (True, False)
        for kind in ("fused", "foreach")
    }


PEERS: dict[str, Peer] = {
    "numpy": Peer("the reference from scratch", "numpy", trained_by("numpy"), generated_by("numpy")),
    "numba": Peer("the compiled engine from scratch", "numba", trained_by("numba"), generated_by("numba")),
    "numba-bf16": Peer(
        "the compiled engine, products in bfloat16",
        "numba",
        trained_by("numba", BF16),
        generated_by("numba", BF16),
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
    "torchscript": Peer("TorchScript, this package's sampler", "torch", None, generated_by("torchscript")),
    "onnxruntime": Peer("ONNX file, this package's sampler", "onnxruntime", None, generated_by("onnxruntime")),
    "onnxruntime-graph": Peer("ONNX file, the sampling loop inside", "onnxruntime", None, generated_in_graph),
}
REFERENCE_PEER = "numpy"


def peers_of(suite: str) -> list[str]:
    """Return the names of the peers that take part in a suite."""
    return [name for name, peer in PEERS.items() if peer.maker(suite) is not None]


def check_peers(peers: Sequence[str], suite: str) -> None:
    """Check that all names are known and take part in the suite.

    Raises:
        ConfigError: one does not; the message lists those that do.
    """
    there = peers_of(suite)
    for names, why in ((PEERS, "not known"), (there, f"not measured by unrolled bench {suite}")):
        if absent := [name for name in peers if name not in names]:
            raise ConfigError(f"peers: {', '.join(absent)} {why}; choose from {', '.join(there)}")
