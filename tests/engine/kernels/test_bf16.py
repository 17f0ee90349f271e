"""Products in bfloat16: against float64 products of rounded factors, whole models against float32, rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import numba
import numpy as np
import pytest
from jit import compiled
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ConfigError
from unrolled.engine.kernels.decode.decoder import Decoder
from unrolled.engine.kernels.gemm import matmul
from unrolled.engine.kernels.gemm.matmul import product
from unrolled.engine.kernels.gemm.packing import bf16_packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.gemm.weight_gradient import Depth, add_transposed_product
from unrolled.engine.kernels.simd import bf16
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.network.backends import get_backend
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.network.network import Network
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.export.training_engines import make_trainable
from unrolled.runtime.models.engines import make_model
from unrolled.runtime.models.load import load


def whole_model(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test slow on a processor without the instruction, for which more kernels must be compiled."""
    return test if bf16.available() else pytest.mark.slow(test)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow bfloat16 on every processor: products replace a missing instruction, which users are refused."""
    monkeypatch.setattr(bf16, "available", lambda: True)


def rounded(x: NDArray) -> NDArray:
    """Return the nearest bfloat16, ties to the even one, as float32."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def test_a_word_holds_two_numbers_rounded_to_nearest_even() -> None:
    @compiled
    def words(low: NDArray, high: NDArray, into: NDArray) -> None:
        for i in range(len(low)):
            into[i] = bf16.word(low[i], high[i])

    ulp = 2.0**-7  # of a bfloat16 in [1, 2)
    halves = np.array([1 + ulp / 2, 1 + 3 * ulp / 2, 1 + ulp / 2 + 2**-23, -1 - ulp / 2], np.float32)
    low = np.concatenate([halves, np.random.default_rng(0).standard_normal(1000).astype(np.float32)])
    low = np.concatenate([low, np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3.4e38, 1e-45], np.float32)])
    into = np.empty(len(low), np.int32)
    words(low, low[::-1].copy(), into)
    pairs = into.view(np.uint16).astype(np.uint32).reshape(-1, 2) << 16
    got = pairs.view(np.float32)
    np.testing.assert_array_equal(got[:4, 0], np.array([1, 1 + 2 * ulp, 1 + ulp, -1], np.float32))
    np.testing.assert_array_equal(got[:, 0], rounded(low))
    np.testing.assert_array_equal(got[:, 1], rounded(low[::-1].copy()))
    np.testing.assert_array_equal(np.signbit(got[-4:-2, 0]), [False, True])


# rows, depth and columns of a product: below, at and above those of tiles and panels
SIZES = [
    (1, 1, 1),
    (3, 5, 7),
    (33, 255, 100),
    (70, 65, 37),
    (1, 512, 200),
    (9, 2, 32),
    (64, 32, 64),
    (49, 96, 80),
    (35, 70, 50),
    (1, 70, 50),
]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_rounded_factors(size: tuple[int, int, int]) -> None:
    M, K, N = size
    rng = np.random.default_rng(M * K * N)
    a, b, d = (rng.standard_normal(shape).astype(np.float32) for shape in ((M, K), (K, N), (M, N)))
    bias = rng.standard_normal(N).astype(np.float32)
    exact = [rounded(x).astype(np.float64) for x in (a, b, d)]
    scale = np.sqrt(K)
    for panels in (pack(b, bf16_packing()), pack_transposed(np.ascontiguousarray(b.T), bf16_packing())):
        got = product(a, panels, bias) / scale
        assert_close(got, (exact[0] @ exact[1] + bias) / scale, "bf16 product", np.float32, "product")
    c, sums, places = np.ones((K, N), np.float32), np.ones((2, K), np.float32), np.arange(M) % 2
    add_transposed_product(a, d, c, sums, places, bf16_packing())
    scale = np.sqrt(M)
    assert_close(c / scale, (1 + exact[0].T @ exact[2]) / scale, "bf16 product", np.float32, "transposed product")
    expected = np.stack([1 + a[place::2].sum(0, np.float64) for place in (0, 1)])
    assert_close(sums / scale, expected / scale, "bf16 product", np.float32, "sums are not rounded")


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("K", "M", "N", "column", "places", "batch"),
    [(1100, 600, 40, 3, 1, 1), (2049, 70, 50, 0, 5, 1), (31, 48, 64, 16, 1, 1), (1280, 70, 50, 3, 5, 64)],
)
def test_transposed_products_of_many_rows_and_columns(
    K: int, M: int, N: int, column: int, places: int, batch: int
) -> None:  # fmt: skip
    rng = np.random.default_rng(K)
    a, b = rng.standard_normal((K, column + M + 9)).astype(np.float32), rng.standard_normal((K, N)).astype(np.float32)
    c, sums, where = np.ones((M, N), np.float32), np.ones((places, column + M + 5), np.float32), np.arange(K) % places
    add_transposed_product(a, b, c, sums, where, bf16_packing(), column, Depth(batch))
    exact, scale = rounded(a).astype(np.float64)[:, column : column + M], np.sqrt(K)
    expected = (1 + exact.T @ rounded(b)) / scale
    assert_close(c / scale, expected, "bf16 product", np.float32, "transposed product")
    totals = np.stack([1 + a[place::places, column : column + M + 5].sum(0, np.float64) for place in range(places)])
    assert_close(sums[:, column:] / scale, totals / scale, "bf16 product", np.float32, "sums")
    assert (sums[:, :column] == 1).all()


@compiled
def add_rows(words: NDArray, panels: NDArray, c: NDArray) -> None:
    matmul.add_product(
        words.reshape(-1), 0, words.shape[1], 1, panels, c.reshape(-1), 0, c.shape[1], len(c), c.shape[1], False
    )  # fmt: skip


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("K", "N"), [(256, 128), (33, 70), (200, 100), (512, 48), (100, 16)])
def test_a_row_of_a_product_is_the_same_bits_among_any_number_of_others(K: int, N: int) -> None:
    rng = np.random.default_rng(K)
    panels = pack(rng.standard_normal((K, N)).astype(np.float32), bf16_packing())
    factors = rounded(
        rng.standard_normal((40, K + K % 2)).astype(np.float32)
        * 2.0 ** rng.integers(-20, 20, (40, 1), np.int32).astype(np.float32)
    )
    factors[:, K:] = 0
    factors[3, 0], factors[4, 1] = np.inf, np.nan
    halves = factors.view(np.uint32) >> 16
    words = np.zeros((40, panels.shape[1]), np.int32)
    words[:, : (K + 1) // 2] = (halves[:, ::2] | halves[:, 1::2] << 16).view(np.int32)
    before = rng.standard_normal((40, N)).astype(np.float32)
    every = before.copy()
    add_rows(words, panels, every)
    assert np.isfinite(np.delete(every, [3, 4], axis=0)).all()
    assert not np.isfinite(every[3:5]).any()
    for first, last in [(r, r + 1) for r in range(40)] + [(1, 17), (7, 40), (2, 34), (0, 5)]:
        some = before[first:last].copy()
        add_rows(words[first:last].copy(), panels, some)
        np.testing.assert_array_equal(some, every[first:last])


@pytest.mark.usefixtures("anywhere")
def test_the_comparison_of_products_can_fail() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 64)).astype(np.float32), rng.standard_normal((64, 40)).astype(np.float32)
    got = product(a, pack(b, bf16_packing()), np.zeros(40, np.float32))
    with pytest.raises(AssertionError):
        assert_close(got / 8, a @ b / 8, "bf16 product", np.float32, "factors that were not rounded")


def norm_error(got: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@whole_model
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_gradients_are_near_those_of_float32(cell: str) -> None:
    config = models.config(cell, hidden_size=37, vocab_size=70, embedding_size=19)
    params = models.params(config, np.float32)
    batch, state = models.batch(config, 9, 7), models.state(config, 7, np.float32)
    exact = Network(config.spec, params, "numpy").gradients(batch, state)
    got = Network(config.spec, params, "numba", "bf16").gradients(batch, state)
    assert_close(got.loss.loss / exact.loss.loss, 1.0, "bf16 model", np.float32, "loss")
    assert_close(got.state, exact.state, "bf16 model", np.float32, "state")
    errors = {name: norm_error(got.params[name], value) for name, value in exact.params.items()}
    for name, error in errors.items():
        assert_close(np.float32(error), np.float32(0), "bf16 model", np.float32, name)
    assert max(errors.values()) > 1e-4  # it did round


@whole_model
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("H", [37, 64])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_row_is_the_same_bits_alone_and_in_any_batch(cell: str, H: int) -> None:
    config = models.config(cell, hidden_size=H)
    model = LanguageModel(config, models.params(config, np.float32), "numba", "bf16")
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (6, 99))
    state = models.state(config, 99, np.float32)
    logits, final = model.step(tokens, state)
    threads = numba.get_num_threads()
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for rows in ([0], [98], [3, 5], list(range(1, 10)), list(range(30, 52))):
                some, moved = model.step(tokens[:, rows], np.ascontiguousarray(state[:, :, rows]))
                np.testing.assert_array_equal(some, logits[:, rows])
                np.testing.assert_array_equal(moved, final[:, :, rows])
    finally:
        numba.set_num_threads(threads)


@whole_model
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_the_decoder_makes_the_logits_of_the_step_path(cell: str) -> None:
    config = models.config(cell, hidden_size=40)
    params = models.params(config, np.float32)
    model = LanguageModel(config, params, "numba", "bf16")
    tokens = np.random.default_rng(9).integers(0, config.vocab_size, (8, 3))
    state = models.state(config, 3, np.float32)
    logits, moved = Decoder(config, params, bf16_packing()).read(tokens, state)
    expected, final = model.step(tokens, state)
    np.testing.assert_array_equal(logits, expected[-1])
    np.testing.assert_array_equal(moved, final)


@whole_model
@pytest.mark.usefixtures("anywhere")
def test_training_in_bf16_follows_float32_and_keeps_float32_weights() -> None:
    config = models.config("lstm", hidden_size=32)
    batch, state = models.batch(config, 8, 8), zero_state(config, 8)
    losses: dict[str, list[float]] = {}
    for precision in ("float32", "bf16"):
        params = models.params(config, np.float32)
        model = make_trainable("numba", config.spec, params, OptimizerConfig("adam", 1e-2), 1.0, precision)
        losses[precision] = [
            (result := model.train_step(batch, state, 1e-2, None)).loss.loss / result.loss.weight for _ in range(40)
        ]
        assert all(value.dtype == np.float32 for value in model.export_params().values())
    assert_close(losses["bf16"], losses["float32"], "bf16 model", np.float32, "losses")
    assert losses["bf16"][-1] < 0.6 * losses["bf16"][0]
    assert model.engine == make_model(models.checkpoint(), "numba", "bf16").engine == "numba-bf16"


def refused(what: str) -> Any:
    return pytest.raises(ConfigError, match=what)


def test_bf16_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    config = models.config("lstm")
    params = models.params(config, np.float32)
    with refused("numba engine"):
        LanguageModel(config, params, "numpy", "bf16")
    with refused("numba engine"):
        make_trainable("torch", config.spec, params, OptimizerConfig("adam"), None, "bf16")
    with refused("numba engine"):
        make_model(models.checkpoint(), "onnxruntime", "bf16")
    with refused(r"precision: .*float16"):
        get_backend("numba", "float16")
    (tmp_path / "model.onnx").write_bytes(b"")
    with refused("needs a checkpoint"):
        load(tmp_path / "model.onnx", precision="bf16")
    monkeypatch.setattr(bf16, "available", lambda: False)
    with refused("AVX512-BF16"):
        get_backend("numba", "bf16")


@pytest.mark.usefixtures("anywhere")
def test_bf16_is_refused_for_float64() -> None:
    config = models.config("lstm")
    with refused("float32 parameters"):
        LanguageModel(config, models.params(config), "numba", "bf16")
