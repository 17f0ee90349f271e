"""The example of ``runtime/README.md``: texts on a local Ray cluster are those of one process, whoever gets which rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.runtime import generate, load
from unrolled.runtime.generation.batch_generator import BatchGenerator

pytestmark = pytest.mark.slow
README = Path(__file__).parents[3] / "runtime" / "README.md"
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "temperature": 0.8}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with a cluster of its own, of two processors on this machine."""
    module = pytest.importorskip("ray", reason='the ray extra is not installed: pip install "unrolled[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        module.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield module
        module.shutdown()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(file, models.checkpoint("gru", 1, hidden_size=12))
    return str(file)


def prompts(count: int) -> list[str]:
    rng = np.random.default_rng(7)
    return ["".join(chr(ord("a") + i) for i in rng.integers(0, models.V, rng.integers(1, 9))) for _ in range(count)]


@pytest.mark.filterwarnings("ignore")  # what Ray and Arrow warn of
@pytest.mark.parametrize(("blocks", "batch"), [(7, 16), (3, 5)])
def test_texts_of_shuffled_shards_are_those_of_one_process(ray: Any, path: str, blocks: int, batch: int) -> None:
    rows = [{"row": i, "prompt": prompt} for i, prompt in enumerate(prompts(100))]
    rows[13]["prompt"] = "Ω"
    wanted = generate(load(path, "numpy"), [row["prompt"] if row["row"] != 13 else "a" for row in rows], **SETTINGS)
    data = ray.data.from_items(rows).random_shuffle(seed=blocks).repartition(blocks)
    write = BatchGenerator(path, "numpy", index_column="row", lanes=4, **SETTINGS)
    got = sorted(data.map_batches(write, batch_size=batch).take_all(), key=lambda row: row["row"])
    assert [row["text"] for row in got] == [text.text if text.index != 13 else "" for text in wanted]
    assert [row["tokens"] for row in got] == [len(text.tokens) if text.index != 13 else 0 for text in wanted]
    assert ["Ω" in row["error"] for row in got] == [i == 13 for i in range(100)]


@pytest.mark.filterwarnings("ignore")
def test_the_example_runs(ray: Any, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the section itself, on a file of prompts."""
    section = README.read_text(encoding="utf-8").split("## Beyond one machine", 1)[1]
    code = next(block for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "ray.data" in block)
    (tmp_path / "prompts.csv").write_text("row,prompt\n" + "".join(f"{i},{p}\n" for i, p in enumerate(prompts(40))))
    monkeypatch.chdir(tmp_path)
    code = code.replace("/shared/", f"{tmp_path}/").replace("runs/book", path)
    exec(compile(code, "README", "exec"), {})
    import pandas

    got = pandas.concat(map(pandas.read_parquet, (tmp_path / "texts").glob("*.parquet"))).sort_values("row")
    wanted = generate(load(path, "numba"), prompts(40), temperature=0.7, seed=1)
    assert got["text"].tolist() == [text.text for text in wanted]
