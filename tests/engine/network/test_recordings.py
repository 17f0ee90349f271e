"""Recorded calls of the compiled engine: the same bits as kernels called one by one, for other data of the same shapes."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import models
import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.engine.errors import ShapeError
from unrolled.engine.kernels.recurrent import work_partition
from unrolled.engine.kernels.threads import array_copies, recording
from unrolled.engine.kernels.threads.recording import Recording
from unrolled.engine.kernels.threads.thread_choice import counts_of
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads
from unrolled.engine.models.dropout import Dropout, Masks, dropout_masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.network import recordings
from unrolled.engine.network.backends import get_backend
from unrolled.engine.network.network import Network
from unrolled.engine.network.recordings import MOST_KINDS, MOST_LARGE_KINDS, Recordings
from unrolled.engine.optimizers.config import OPTIMIZERS, OptimizerConfig
from unrolled.engine.training.trainable import EngineTrainable, StepResult

STEPS = 4  # the first is called one by one, the second is recorded, the others are the recorded one


@pytest.fixture(autouse=True)
def share_all_work_and_keep_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recordings, "FEW_FLOPS", 0)
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def pair_of(spec: ModelSpec, optimizer: OptimizerConfig | None = None) -> tuple[EngineTrainable, EngineTrainable]:
    """Return a trainable, and one like it that records nothing."""
    recorded, plain = (
        EngineTrainable(spec, models.params(spec, np.float32), optimizer or OptimizerConfig(), 0.5, "numba")
        for _ in range(2)
    )
    plain._steps = Recordings(plain.backend, recordable=False)
    return recorded, plain


def is_recorded(trainable: EngineTrainable) -> bool:
    return len(trainable._steps._kept) > 0


def batch_of(spec: ModelSpec, seed: int, T: int = 9, B: int = 4) -> tuple[Batch, NDArray]:
    """Return a random batch of a tagger and an initial state."""
    rng = np.random.default_rng(seed)
    inputs = {column.name: column.example(rng, T, B) for column in spec.inputs}
    targets, weights = rng.integers(0, models.C, (T, B)), rng.random((T, B)) > 0.2
    state = rng.standard_normal(zero_state(spec, B).shape).astype(np.float32)
    return Batch(inputs, targets, weights, None, False), state


def assert_same_step(one: StepResult, other: StepResult, pair: tuple[EngineTrainable, EngineTrainable]) -> None:
    """Compare results and parameters bit by bit."""
    assert (one.loss, one.grad_norm) == (other.loss, other.grad_norm)
    np.testing.assert_array_equal(one.state, other.state)
    for name, value in pair[0].params.items():
        np.testing.assert_array_equal(value, pair[1].params[name], err_msg=name)


def train_both(
    pair: tuple[EngineTrainable, EngineTrainable], masks: Dropout | None = None, steps: int = STEPS, **sizes: int
) -> None:
    """Train both on the same batches, and compare after each step."""
    spec = pair[0].spec
    for step in range(steps):
        batch, state = batch_of(spec, step, **sizes)
        T, B = batch.weights.shape
        drawn = None if masks is None else dropout_masks(spec, T, B, np.random.default_rng(step), np.float32, masks)
        one, other = (trainable.train_step(batch, state, 0.01 / (1 + step), drawn) for trainable in pair)
        assert_same_step(one, other, pair)
    assert is_recorded(pair[0])
    assert not is_recorded(pair[1])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_training_of_every_cell(cell: str, bidirectional: bool) -> None:
    train_both(pair_of(models.spec(cell, bidirectional=bidirectional)))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_training_on_fewer_tokens_than_the_vocabulary_has(cell: str, bidirectional: bool) -> None:
    """Only the rows of the embedding that occur are multiplied, and they are others in each batch."""
    train_both(pair_of(models.spec(cell, bidirectional=bidirectional)), T=3, B=2)


@pytest.mark.parametrize("inputs", models.MIXTURES)
def test_training_of_every_mixture_of_inputs(inputs: str) -> None:
    train_both(pair_of(models.spec("gru", inputs, layers=1)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_with_every_optimizer(optimizer: str) -> None:
    train_both(pair_of(models.spec("rnn"), OptimizerConfig(optimizer)))


@pytest.mark.parametrize(
    "settings", [{"clip_value": 1e-3}, {"sum_over_time": True, "clip_value": 0.1}, {"label_smoothing": 0.1}]
)
def test_training_with_other_losses_and_clipping(settings: dict[str, Any]) -> None:
    train_both(pair_of(models.spec("lstm"), OptimizerConfig(**settings)))


@pytest.mark.parametrize("variational", [False, True])
def test_training_with_dropout(variational: bool) -> None:
    spec = models.spec("lstm", "tokens+values", bidirectional=True, dropout=0.3)
    train_both(pair_of(spec), Dropout(inputs=0.2, outputs=0.4, variational=variational))


class Alternating:
    """Choice of threads that takes all numbers in turn."""

    told: list[tuple[int, float]]

    def __init__(self, counts: list[int]) -> None:
        self._counts, self._at = counts, 0
        Alternating.told = []

    @property
    def threads(self) -> int:
        return self._counts[self._at % len(self._counts)]

    def tell(self, seconds: float) -> None:
        self.told.append((self.threads, seconds))
        self._at += 1


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="there is one thread")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("by_units", [False, True])
def test_training_while_the_number_of_threads_changes(
    monkeypatch: pytest.MonkeyPatch, by_units: bool, bidirectional: bool
) -> None:
    """Threads that share a layer by units wait for each other at every time step, so one thread must not wait for another."""
    monkeypatch.setattr(recording, "ThreadChoice", Alternating)
    if by_units:
        monkeypatch.setattr(work_partition, "_LARGE", 0)
        monkeypatch.setattr(work_partition, "_FEW_ROWS", 17)
    threads = min(4, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    spec = models.spec("lstm", bidirectional=bidirectional)
    wide = ModelSpec(spec.inputs, dataclasses.replace(spec.core, hidden_size=256), spec.head)
    pair = pair_of(wide)
    train_both(pair, steps=STEPS + 6, B=8)
    (kept,) = pair[0]._steps._kept.values()
    assert isinstance(kept.recorded, Recording)
    assert (kept.recorded._calls._in_turn.size > 0) is (by_units and (threads > 2 or not bidirectional))
    assert {count for count, _ in Alternating.told} == set(counts_of(threads))
    assert all(seconds > 0 for _, seconds in Alternating.told)
    assert numba.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_too_few_for_the_threads(threads: int) -> None:
    """A single row is shared by units, with a barrier of its own inside a call."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    train_both(pair_of(models.spec("lstm")), B=1, T=12)


def test_batches_that_alternate_between_sizes() -> None:
    pair = pair_of(models.spec("gru"))
    for step in range(12):
        batch, state = batch_of(pair[0].spec, step, T=(7, 7, 8)[step % 3])
        one, other = (trainable.train_step(batch, state, 0.01, None) for trainable in pair)
        assert_same_step(one, other, pair)
    for step in range(2 * (MOST_KINDS + 1)):
        batch, state = batch_of(pair[0].spec, step, T=4 + step // 2)
        one, other = (trainable.train_step(batch, state, 0.01, None) for trainable in pair)
        assert_same_step(one, other, pair)
    assert len(pair[0]._steps._kept) == MOST_KINDS


def test_large_calls_keep_fewer_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LARGE_FLOPS", 0)
    trainable, _ = pair_of(models.spec("rnn", layers=1))
    for T in (5, 6, 7) * 3:
        trainable.train_step(*batch_of(trainable.spec, T, T), 0.01, None)
    assert len(trainable._steps._kept) == MOST_LARGE_KINDS


def test_two_sizes_by_turns_are_both_recorded_and_too_many_sizes_are_not() -> None:
    pair = pair_of(models.spec("rnn", layers=1))

    def train(lengths: list[int]) -> int:
        """Train on batches of these lengths; return the number of those that were recorded anew."""
        before = set(map(id, (kept.recorded for kept in pair[0]._steps._kept.values())))
        for step, T in enumerate(lengths):
            batch, state = batch_of(pair[0].spec, step, T)
            one, other = (trainable.train_step(batch, state, 0.01, None) for trainable in pair)
            assert_same_step(one, other, pair)
        return len({id(kept.recorded) for kept in pair[0]._steps._kept.values()} - before)

    assert train([5, 6] * 3) == 2
    many = list(range(10, 10 + 2 * MOST_KINDS))
    train(many * 4)  # each is dropped before it comes again
    assert train(many * 2) == 0
    kept = next(iter(pair[0]._steps._kept))[0][0][0]  # T of the first input of one that is kept
    assert train([kept] * 3) == 0


def test_a_loss_that_is_not_finite_leaves_the_parameters() -> None:
    recorded, _ = pair_of(models.spec("lstm", "values"))
    for step in range(3):
        recorded.train_step(*batch_of(recorded.spec, step), 0.01, None)
    assert is_recorded(recorded)
    before, updates = recorded.export_params(), int(recorded.optimizer.updates[0])
    batch, state = batch_of(recorded.spec, 5)
    state[0, 0, 0, 0] = np.nan
    assert not np.isfinite(recorded.train_step(batch, state, 0.01, None).grad_norm)
    assert int(recorded.optimizer.updates[0]) == updates
    for name, value in before.items():
        np.testing.assert_array_equal(recorded.params[name], value, err_msg=name)


def test_a_step_that_is_interrupted_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of(models.spec("lstm"))
    batch, state = batch_of(pair[0].spec, 0)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pair[0].optimizer, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair[0].train_step(batch, state, 0.01, None)
    one, other = (trainable.train_step(batch, state, 0.01, None) for trainable in pair)
    assert_same_step(one, other, pair)


def test_training_state_that_is_restored_between_recorded_steps() -> None:
    recorded, _ = pair_of(models.spec("lstm"))
    batch, state = batch_of(recorded.spec, 0)
    for _ in range(3):
        recorded.train_step(batch, state, 0.01, None)
    kept = recorded.training_state()
    one = recorded.train_step(batch, state, 0.01, None)
    recorded.load_training_state(kept)
    again = recorded.train_step(batch, state, 0.01, None)
    assert (one.loss, one.grad_norm) == (again.loss, again.grad_norm)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_steps_and_runs_give_the_same_bits(cell: str, layers: int) -> None:
    spec = models.spec(cell, "tokens+values" if layers == 2 else "tokens", layers)
    network, params = Network(spec, models.params(spec, np.float32), "numba"), models.params(spec, np.float32)
    fresh = Network(spec, params, "numba")
    for T, B in ((1, 1), (3, 2)):
        for call in range(STEPS):
            batch, state = batch_of(spec, call, T, B)
            outputs, after = network.step(batch.inputs, state)
            expected, after_expected = fresh._run(batch.inputs, None, state)
            np.testing.assert_array_equal(outputs["logits"], expected["logits"])
            np.testing.assert_array_equal(after, after_expected)
    assert len(network._runs._kept) == 2


@pytest.mark.parametrize("inputs", models.MIXTURES)
def test_evaluations_give_the_same_sums(inputs: str) -> None:
    spec = models.spec("lstm", inputs)
    network = Network(spec, models.params(spec, np.float32), "numba")
    for call in range(STEPS):
        batch, state = batch_of(spec, call)
        sums, after = network.evaluate(batch, state)
        expected = network.gradients(batch, state)
        assert sums == expected.loss
        np.testing.assert_array_equal(after, expected.state)
    assert network._evaluations._kept


def test_little_work_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FEW_FLOPS", 1e5)
    pair = pair_of(models.spec("lstm", layers=1))
    parts = {}
    for T in (2, 60):
        for step in range(3):
            batch, state = batch_of(pair[0].spec, step, T)
            one, other = (trainable.train_step(batch, state, 0.01, None) for trainable in pair)
            assert_same_step(one, other, pair)
        *_, kept = pair[0]._steps._kept.values()
        parts[T] = kept.recorded._calls._parts
    assert parts == {2: 1, 60: numba.get_num_threads()}


def test_results_are_copies() -> None:
    spec = models.spec("lstm")
    network = Network(spec, models.params(spec, np.float32), "numba")
    batch, state = batch_of(spec, 0, 1, 2)
    results = [network.step(batch.inputs, state) for _ in range(3)]
    other, _ = batch_of(spec, 1, 1, 2)
    network.step(other.inputs, state + 1)
    for outputs, after in results[1:]:
        np.testing.assert_array_equal(outputs["logits"], results[0][0]["logits"])
        np.testing.assert_array_equal(after, results[0][1])


def test_changed_parameters_reach_the_next_step() -> None:
    spec = models.spec("gru")
    params = models.params(spec, np.float32)
    network = Network(spec, params, "numba")
    batch, state = batch_of(spec, 0, 1, 2)
    before = [network.step(batch.inputs, state)[0]["logits"] for _ in range(3)]
    with pytest.raises(ValueError, match="read-only"):
        network.params["rnn.weight_hh_l0"] *= 2
    params["rnn.weight_hh_l0"] *= 2
    network.parameters_changed()
    outputs, _ = network.step(batch.inputs, state)
    expected, _ = Network(spec, network.params, "numba").step(batch.inputs, state)
    np.testing.assert_array_equal(outputs["logits"], expected["logits"])
    assert (outputs["logits"] != before[2]).any()  # alarm: the change shows


def test_steps_between_updates_see_the_new_parameters() -> None:
    recorded, plain = pair_of(models.spec("lstm"))
    batch, state = batch_of(recorded.spec, 0)
    first = {name: array[:1] for name, array in batch.inputs.items()}
    for _ in range(STEPS):
        for trainable in (recorded, plain):
            trainable.train_step(batch, state, 0.1, None)
        expected, _ = Network(plain.spec, plain.export_params(), "numba").step(first, state)
        np.testing.assert_array_equal(recorded.step(first, state)[0]["logits"], expected["logits"])


def test_another_number_of_threads_is_recorded_anew() -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba has one thread")
    pair = pair_of(models.spec("lstm"))
    for step, threads in enumerate((2, 2, 2, 1, 1, 1, 2, 2)):
        numba.set_num_threads(threads)
        batch, state = batch_of(pair[0].spec, step)
        one, other = (trainable.train_step(batch, state, 0.01, None) for trainable in pair)
        assert_same_step(one, other, pair)


@compiled_on_all_threads
def double(part: int, parts: int, x: Any, y: Any) -> None:
    """y = 2 x."""
    if part == 0:
        for i in range(len(x)):
            y[i] = 2 * x[i]


def test_a_recording_repeats_the_kernels_and_nothing_else() -> None:
    """Alarm for the comparisons above: what NumPy computes is not repeated."""

    def function(x: NDArray) -> tuple[NDArray, NDArray]:
        y = np.empty_like(x)
        double(x, y)
        return y, x + 1

    recording = Recording(function, [np.arange(3.0)])
    compiled, by_numpy = recording.run([np.arange(3.0) + 10])
    np.testing.assert_array_equal(compiled, [20.0, 22.0, 24.0])
    np.testing.assert_array_equal(by_numpy, [1.0, 2.0, 3.0])  # stale


def test_a_call_while_another_thread_uses_the_memory() -> None:
    calls = []

    def function(x: NDArray) -> NDArray:
        y = np.empty_like(x)
        double(x, y)
        calls.append(x)
        return y

    calls_of = Recordings(get_backend("numba"))
    for _ in range(3):
        calls_of.call(function, [np.ones(2)], float_of, 0.0)
    assert len(calls) == 2
    with calls_of._lock:
        assert calls_of.call(function, [np.full(2, 4.0)], float_of, 0.0) == 8.0
    assert len(calls) == 3


@compiled_on_all_threads
def refuse_negative(part: int, parts: int, x: Any) -> None:
    """Fail as a kernel that has no memory."""
    if x[0] < 0:
        raise MemoryError


@compiled_on_all_threads
def count(part: int, parts: int, total: Any) -> None:
    """total[0] += 1."""
    if part == 0:
        total[0] += 1


def test_after_a_recorded_call_that_fails_no_further_ones_are_made_and_all_is_computed_anew() -> None:
    total, factor = np.zeros(1), np.full(2, 3.0)

    def function(x: NDArray) -> NDArray:
        y, z = np.empty_like(x), np.empty_like(x)
        refuse_negative(x)
        array_copies.copy(factor, z)
        array_copies.add(z, x)
        double(x, y)
        count(total)
        return y

    calls_of = Recordings(get_backend("numba"), constants=[factor])
    for version in range(2):
        for _ in range(3):
            assert calls_of.call(function, [np.ones(2)], float_of, 0.0, version) == 2 * (1 + factor[0])
        assert calls_of._kept
        assert total[0] == 3 * (version + 1)
        factor += 1
        with pytest.raises(MemoryError):
            calls_of.call(function, [np.full(2, -1.0)], float_of, 0.0, version + 1)
        assert total[0] == 3 * (version + 1)


def test_an_evaluation_after_an_interrupted_step_sees_the_new_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, _ = pair_of(models.spec("lstm"))
    batch, state = batch_of(recorded.spec, 0)
    for _ in range(3):
        before = recorded.evaluate(batch, state)[0]

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recorded.optimizer, "count", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorded.train_step(batch, state, 0.01, None)
    expected = Network(recorded.spec, recorded.export_params(), "numba").evaluate(batch, state)[0]
    assert recorded.evaluate(batch, state)[0] == expected
    assert expected != before  # alarm: the update shows


def in_another_layout(array: NDArray) -> NDArray:
    """Return a copy whose last axis is not contiguous."""
    return np.repeat(array, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize("inputs", ["tokens", "tokens+categories+values+static"])
def test_arrays_in_any_layout_give_the_same_bits(inputs: str) -> None:
    pair = pair_of(models.spec("lstm", inputs))
    for step in range(STEPS):
        batch, state = batch_of(pair[0].spec, step)
        others = {name: in_another_layout(array) for name, array in batch.inputs.items()}
        other = Batch(others, in_another_layout(batch.targets), in_another_layout(batch.weights), None, False)
        for other_state in (in_another_layout(state), np.asfortranarray(state)):
            one = pair[0].train_step(other, other_state, 0.01, None)
            assert_same_step(one, pair[1].train_step(batch, state, 0.01, None), pair)
            outputs, after = pair[0].run(others, None, other_state)
            expected, expected_after = pair[1].run(batch.inputs, None, state)
            np.testing.assert_array_equal(outputs["logits"], expected["logits"])
            np.testing.assert_array_equal(after, expected_after)


@pytest.mark.parametrize("dtype", [np.float16, ">f4", ">f8", np.longdouble])
def test_weights_of_any_float_dtype_give_the_same_bits(dtype: Any) -> None:
    pair = pair_of(models.spec("lstm"))
    for step in range(STEPS):
        batch, state = batch_of(pair[0].spec, step)
        weights = batch.weights * np.float16(0.5)
        one = pair[0].train_step(batch._replace(weights=weights.astype(dtype)), state, 0.01, None)
        other = pair[1].train_step(batch._replace(weights=weights.astype(np.float32)), state, 0.01, None)
        assert_same_step(one, other, pair)


@pytest.mark.parametrize(
    "masks",
    [
        Masks(None, None, np.ones((9, 4, models.H + 1), np.float32)),
        Masks(None, None, np.ones((9, 1, models.H), np.float32)),
        Masks(np.ones((3, 4, models.E), np.float32), None, None),
        Masks(None, [np.ones((9, 4, 2), np.float32)], None),
        Masks(None, [np.ones((9, 4, models.H), np.float32)] * 2, None),
    ],
)
def test_masks_of_other_shapes_are_refused(masks: Masks) -> None:
    recorded, _ = pair_of(models.spec("lstm"))
    batch, state = batch_of(recorded.spec, 0)
    for _ in range(3):
        with pytest.raises(ShapeError, match=r"^masks: got .* needs"):
            recorded.train_step(batch, state, 0.01, masks)


def test_a_model_that_is_dropped_frees_its_memory_at_once() -> None:
    spec = models.spec("lstm")
    trainable, network = pair_of(spec)[0], Network(spec, models.params(spec, np.float32), "numba")
    batch, state = batch_of(spec, 0)
    for _ in range(3):
        trainable.train_step(batch, state, 0.01, None)
        network.step(batch.inputs, state)
        network.evaluate(batch, state)
    alive = [weakref.ref(trainable), weakref.ref(network)]
    gc.disable()
    try:
        del trainable, network
        assert [one() for one in alive] == [None, None]
    finally:
        gc.enable()


def float_of(x: NDArray) -> float:
    return float(x[0])


def test_masks_that_are_missing_and_masks_that_are_not() -> None:
    """The same shapes with and without masks are different kinds of steps."""
    pair = pair_of(models.spec("lstm", dropout=0.5))
    for step in range(8):
        batch, state = batch_of(pair[0].spec, step)
        mask = np.random.default_rng(step).integers(0, 2, (9, 4, models.H)).astype(np.float32)
        masks = (None, Masks(None, [mask], None), Masks(None, None, mask))[step % 3]
        one, other = (trainable.train_step(batch, state, 0.01, masks) for trainable in pair)
        assert_same_step(one, other, pair)
