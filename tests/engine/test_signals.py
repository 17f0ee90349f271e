"""Tests of signal handlers: signals that they handle or leave alone, and that importing installs none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from unrolled.engine.signals import SIGNALS, DeferredInterrupt, Interruption, StopRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_is_a_request_and_a_second_one_raises(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("guard", "replaced"), [(StopRequest, False), (DeferredInterrupt, True)])
def test_a_program_keeps_its_sigterm_while_a_loop_runs_but_not_while_a_file_is_written(
    guard: Any, replaced: bool
) -> None:
    def own(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with guard():
            assert (signal.getsignal(signal.SIGTERM) is not own) is replaced
        assert signal.getsignal(signal.SIGTERM) is own
        signal.signal(signal.SIGTERM, Interruption())
        with guard() as inside:
            assert signal.getsignal(signal.SIGTERM) == inside._receive
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("guard", [StopRequest, DeferredInterrupt])
def test_guards_leave_ignored_signals_and_other_threads_alone(guard: Any) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        with guard():
            assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    def enter() -> None:
        with guard():
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    seen: list[Any] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == list(before.values())


def test_importing_installs_no_handler() -> None:
    code = (
        "import signal\nbefore = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "import unrolled.engine.signals\nassert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
