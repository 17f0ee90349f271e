"""Tests of the suite "stream": one call of one time step, on each peer that takes part."""

from __future__ import annotations

from typing import Any

import pytest
from measurements import LIMITS

from unrolled.bench.parity_gate import compare_arrays
from unrolled.bench.peers.registry import PEERS, peers_of
from unrolled.bench.peers.step_calls import StepCalls
from unrolled.bench.peers.workloads import WORKLOADS, Workload, step_call
from unrolled.bench.runner import Effort, measure

SHORT = Effort(rounds=2, seconds=0.01, patience=120)
WORK = step_call("lstm", 8, 3, 11)


def contestants(peer: str, work: Workload = WORK) -> list[Any]:
    make = PEERS[peer].maker("stream")
    assert make is not None
    return [make(work, setting, 1) for setting in PEERS[peer].settings_of(work, 1).values()]


def test_a_call_is_one_time_step_of_every_row_counted_by_hand() -> None:
    assert (WORK.length, WORK.tokens, WORK.embedding) == (1, 3, 8)
    assert WORK.flops == 2 * 3 * 8 * 32 + 2 * 3 * 8 * 11  # the product with an embedding is a table
    assert all(work.length == 1 and work.tries_one_thread for work in WORKLOADS["streaming"])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("peer", peers_of("stream"))
def test_every_peer_computes_what_the_reference_does(peer: str, batch: int) -> None:
    pytest.importorskip(PEERS[peer].needs, reason="the peer's library is not installed")
    work = step_call("lstm", 8, batch, 11)
    (reference,) = contestants("numpy", work)
    expected = reference.parity()
    assert expected["logits"].shape == (32, 1, batch, 11)
    assert expected["state"].shape == (2, 1, batch, 8)
    for contestant in contestants(peer, work):
        assert compare_arrays(contestant.parity(), expected) == "ok"


@pytest.mark.parametrize("peer", peers_of("stream"))
def test_each_call_continues_from_the_state_of_the_last(peer: str) -> None:
    pytest.importorskip(PEERS[peer].needs, reason="the peer's library is not installed")
    for contestant in contestants(peer):
        if getattr(contestant, "_bound", None) is not None:  # its state lives in the bound arrays
            states = contestant._bound._states
            contestant.run()
            contestant.run()
            assert (states[0] != states[1]).any()
            continue
        seen = []
        for _ in range(3):
            contestant.run()
            now = contestant._inputs["state"] if hasattr(contestant, "_inputs") else contestant._state
            seen.append(float(abs(now).sum()))
        assert len(set(seen)) == 3


def test_alarm_a_model_that_forgets_its_state_fails_the_parity_gate() -> None:
    (reference,) = contestants("numpy")
    step = reference._step

    class Forgetful:
        def step(self, tokens: Any, state: Any) -> Any:
            return step(tokens, 0 * state)

    wrong = StepCalls(Forgetful(), WORK).parity()  # type: ignore[arg-type]
    assert "differs by" in compare_arrays(wrong, reference.parity())
    right = reference.parity()
    assert compare_arrays({**right, "state": right["state"] * 1.001}, right).startswith("state differs by")


def test_a_small_run_reports_calls() -> None:
    peers = ["numpy", "numba", "onnxruntime", "onnxruntime-session"]
    lines = {line["peer"]: line for line in measure(WORK, peers, LIMITS, 1, SHORT)}
    assert list(lines) == peers
    for line in lines.values():
        assert line["parity"] == "ok"
        assert line["calls_per_s"] == pytest.approx(1 / line["median_s"])
        assert line["tokens_per_s"] == pytest.approx(3 / line["median_s"])
    assert lines["onnxruntime-session"]["setting"] in ("run", "bound")
