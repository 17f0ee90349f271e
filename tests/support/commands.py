"""The command line in a process of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys


def run_command(
    *arguments: str, stdin: str | None = None, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command with additional environment variables; fail unless it exits with ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "unrolled.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
