"""Lines of measurements: reading them from files, the machine that they were made on, and names of their workloads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unrolled.bench.peers.workloads import SUITES, TAGGER
from unrolled.engine.errors import ConfigError, ModelFileError

Line = dict[str, Any]
WORKLOAD_KEYS = ("cell", "layers", "hidden", "batch", "length", "vocab")
OTHER_VERBS = ("batch", "memory")  # their lines have no peers to compare


def read_lines(paths: Iterable[Path]) -> list[Line]:
    """Return the lines of some files about steps, texts and machines; lines of other verbs are left out.

    Raises:
        ModelFileError: a line is not one that ``unrolled bench`` writes; the message names it.
    """
    paths = list(paths)
    lines = [line for path in paths for line in _lines_of(path) if line["suite"] not in OTHER_VERBS]
    if not any(line["suite"] in SUITES for line in lines):
        raise ModelFileError("no measurement of bench train, generate or stream in " + ", ".join(map(str, paths)))
    return lines


def _lines_of(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
    for number, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except ValueError as error:
            raise ModelFileError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(line, dict) or line.get("suite") not in (*SUITES, *OTHER_VERBS, "machine"):
            raise ModelFileError(f"{path}, line {number}: not a line of unrolled bench; suite is missing or unknown")
        if line["suite"] in SUITES and (
            missing := [key for key in (*WORKLOAD_KEYS, "peer", "parity") if key not in line]
        ):
            raise ModelFileError(f"{path}, line {number}: {', '.join(missing)} missing")
        yield line


def machine_name(line: Mapping[str, Any]) -> str:
    """Return the name that distinguishes machines, from a machine's line or from ``system_info``."""
    return f"{line.get('processor')}, {line.get('cores')} cores"


def check_machine(path: Path, machine: Mapping[str, Any]) -> None:
    """Check that measurements of this machine may be added to a file.

    Raises:
        ConfigError: the file has those of another machine, which its tables and means would mix with these.
    """
    known = measured(_lines_of(path), "machine") if path.is_file() else []
    if others := {machine_name(line) for line in known} - {machine_name(machine)}:
        raise ConfigError(
            f"{path}: holds measurements of {'; '.join(sorted(others))}, and this machine is {machine_name(machine)}; "
            "name another file"
        )


def measured(lines: Iterable[Line], suite: str) -> list[Line]:
    """Return the lines of a suite."""
    return [line for line in lines if line["suite"] == suite]


def workload_name(line: Line) -> str:
    """Return a short name of the workload: cell, layers × hidden size, batch, and the sizes that are not the usual ones.

    Letters: B rows, T time steps or tokens of a text, V vocabulary, E width of the embedding, X real-valued columns, C classes.
    """
    unusual = [
        f"{letter}{line[key]}"
        for key, (letter, usual) in _usual_sizes(line).items()
        if line.get(key, usual) not in (usual, None)
    ]
    cell = f"bi{line['cell']}" if line.get("bidirectional") else line["cell"]
    words = [line["optimizer"]] if line.get("optimizer", "adam") != "adam" else []
    words += ["ragged"] if line.get("ragged") else []
    words += [f"busy {line['busy']}"] if line.get("busy") else []
    return " ".join([f"{cell} {line['layers']}×{line['hidden']}", f"B{line['batch']}", *unusual, *words])


def _usual_sizes(line: Line) -> dict[str, tuple[str, int]]:
    """Return the letter of each size and its usual value, which a name leaves out; 0: it has no usual value."""
    suite, tagger, values = line["suite"], line.get("classes") is not None, line.get("values", 0)
    usual = {
        "length": ("T", 1 if suite == "stream" else 64),
        "vocab": ("V", TAGGER["vocab"] if tagger else 100 if suite == "generate" else 65),
        "embedding": ("E", TAGGER["embedding"] if tagger else line["hidden"] if suite == "stream" else 128),
    }
    if values:  # are read instead of tokens
        del usual["vocab"], usual["embedding"]
    return usual | {"values": ("X", 0), "classes": ("C", 0)}
