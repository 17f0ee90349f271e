"""Check that a wheel contains every module of the checkout and nothing else, and unpack it: check_wheel.py WHEEL FOLDER."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

SUBPACKAGES = ("engine", "export", "tuning", "runtime", "report", "bench", "cli")
OTHER = (
    "runtime/hosts",
    "cli/recipes",
    "report/*.css",
    "report/*.js",
    "bench/runtimes/*.mjs",
)  # other files, listed by git, which leaves build results out


def other_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", *OTHER], capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split() if not Path(name).name.startswith(".")]


def main(wheel: str, folder: str) -> None:
    expected = {f"unrolled/{name}/py.typed" for name in SUBPACKAGES}
    expected |= {f"unrolled/{path.as_posix()}" for name in SUBPACKAGES for path in Path(name).rglob("*.py")}
    expected |= {f"unrolled/{name}" for name in other_files()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(folder)
    if missing := sorted(expected - names):
        sys.exit(f"not in the wheel: {', '.join(missing)}; is the subpackage in setup.cfg?")
    if extra := sorted(names - expected):
        sys.exit(f"in the wheel, but not in the checkout: {', '.join(extra)}")
    print(f"{Path(wheel).name}: {len(names)} files, all subpackages and their py.typed")


if __name__ == "__main__":
    main(*sys.argv[1:])
