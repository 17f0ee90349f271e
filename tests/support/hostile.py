"""Open hostile model files and report the outcome of each: hostile.py < cases > outcomes, JSON lines.

A case is {"name", "file", and optionally "cut": bytes to keep, or "flips": [[place, bits], ...]}. A line names each case
before its file is read, so the last line of a process that died names the file that killed it. Address space is limited
(on Linux), so that no file is given memory beyond its size.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.errors import UnrolledError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import Draws, zero_state
from unrolled.export.verification.verify import verify
from unrolled.runtime import load

ROOM = 1 << 30  # bytes of address space in addition to that of the libraries
PROMPT = np.array([[0, 3], [2, 1], [5, 4]])


def peak() -> int:
    """Return the peak memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def limit_memory() -> None:
    if sys.platform != "linux":
        return
    import resource

    taken = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (int(taken.split()[1]) * 1024 + ROOM,) * 2)


def behaviour(model: Any) -> list[Any]:
    """Return description and outputs of a model: of a language model for a prompt, of another for padded sequences."""
    if "generate" not in model.capabilities:
        rng = np.random.default_rng(0)
        inputs = {column.name: column.example(rng, 4, 2) for column in model.spec.inputs}
        outputs = model.run(inputs, np.array([4, 2]))
        rules = {name: each.to_dict() for name, each in model.preprocessing.items()}
        return [model.spec.to_dict(), rules, *(np.round(array, 3).tolist() for array in outputs.values())]
    said = [model.config.to_dict(), model.tokenizer.to_dict()]
    state = zero_state(model.config, 2)
    if "step" in model.capabilities:
        said += [np.round(array, 3).tolist() for array in model.step(PROMPT, state)]
    if "write" in model.capabilities:
        draws = Draws(9, 0, np.arange(2), DrawSettings(True, 1.0, 0, 1.0, 5))
        said.append(model.write(PROMPT, np.array([3, 2]), state, draws)[0].tolist())
    return said


def attempt(action: Any) -> Any:
    """Return the result, or a description of the error: "error" if it is a named one, else "escaped"."""
    try:
        return action()
    except UnrolledError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        return {"escaped": repr(error)[:300]}


def checks(path: Path) -> Any:
    return [[check.name, check.ok, check.detail] for check in verify(path, load)]


def changed(case: dict[str, Any]) -> bytes:
    data = bytearray(Path(case["file"]).read_bytes())
    for place, bits in case.get("flips", []):
        data[place] ^= bits
    return bytes(data[: case["cut"]] if "cut" in case else data)


def outcome(case: dict[str, Any], folder: Path, good: dict[str, Any]) -> dict[str, Any]:
    """Return the outcomes of load and verify; a load is ok if the model behaves like the good file."""
    suffix = Path(case["file"]).suffix
    path = folder / f"model{suffix}"
    path.write_bytes(changed(case))
    said = attempt(lambda: behaviour(load(path)))
    found = attempt(lambda: checks(path))
    verified = (
        found if isinstance(found, dict) else {"ok": True} if all(ok for _, ok, _ in found) else {"failed": found[-1]}
    )
    loaded = said if isinstance(said, dict) else {"ok": said == good.get(case.get("good", ""), said)}
    return {"name": case["name"], "load": loaded, "verify": verified}


def main() -> None:
    cases = json.load(sys.stdin)
    if any(case["file"].endswith(".pt") for case in cases):
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401 - before memory is limited: a build with CUDA takes 3 GB of address space
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of native libraries must not mix with the outcomes
    good = {file: behaviour(load(file)) for file in sorted({case["good"] for case in cases if "good" in case})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in good:  # memory that the libraries take once does not count for the first case
            attempt(lambda file=file: checks(Path(file)))  # type: ignore[misc]
        before = peak()
        limit_memory()
        for case in cases:
            print(json.dumps({"begins": case["name"]}), file=out, flush=True)
            print(json.dumps(outcome(case, folder, good)), file=out, flush=True)
    print(json.dumps({"grown": peak() - before}), file=out, flush=True)


if __name__ == "__main__":
    main()
