"""Tests of the protocol of worker processes from both sides: answers, errors, timeouts, garbage and deaths."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unrolled.engine.cores import THREAD_VARIABLES
from unrolled.engine.processes.messages import from_line, pack_arrays, to_line, unpack_arrays
from unrolled.engine.processes.worker import (
    Delivery,
    WorkerDiedError,
    WorkerError,
    WorkerFailedError,
    WorkerProcess,
    python_module,
)

TIMEOUT = 120.0
SERVE = """
import os, subprocess, sys, time
import numpy as np
from unrolled.engine.errors import ConfigError
from unrolled.engine.processes.messages import pack_arrays, unpack_arrays
from unrolled.engine.processes.serving import ParentChannel, serve


def answer(message):
    verb = message["verb"]
    if verb == "echo":
        return message
    if verb == "print":
        print("loaded a library", flush=True)
        os.write(1, b"{}\\n")
        return {"input": sys.stdin.read()}
    if verb == "fail":
        raise ConfigError(message.get("text", "first\\nsecond"))
    if verb == "die":
        print("its last words", file=sys.stderr, flush=True)
        os._exit(7)
    if verb == "sleep":
        time.sleep(600)
    if verb == "double":
        return {"arrays": pack_arrays({name: 2 * value for name, value in unpack_arrays(message["arrays"]).items()})}
    if verb == "count":
        for n in range(3):
            channel.send({"n": n})
        return {"n": "the last"}
    if verb == "negotiate":
        return {"more": channel.ask({"question": 1})["more"]}
    if verb == "start":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return {"child": child.pid, "group": os.getpgrp(), "self": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


channel = ParentChannel()
serve(answer, channel)
"""


def worker(threads: int | None = None, inbox: queue.Queue[Delivery] | None = None) -> WorkerProcess:
    return WorkerProcess([sys.executable, "-c", SERVE], threads, inbox)


def script(text: str) -> WorkerProcess:
    return WorkerProcess([sys.executable, "-c", text])


def runs(process: int) -> bool:
    """Return whether a process runs; one that ended but that its parent has not waited for does not."""
    try:
        return ") Z " not in Path("/proc", str(process), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(process: int) -> None:
    until = time.monotonic() + TIMEOUT
    while runs(process):
        assert time.monotonic() < until, f"{process} still runs"
        time.sleep(0.05)


def test_every_kind_of_text_and_number_comes_back() -> None:
    values = {
        "text": "äöü 日本 \u2028 \udcff \n\r\x00",
        "numbers": [1, -2.5, 1e300, 2**70, None, True],
        "object": {"": []},
    }
    with worker() as process:
        assert process.ask({"verb": "echo", **values}, TIMEOUT) == {"verb": "echo", **values}
        assert process.ask({"verb": "echo", "x": float("nan"), "y": float("inf")}, TIMEOUT) == {
            "verb": "echo",
            "x": None,
            "y": None,
        }
        long = "a" * (3 << 20)
        assert process.ask({"verb": "echo", "long": long}, TIMEOUT)["long"] == long


def test_arrays_come_back_to_the_bit() -> None:
    arrays = {
        "scalar": np.array(2.5),
        "float32": np.array([[np.nan, np.inf, -0.0], [1e-45, 1 / 3, 2.0]], np.float32),
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "big-endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 4), np.float64),
        "bool": np.array([True, False]),
    }
    back = unpack_arrays(from_line(to_line(pack_arrays(arrays))))
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype.newbyteorder("="), name
        assert back[name].tobytes() == array.astype(back[name].dtype).tobytes()
        assert back[name].shape == array.shape
    with worker() as process:
        sent = {name: arrays[name] for name in ("scalar", "float32", "transposed")}
        doubled = unpack_arrays(process.ask({"verb": "double", "arrays": pack_arrays(sent)}, TIMEOUT)["arrays"])
    for name, array in sent.items():
        np.testing.assert_array_equal(doubled[name], 2 * array)


def test_what_a_library_prints_does_not_come_between_the_answers() -> None:
    with worker() as process:
        assert process.ask({"verb": "print"}, TIMEOUT) == {"input": ""}
        assert process.ask({"verb": "echo"}, TIMEOUT) == {"verb": "echo"}


def test_a_worker_continues_after_it_answered_with_an_error() -> None:
    with worker() as process:
        with pytest.raises(WorkerFailedError, match=r"^ConfigError: first$") as failed:
            process.ask({"verb": "fail"}, TIMEOUT)
        assert failed.value.text == "unrolled.engine.errors.ConfigError: first\nsecond"
        assert failed.value.last_line == "second"
        with pytest.raises(WorkerFailedError) as failed:
            process.ask({"verb": "fail", "text": "one line and empty ones\n\n \n"}, TIMEOUT)
        assert failed.value.last_line == "unrolled.engine.errors.ConfigError: one line and empty ones"
        with pytest.raises(WorkerFailedError, match=r"^KeyError: 'verb'$"):
            process.ask({}, TIMEOUT)
        assert process.ask({"verb": "echo"}, TIMEOUT) == {"verb": "echo"}
        assert process.alive


def test_several_answers_to_one_message_are_received_one_by_one() -> None:
    with worker() as process:
        process.send({"verb": "count"})
        process.send({"verb": "echo"})
        assert [process.receive(TIMEOUT).get("n") for _ in range(5)] == [0, 1, 2, "the last", None]
        assert process.ask({"verb": "negotiate"}, TIMEOUT) == {"question": 1}
        assert process.ask({"more": False}, TIMEOUT) == {"more": False}


def test_a_death_in_the_middle_of_an_answer_is_reported_with_the_last_line_of_standard_error() -> None:
    with worker() as process:
        for _ in range(2):  # every further call raises the error again
            with pytest.raises(WorkerDiedError, match="its last words") as died:
                process.ask({"verb": "die"}, TIMEOUT)
            assert (died.value.code, died.value.last_line) == (7, "its last words")
        assert not process.alive
    with (
        script("import sys; sys.stdout.write('{\"half\": '); sys.stdout.flush(); sys.exit(3)") as process,
        pytest.raises(WorkerDiedError, match="the process ended with code 3"),
    ):
        process.receive(TIMEOUT)
    with script("import os; os._exit(4)") as process, pytest.raises(WorkerDiedError, match="ended with code 4"):
        process.receive(TIMEOUT)


def test_silence_ends_after_the_timeout() -> None:
    started = time.monotonic()
    with worker() as process, pytest.raises(WorkerError, match="no answer in 1 s"):
        process.ask({"verb": "sleep"}, 1.0)
    assert time.monotonic() - started < TIMEOUT / 2


@pytest.mark.parametrize(
    "line", ["hello", "[1]", '{"error": "text"}', '{"error": {}}', '{"error": {"type": 1, "message": 2}}', "", "\\xff"]
)
def test_garbage_is_an_error_that_shows_it(line: str) -> None:
    code = (
        f"import sys; sys.stdout.buffer.write({line.encode()!r} + b'\\n{{}}\\n'); sys.stdout.flush(); sys.stdin.read()"
    )
    with script(code) as process:
        with pytest.raises(WorkerError, match=r"the process answered '.*, which is not a message"):
            process.receive(TIMEOUT)
        assert process.receive(TIMEOUT) == {}


def test_messages_of_several_workers_come_to_one_inbox() -> None:
    inbox: queue.Queue[Delivery] = queue.Queue()
    with worker(inbox=inbox) as one, worker(inbox=inbox) as two:
        one.send({"verb": "echo"})
        two.send({"verb": "die"})
        found = [inbox.get(timeout=TIMEOUT) for _ in range(2)]
    contents = {delivery.worker: delivery.content for delivery in found}
    assert contents[one] == {"verb": "echo"}
    assert isinstance(contents[two], WorkerDiedError)


def test_a_command_that_is_not_there_starts_nothing() -> None:
    with pytest.raises(FileNotFoundError):
        WorkerProcess(["/no/such/program"])
    with WorkerProcess(python_module("unrolled.no_such_module")) as process, pytest.raises(WorkerDiedError) as died:
        process.receive(TIMEOUT)
    assert "No module named unrolled.no_such_module" in died.value.last_line


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_the_whole_group_ends_with_the_worker() -> None:
    with worker(threads=3) as process:
        found = process.ask({"verb": "start"}, TIMEOUT)
        assert found["self"] == found["group"] == process.pid
        assert found["threads"] == "3"
        assert "OMP_NUM_THREADS" in THREAD_VARIABLES
        assert runs(found["child"])
    wait_for_end(found["child"])
    process.stop()  # once more


PARENT = """
import sys
from unrolled.engine.processes.worker import WorkerProcess
process = WorkerProcess([sys.executable, "-c", sys.argv[1]])
child = process.ask({"verb": "start"})["child"]
process.send({"verb": "sleep"})
print(process.pid, child, flush=True)
process.receive()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_a_worker_and_its_processes_end_with_a_parent_that_is_killed() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, SERVE], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert [runs(pid) for pid in pids] == [True, True]
    parent.kill()
    parent.communicate()
    for pid in pids:
        wait_for_end(pid)
