"""Shared fixtures and options of the test suite."""

from __future__ import annotations

import os
import signal

# Before numba or torch are imported; two workers of two threads each share two cores.
os.environ.setdefault("NUMBA_NUM_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait by spinning would take the other worker's core

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a script, and then in all that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")
    parser.addoption("--kills", type=int, default=3, help="how often slow tests kill a process")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often a slow test kills a process that is started again."""
    return int(request.config.getoption("--kills"))


LONGEST = "test_widths.py"  # a file goes to one worker: last, it would leave the other without work for minutes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != LONGEST)
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; add --run-slow"))
