"""The sampling rules, and TorchLM.choose, against the same rules in plain Python lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.filters import FILTERS, keep_top_k, keep_top_p
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose, draw
from unrolled.runtime.generation.requests.config import GenerationConfig

INF = math.inf
JUST_BELOW_ONE = math.nextafter(1.0, 0.0)
Chooser = Callable[[NDArray, SamplingConfig, NDArray[np.float64]], list[int]]


def slow_order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def slow_weights(scores: list[float]) -> list[float]:
    largest = max(scores)
    return [0.0 if score == -INF else math.exp(score - largest) for score in scores]


def slow_temperature(scores: list[float], temperature: float) -> list[float]:
    return [score / temperature for score in scores]


def slow_top_k(scores: list[float], k: int) -> list[float]:
    kept = set(slow_order(scores)[: k or len(scores)])
    return [score if i in kept else -INF for i, score in enumerate(scores)]


def slow_top_p(scores: list[float], top_p: float) -> list[float]:
    if top_p == 1.0:
        return scores
    weights = slow_weights(scores)
    total, mass, kept = math.fsum(weights), 0.0, set[int]()
    for i in slow_order(scores):
        if kept and mass >= top_p * total:
            break
        kept.add(i)
        mass += weights[i]
    return [score if i in kept else -INF for i, score in enumerate(scores)]


def slow_draw(scores: list[float], u: float) -> int:
    weights = slow_weights(scores)
    total, walked = sum(weights), 0.0
    for i, weight in enumerate(weights):
        walked += weight
        if walked > u * total:
            return i
    return max(i for i, weight in enumerate(weights) if weight > 0)


def slow_choose(logits: list[float], config: SamplingConfig, u: float) -> int:
    scores = slow_temperature(logits, config.temperature)
    scores = slow_top_k(scores, config.top_k)
    scores = slow_top_p(scores, config.top_p)
    return slow_draw(scores, u)


def random_logits(rng: np.random.Generator, B: int, V: int, kind: str) -> NDArray[np.float32]:
    """Rows of logits: "smooth" normal, "ties" of a few whole numbers, "holes" with some -inf, "flat" all equal."""
    logits = rng.standard_normal((B, V)) * 2
    if kind == "ties":
        logits = rng.integers(-2, 3, (B, V)).astype(float)
    elif kind == "holes":
        holes = rng.random((B, V)) < 0.5
        holes[np.arange(B), rng.integers(0, V, B)] = False
        logits[holes] = -INF
    elif kind == "flat":
        logits[:] = 1.5
    return logits.astype(np.float32)


KINDS = ("smooth", "ties", "holes", "flat")
SETTINGS = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.1, 0.5, 0.7, 1.0, 1.3, 4.0]),
    top_k=st.sampled_from([0, 1, 2, 3, 5, 40, 1000]),
    top_p=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99, 1.0]),
)
CASES = {
    "seed": st.integers(0, 2**32),
    "V": st.integers(1, 45),
    "kind": st.sampled_from(KINDS),
    "config": SETTINGS,
}


def torch_chooser(V: int, scripted: bool) -> Chooser:
    torch = pytest.importorskip("torch")
    from unrolled.export.torch.model import make_torch_model

    config = LanguageModelConfig("rnn", max(V, 2), 3, 4)
    module: Any = make_torch_model(config, pytorch_params(config.spec, 0)).eval()
    if scripted:
        module = torch.jit.script(module)

    def run(logits: NDArray, settings: SamplingConfig, u: NDArray[np.float64]) -> list[int]:
        top_k = settings.top_k if settings.do_sample else 1
        with torch.inference_mode():
            tokens = module.choose(
                torch.from_numpy(logits), torch.from_numpy(u), settings.temperature, top_k, settings.top_p
            )
        assert tokens.dtype == torch.int64
        return tokens.tolist()

    return run


def numpy_choose(logits: NDArray, config: SamplingConfig, u: NDArray[np.float64]) -> list[int]:
    return choose(logits, config, u).tolist()


@pytest.fixture(scope="module", params=["numpy", "torch", "torchscript"])
def chooser(request: pytest.FixtureRequest) -> Callable[[int], Chooser]:
    """Return a function from a vocabulary size to a way to choose, which is built once for each size."""
    if request.param == "numpy":
        return lambda V: numpy_choose
    made: dict[int, Chooser] = {}

    def make(V: int) -> Chooser:
        if V not in made:
            made[V] = torch_chooser(V, request.param == "torchscript")
        return made[V]

    return make


def test_the_filters_and_their_order() -> None:
    assert list(FILTERS) == ["temperature", "top_k", "top_p", "min_p", "typical_p"]


@settings(derandomize=True, max_examples=80, deadline=None)
@given(**CASES)
def test_each_filter_agrees_with_the_slow_one(seed: int, V: int, kind: str, config: SamplingConfig) -> None:
    scores = random_logits(np.random.default_rng(seed), 3, V, kind).astype(np.float64)
    rows = scores.tolist()
    before = scores.copy()
    assert FILTERS["temperature"](scores, config).tolist() == [slow_temperature(r, config.temperature) for r in rows]
    assert FILTERS["top_k"](scores, config).tolist() == [slow_top_k(r, config.top_k) for r in rows]
    assert FILTERS["top_p"](scores, config).tolist() == [slow_top_p(r, config.top_p) for r in rows]
    np.testing.assert_array_equal(scores, before)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(seed=CASES["seed"], V=CASES["V"], kind=CASES["kind"])
def test_draw_agrees_with_the_slow_walk(seed: int, V: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scores = random_logits(rng, 20, V, kind).astype(np.float64)
    u = np.concatenate([rng.random(18), [0.0, JUST_BELOW_ONE]])
    assert draw(scores, u).tolist() == [slow_draw(row, x) for row, x in zip(scores.tolist(), u.tolist(), strict=True)]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(**CASES)
def test_choose_agrees_with_the_slow_rules(seed: int, V: int, kind: str, config: SamplingConfig) -> None:
    rng = np.random.default_rng(seed)
    logits, u = random_logits(rng, 8, V, kind), rng.random(8)
    expected = [slow_choose(row, config, x) for row, x in zip(logits.tolist(), u.tolist(), strict=True)]
    assert numpy_choose(logits, config, u) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scripted", [False, True], ids=["torch", "torchscript"])
def test_torch_chooses_the_same_tokens_for_the_same_uniforms(kind: str, scripted: bool) -> None:
    rng = np.random.default_rng(5)
    for V in (2, 35):
        run = torch_chooser(V, scripted)
        for temperature in (0.3, 1.0):
            for top_k in (0, 4, 1000):
                for top_p in (0.4, 0.9, 1.0):
                    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
                    logits, u = random_logits(rng, 24, V, kind), rng.random(24)
                    rows = zip(logits.tolist(), u.tolist(), strict=True)
                    expected = [slow_choose(row, config, x) for row, x in rows]
                    assert run(logits, config, u) == expected, config
                    assert numpy_choose(logits, config, u) == expected, config


def test_alarm_the_slow_rules_notice_a_wrong_rule() -> None:
    rng = np.random.default_rng(8)
    logits, u = random_logits(rng, 200, 9, "ties"), rng.random(200)
    config = SamplingConfig(temperature=0.7, top_k=4, top_p=0.8)
    rows = list(zip(logits.tolist(), u.tolist(), strict=True))
    expected = [slow_choose(row, config, x) for row, x in rows]
    assert numpy_choose(logits, config, u) == expected
    wrong = {
        "temperature": SamplingConfig(temperature=0.75, top_k=4, top_p=0.8),
        "top_k": SamplingConfig(temperature=0.7, top_k=5, top_p=0.8),
        "top_p": SamplingConfig(temperature=0.7, top_k=4, top_p=0.85),
    }
    for name, other in wrong.items():
        assert numpy_choose(logits, other, u) != expected, name
    backwards = 8 - choose(np.ascontiguousarray(logits[:, ::-1]), config, 1 - u)  # ties for the higher index
    assert backwards.tolist() != expected


def test_filters_run_in_order_on_a_worked_example() -> None:
    """Probabilities 0.4 0.3 0.2 0.1: of the first three 0.4 is 4/9, and 4/9 + 3/9 reaches 0.7."""
    logits = np.log([[0.1, 0.4, 0.2, 0.3]]).astype(np.float32)
    config = SamplingConfig(top_k=3, top_p=0.7)
    scores = logits.astype(np.float64)
    for keep in FILTERS.values():
        scores = keep(scores, config)
    assert np.isfinite(scores).tolist() == [[False, True, False, True]]
    without_top_k = keep_top_p(logits.astype(np.float64), SamplingConfig(top_p=0.75))
    assert np.isfinite(without_top_k).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: int) -> None:
    got = keep_top_p(np.zeros((1, 4)), SamplingConfig(top_p=top_p))
    assert np.isfinite(got).tolist() == [[i < kept for i in range(4)]]


def test_top_k_takes_the_lower_index_among_equals() -> None:
    scores = np.array([[1.0, 2.0, 1.0, 1.0], [5.0, 5.0, 5.0, 6.0]])
    got = keep_top_k(scores, SamplingConfig(top_k=2))
    assert got.tolist() == [[1.0, 2.0, -INF, -INF], [5.0, -INF, -INF, 6.0]]


def test_draw_at_the_borders_of_equal_tokens() -> None:
    u = np.array([0.0, math.nextafter(0.25, 0), 0.25, 0.5, math.nextafter(0.75, 0), 0.75, JUST_BELOW_ONE])
    assert draw(np.zeros((7, 4)), u).tolist() == [0, 0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("top_k", [0, 4, 5, 10**9])
def test_top_k_of_the_whole_vocabulary_or_more_changes_nothing(top_k: int, chooser: Callable[[int], Chooser]) -> None:
    rng = np.random.default_rng(2)
    logits, u = random_logits(rng, 50, 4, "smooth"), rng.random(50)
    got = chooser(4)(logits, SamplingConfig(top_k=top_k), u)
    assert got == [slow_draw(row, x) for row, x in zip(logits.tolist(), u.tolist(), strict=True)]
    assert len(set(got)) == 4


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(top_k=1),
        SamplingConfig(top_p=0.0),
        SamplingConfig(do_sample=False, temperature=9.0, top_k=3, top_p=0.5),
        SamplingConfig(top_k=1, top_p=0.0, temperature=3.0),
        SamplingConfig(temperature=0),
        SamplingConfig(temperature=-0.0, top_k=3),
    ],
    ids=["top_k 1", "top_p 0", "greedy", "both", "temperature 0", "temperature -0"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_one_token_left_is_the_lowest_index_among_the_largest(
    config: SamplingConfig, kind: str, chooser: Callable[[int], Chooser]
) -> None:
    rng = np.random.default_rng(4)
    logits = random_logits(rng, 40, 11, kind)
    u = np.concatenate([rng.random(38), [0.0, JUST_BELOW_ONE]])
    assert chooser(11)(logits, config, u) == [row.index(max(row)) for row in logits.tolist()]


def test_greedy_needs_no_uniforms() -> None:
    logits = np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]], np.float32)
    assert choose(logits, SamplingConfig(do_sample=False), None).tolist() == [1, 0]


def test_a_tiny_temperature_is_greedy(chooser: Callable[[int], Chooser]) -> None:
    rng = np.random.default_rng(9)
    logits = np.stack([rng.permutation(12) for _ in range(30)]).astype(np.float32)
    u = np.concatenate([rng.random(28), [0.0, JUST_BELOW_ONE]])
    assert chooser(12)(logits, SamplingConfig(temperature=1e-6), u) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-308, 5e-324])
def test_the_smallest_temperatures_are_greedy_or_refused(temperature: float, chooser: Callable[[int], Chooser]) -> None:
    logits = np.array([[1.0, 2.0, 30.0], [-1.0, -30.0, -2.0]], np.float32)
    try:
        config = SamplingConfig(temperature=temperature)
    except ConfigError as error:
        assert "temperature" in str(error)  # noqa: PT017
        return
    assert chooser(3)(logits, config, np.array([0.9, 0.9])) == [2, 0]


def test_a_huge_temperature_is_flat(chooser: Callable[[int], Chooser]) -> None:
    logits = np.tile(np.array([[-30.0, 0.0, 30.0, 10.0]], np.float32), (4, 1))
    u = np.array([0.1, 0.3, 0.6, 0.9])
    assert chooser(4)(logits, SamplingConfig(temperature=1e300), u) == [0, 1, 2, 3]


def test_u_zero_takes_the_first_token_that_is_left(chooser: Callable[[int], Chooser]) -> None:
    logits = np.array([[-INF, -INF, 0.0, 3.0], [0.0, 9.0, 1.0, 2.0], [-2.0, 1.0, 1.0, 1.0]], np.float32)
    run = chooser(4)
    assert run(logits, SamplingConfig(), np.zeros(3)) == [2, 0, 0]
    assert run(logits, SamplingConfig(top_k=2), np.zeros(3)) == [2, 1, 1]


def test_u_just_below_one_takes_the_last_token_that_is_left(chooser: Callable[[int], Chooser]) -> None:
    logits = np.array([[0.0, 3.0, -INF, -INF], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, -2.0]], np.float32)
    u = np.full(3, JUST_BELOW_ONE)
    run = chooser(4)
    assert run(logits, SamplingConfig(), u) == [1, 3, 3]
    assert run(logits, SamplingConfig(top_k=2), u) == [1, 3, 1]


def test_a_uniform_that_was_rounded_up_to_one_takes_the_last_token_that_is_left(
    chooser: Callable[[int], Chooser],
) -> None:
    logits = np.array([[0.0, 3.0, -INF, -INF], [0.0, 1.0, 2.0, 3.0]], np.float32)
    assert chooser(4)(logits, SamplingConfig(), np.ones(2)) == [1, 3]


def test_only_one_token_left_is_drawn_whatever_u(chooser: Callable[[int], Chooser]) -> None:
    logits = np.full((5, 6), -INF, np.float32)
    logits[:, 4] = -7.0
    u = np.array([0.0, 0.1, 0.5, 0.9, JUST_BELOW_ONE])
    assert chooser(6)(logits, SamplingConfig(top_k=3, top_p=0.9), u) == [4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    "config", [SamplingConfig(), SamplingConfig(top_k=5), SamplingConfig(top_p=0.999), SamplingConfig(temperature=50.0)]
)
def test_tokens_of_minus_infinity_are_never_drawn(config: SamplingConfig, chooser: Callable[[int], Chooser]) -> None:
    logits = np.tile(np.array([[-INF, 1.0, -INF, 1.1, 0.9, -INF]], np.float32), (5000, 1))
    u = uniforms(3, np.arange(5000), 0)
    assert set(chooser(6)(logits, config, u)) == {1, 3, 4}


def test_a_vocabulary_of_one() -> None:
    config = SamplingConfig(top_k=1, top_p=0.5)
    assert numpy_choose(np.zeros((2, 1), np.float32), config, np.array([0.0, JUST_BELOW_ONE])) == [0, 0]


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize(
    ("bad", "name"), [([0.0, math.nan, 1.0], "nan"), ([-INF] * 3, "-inf"), ([0.0, INF, 1.0], "inf")]
)
def test_logits_without_a_finite_maximum_are_named_by_row(bad: list[float], name: str, do_sample: bool) -> None:
    logits = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], bad], np.float32)
    with pytest.raises(ModelFileError, match=rf"row 2: .*not finite \({name}\)"):
        choose(logits, SamplingConfig(do_sample=do_sample), np.full(3, 0.5))


def chi_square(tokens: list[int], p: NDArray[np.float64]) -> float:
    expected = len(tokens) * p
    return float(((np.bincount(tokens, minlength=len(p)) - expected) ** 2 / expected).sum())


LOGITS = np.array([0.3, -1.2, 2.0, 0.0, 1.1, -0.4], np.float32)
DRAWS = 50_000
CHI_SQUARE_5 = 20.5  # 5 degrees of freedom, p = 0.001


def softmax(scores: NDArray) -> NDArray[np.float64]:
    weights = np.exp(scores.astype(np.float64))
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float, chooser: Callable[[int], Chooser]) -> None:
    u = uniforms(77, np.arange(DRAWS), 0)
    logits = np.broadcast_to(LOGITS, (DRAWS, 6)).copy()
    tokens = chooser(6)(logits, SamplingConfig(temperature=temperature), u)
    assert chi_square(tokens, softmax(LOGITS / temperature)) < CHI_SQUARE_5


def test_frequencies_of_the_filtered_tokens_follow_their_softmax(chooser: Callable[[int], Chooser]) -> None:
    u = uniforms(78, np.arange(DRAWS), 0)
    logits = np.broadcast_to(LOGITS, (DRAWS, 6)).copy()
    tokens = chooser(6)(logits, SamplingConfig(top_k=3), u)
    assert set(tokens) == {0, 2, 4}
    ranks = [[0, 2, 4].index(token) for token in tokens]
    assert chi_square(ranks, softmax(LOGITS[[0, 2, 4]])) < 13.8  # 2 degrees of freedom, p = 0.001


def test_alarm_chi_square_notices_a_temperature_five_percent_off() -> None:
    u = uniforms(77, np.arange(DRAWS), 0)
    logits = np.broadcast_to(LOGITS, (DRAWS, 6))
    tokens = numpy_choose(logits, SamplingConfig(temperature=1.05), u)
    assert chi_square(tokens, softmax(LOGITS)) > 2 * CHI_SQUARE_5


SAMPLING_RANGES: list[tuple[str, object]] = [
    ("temperature", -0.1),
    ("temperature", -0.5),
    ("temperature", math.nan),
    ("temperature", INF),
    ("top_k", -1),
    ("top_k", 1.5),
    ("top_p", -0.01),
    ("top_p", 1.01),
    ("top_p", math.nan),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", 0.5),
]
GENERATION_RANGES: list[tuple[str, object]] = [
    ("max_new_tokens", 0),
    ("max_new_tokens", 2.0),
    ("num_return_sequences", 0),
    ("num_return_sequences", -3),
    ("num_return_sequences", "2"),
    ("batch_size", 0),
    ("batch_size", 1.0),
    ("stop", ("",)),
    ("stop", ""),
    ("stop", ("a", 3)),
]
WRONG_KINDS: list[tuple[str, object]] = [
    ("temperature", "hot"),
    ("temperature", None),
    ("top_p", "most"),
    ("top_p", None),
    ("top_k", "2"),
    ("top_k", None),
    ("seed", "1"),
    ("seed", None),
    ("do_sample", "no"),
    ("max_new_tokens", None),
    ("stop", None),
    ("stop", 7),
]
BOOLS = ("temperature", "top_k", "top_p", "seed", "max_new_tokens", "num_return_sequences", "batch_size")


@pytest.mark.parametrize(("name", "value"), SAMPLING_RANGES)
@pytest.mark.parametrize("make", [SamplingConfig, GenerationConfig])
def test_a_sampling_setting_out_of_range_is_named(make: Callable[..., object], name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got "):
        make(**{name: value})


@pytest.mark.parametrize(("name", "value"), GENERATION_RANGES)
def test_a_generation_setting_out_of_range_is_named(name: str, value: object) -> None:
    settings_by_name: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"^{name}: got "):
        GenerationConfig(**settings_by_name)


@pytest.mark.parametrize(("name", "value"), WRONG_KINDS)
def test_a_setting_of_the_wrong_kind_is_named(name: str, value: object) -> None:
    settings_by_name: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"^{name}: got "):
        GenerationConfig(**settings_by_name)


@pytest.mark.parametrize("name", BOOLS)
def test_true_is_no_number(name: str) -> None:
    settings_by_name: dict[str, Any] = {name: True}
    with pytest.raises(ConfigError, match=rf"^{name}: got True"):
        GenerationConfig(**settings_by_name)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    config = GenerationConfig(
        temperature=1e-6,
        top_k=0,
        top_p=0,
        seed=2**64 - 1,
        max_new_tokens=1,
        num_return_sequences=1,
        batch_size=1,
        stop="end",
    )
    assert config.stop == ("end",)
    assert SamplingConfig(top_p=1, seed=0) == SamplingConfig()
    lists: Any = ["a", "b"]
    assert GenerationConfig(stop=lists).stop == ("a", "b")


@pytest.mark.parametrize(
    "config", [SamplingConfig(), SamplingConfig(temperature=0.3), SamplingConfig(top_k=5)], ids=str
)
@pytest.mark.parametrize("V", [2, 11, 100])
def test_many_rows_draw_what_each_draws_alone(config: SamplingConfig, V: int) -> None:
    rng = np.random.default_rng(V)
    logits = (rng.standard_normal((200, V)) * rng.choice([0.1, 3, 30], (200, 1))).astype(np.float32)
    logits[50:60, 1:] = -np.inf
    u = rng.random(200)
    u[:5], u[5:10], u[50:55] = 0.0, 1.0, 1.0
    alone = [choose(row[None], config, x[None])[0] for row, x in zip(logits, u, strict=True)]
    np.testing.assert_array_equal(choose(logits, config, u), alone)
    assert choose(logits, config, (u + 0.3) % 1).tolist() != [*alone]
