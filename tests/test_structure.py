"""The structure of the package: imports go one way, rooms are small, parameter lists short, names of one meaning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import structure

# The rooms, lowest first, each with the rooms that it imports. A new arrow may only point to a room that stands before it.
ROOMS: dict[str, str] = {
    "engine": "",
    "engine.tokenizers": "engine",
    "engine.models.cells": "",
    "engine.models.layers": "engine engine.models.cells",
    "engine.models.inputs": "engine engine.models.layers",
    "engine.models.heads": "engine engine.models.layers engine.models.inputs",
    "engine.models": (
        "engine engine.tokenizers engine.models.cells engine.models.layers engine.models.inputs engine.models.heads"
    ),
    "engine.storage": "engine engine.tokenizers engine.models.inputs engine.models",
    "engine.plotting": "engine engine.storage",
    "engine.processes": "engine engine.storage",
    "engine.data.readers": "engine engine.storage",
    "engine.data": "engine engine.tokenizers engine.models.inputs engine.storage engine.data.readers",
    "engine.sampling": "engine engine.tokenizers engine.models",
    "engine.optimizers": "engine",
    "engine.kernels.jit": "",
    "engine.kernels.simd": "engine engine.kernels.jit",
    "engine.kernels.threads": "engine engine.kernels.jit engine.kernels.simd",
    "engine.kernels.gemm": "engine.kernels.jit engine.kernels.simd engine.kernels.threads",
    "engine.kernels.recurrent": (
        "engine.models.layers engine.kernels.jit engine.kernels.simd engine.kernels.threads engine.kernels.gemm"
    ),
    "engine.kernels.layers": (
        "engine.models.layers engine.kernels.jit engine.kernels.simd engine.kernels.threads engine.kernels.gemm "
        "engine.kernels.recurrent"
    ),
    "engine.kernels.heads": (
        "engine.models.inputs engine.models.heads engine.kernels.threads engine.kernels.gemm engine.kernels.layers"
    ),
    "engine.kernels": (
        "engine.models.layers engine.models.inputs engine.models.heads engine.optimizers engine.kernels.jit "
        "engine.kernels.threads engine.kernels.gemm engine.kernels.recurrent engine.kernels.layers "
        "engine.kernels.heads"
    ),
    "engine.kernels.decode": (
        "engine engine.models engine.kernels.jit engine.kernels.simd engine.kernels.threads engine.kernels.gemm "
        "engine.kernels.recurrent"
    ),
    "engine.network": (
        "engine engine.models.layers engine.models.inputs engine.models.heads engine.models engine.optimizers"
    ),
    "engine.training": (
        "engine engine.models.layers engine.models.inputs engine.models.heads engine.models engine.data "
        "engine.optimizers engine.kernels.gemm engine.kernels.decode engine.network"
    ),
    "engine.runs": (
        "engine engine.models.layers engine.models.inputs engine.models.heads engine.models engine.storage "
        "engine.data engine.optimizers engine.training"
    ),
    "export.artifact": (
        "engine engine.tokenizers engine.models.inputs engine.models.heads engine.models engine.storage engine.sampling"
    ),
    "export.onnx": (
        "engine engine.models.layers engine.models.inputs engine.models.heads engine.models engine.storage "
        "engine.network export.artifact"
    ),
    "export.torch": (
        "engine engine.models.layers engine.models.inputs engine.models.heads engine.models engine.storage "
        "engine.sampling engine.optimizers engine.network engine.training export.artifact"
    ),
    "export.importing": (
        "engine engine.tokenizers engine.models.cells engine.models engine.storage engine.data.readers export.torch"
    ),
    "export.verification": (
        "engine engine.models.heads engine.models engine.storage engine.network export.artifact export.onnx "
        "export.torch"
    ),
    "export": (
        "engine engine.models engine.storage engine.optimizers engine.network engine.training engine.runs "
        "export.artifact export.onnx export.torch"
    ),
    "runtime.models": (
        "engine engine.tokenizers engine.models.heads engine.models engine.storage engine.sampling "
        "engine.kernels.gemm engine.kernels.decode engine.network export.artifact export.onnx export.torch"
    ),
    "runtime.generation.requests": (
        "engine engine.tokenizers engine.models engine.storage engine.sampling runtime.models"
    ),
    "runtime.generation.scheduler": "engine engine.models engine.sampling runtime.models runtime.generation.requests",
    "runtime.generation": (
        "engine engine.tokenizers engine.models engine.storage engine.sampling engine.network runtime.models "
        "runtime.generation.requests runtime.generation.scheduler"
    ),
    "runtime.jobs": (
        "engine engine.models engine.storage engine.data.readers engine.network export.artifact runtime.models "
        "runtime.generation.requests runtime.generation.scheduler"
    ),
    "runtime": (
        "engine engine.tokenizers engine.models engine.storage engine.sampling export.artifact runtime.models "
        "runtime.generation.requests runtime.generation"
    ),
    "tuning": (
        "engine engine.models.heads engine.storage engine.plotting engine.processes engine.data engine.optimizers "
        "engine.training engine.runs export"
    ),
    "report": (
        "engine engine.tokenizers engine.models.cells engine.models.layers engine.models.inputs engine.models.heads "
        "engine.models engine.storage engine.plotting engine.data.readers engine.data engine.network engine.training "
        "engine.runs"
    ),
    "bench.machine": (
        "engine engine.storage engine.processes engine.kernels.jit engine.kernels.simd engine.kernels.threads "
        "engine.kernels.gemm"
    ),
    "bench.peers": (
        "engine engine.tokenizers engine.models.layers engine.models.inputs engine.models.heads engine.models "
        "engine.storage engine.processes engine.optimizers engine.network export.torch export runtime.models "
        "runtime.generation.requests runtime.generation bench.machine"
    ),
    "bench.parity": (
        "engine engine.tokenizers engine.models engine.storage engine.processes engine.sampling runtime.models "
        "runtime.generation.requests runtime"
    ),
    "bench.runtimes": (
        "engine engine.tokenizers engine.models engine.storage engine.processes engine.sampling engine.network "
        "export.artifact export"
    ),
    "bench.results": "engine engine.plotting bench.peers",
    "bench": (
        "engine engine.models engine.storage engine.processes engine.data engine.training export.artifact export.onnx "
        "export runtime.models runtime.generation.requests runtime.generation.scheduler runtime.generation "
        "bench.machine bench.peers"
    ),
    "cli.recipes": "engine",
    "cli.terminal": (
        "engine engine.models.heads engine.models engine.storage engine.data.readers engine.data engine.training "
        "engine.runs runtime.jobs tuning bench.peers bench.results"
    ),
    "cli.options": (
        "engine engine.models engine.storage engine.data.readers engine.data engine.network engine.runs export "
        "runtime.jobs runtime bench.peers bench cli.recipes"
    ),
    "cli.verbs.bench": (
        "engine engine.models.cells export runtime bench.machine bench.peers bench.runtimes bench.results bench "
        "cli.terminal cli.options"
    ),
    "cli.verbs": (
        "engine engine.tokenizers engine.models.cells engine.models.heads engine.models engine.storage "
        "engine.data.readers engine.data engine.network engine.training engine.runs export.artifact export.onnx "
        "export.importing export.verification export runtime.models runtime.jobs runtime tuning report bench.machine "
        "bench.peers bench.parity bench cli.terminal cli.options"
    ),
    "cli": "engine cli.terminal cli.options cli.verbs.bench cli.verbs",
}
MOST_FILES = 16
ONE_FILE_AN_ENTRY = ("cli.verbs",)  # rooms that grow by a file for each entry, whose functions are verbs

MODULES = structure.modules_of(structure.installed())
IMPORTS = structure.imports_of(MODULES)
ARROWS = structure.arrows_between_rooms(MODULES, IMPORTS)


def test_modules_import_each_other_in_one_direction() -> None:
    assert structure.circles(IMPORTS) == []


def test_rooms_are_those_of_the_table() -> None:
    assert sorted({structure.room_of(module, MODULES) for module in MODULES}) == sorted(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_that_it_may(room: str) -> None:
    allowed = set(ROOMS[room].split())
    lower = list(ROOMS)[: list(ROOMS).index(room)]
    assert allowed <= set(lower), f"{room} may import rooms that stand after it in the table"
    assert ARROWS.get(room, set()) == allowed


def test_no_room_is_crowded() -> None:
    files = Counter(structure.room_of(name, MODULES) for name, path in MODULES.items() if path.name != "__init__.py")
    assert {room: count for room, count in files.items() if count > MOST_FILES and room not in ONE_FILE_AN_ENTRY} == {}


def test_parameter_lists_are_short() -> None:
    assert structure.long_parameter_lists(MODULES, excepted=ONE_FILE_AN_ENTRY) == []


def test_names_have_one_meaning() -> None:
    assert structure.double_names(MODULES) == {}


def test_docstrings_begin_with_sentences() -> None:
    assert structure.fragments(MODULES, excepted=ONE_FILE_AN_ENTRY) == []  # docstrings of verbs are their help


@pytest.fixture
def offender(tmp_path: Path) -> structure.Modules:
    """Modules that break every rule once."""
    names = {name: tmp_path / name for name in ("engine", "export")}
    for folder in names.values():
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (names["engine"] / "low.py").write_text(
        '"""What is low."""\nclass Twice: ...\ndef f(a, b, c, d, *, e, f, g, h, i):\n    from unrolled.export import high\n'
    )
    (names["export"] / "high.py").write_text("from unrolled.engine.low import f\nclass Twice: ...\n")
    return structure.modules_of(names)


def test_every_rule_notices_what_breaks_it(offender: structure.Modules) -> None:
    imports = structure.imports_of(offender)
    assert structure.circles(imports) == [["engine.low", "export.high"]]
    assert structure.circles(structure.arrows_between_rooms(offender, imports)) == [["engine", "export"]]
    assert structure.long_parameter_lists(offender) == ["engine.low.f (9)"]
    assert structure.long_parameter_lists(offender, excepted=["engine"]) == []
    assert structure.double_names(offender) == {"Twice": ["engine.low", "export.high"]}
    assert structure.fragments(offender) == ["engine.low.: What is low."]
