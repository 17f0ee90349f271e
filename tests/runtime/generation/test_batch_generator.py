"""Batches of columns: the texts of generate whatever the batches, errors as columns, small pickles, threads."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError, ModelFileError, NothingLeftError, UnknownTokenError
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.runtime import generate, load
from unrolled.runtime.generation import batch_generator
from unrolled.runtime.generation.batch_generator import BatchGenerator, shared_model

PROMPTS = ["a", "cafe", "bad", "hi", "deadbeef", "k", "face", "jig"]
SETTINGS: dict[str, Any] = {"max_new_tokens": 7, "seed": 3, "stop": "b"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "model.safetensors"
    save_checkpoint(file, models.checkpoint("gru", 1, hidden_size=12))
    return str(file)


def test_texts_are_those_of_generate_and_columns_stay(path: str) -> None:
    batch = {"prompt": np.array(PROMPTS), "label": np.arange(8) * 2, "vector": np.ones((8, 3))}
    got = BatchGenerator(path, "numpy", lanes=3, **SETTINGS)(batch)
    wanted = generate(load(path, "numpy"), PROMPTS, **SETTINGS)
    assert list(got) == ["prompt", "label", "vector", "text", "finish_reason", "tokens", "error"]
    assert got["text"].tolist() == [text.text for text in wanted]
    assert got["finish_reason"].tolist() == [text.finish_reason for text in wanted]
    assert got["tokens"].tolist() == [len(text.tokens) for text in wanted]
    assert got["error"].tolist() == [""] * 8
    assert got["label"].tolist() == list(range(0, 16, 2))
    assert got["vector"].shape == (8, 3)
    assert (got["text"].dtype, got["tokens"].dtype) == (np.dtype(object), np.dtype(np.int64))


def test_logprobs_are_a_column_of_lists(path: str) -> None:
    got = BatchGenerator(path, "numpy", logprobs=True, **SETTINGS)({"prompt": np.array(["a", "Ω", "cab"])})
    wanted = generate(load(path, "numpy"), ["a", "a", "cab"], logprobs=True, **SETTINGS)
    assert got["logprobs"].tolist() == [list(wanted[0].logprobs or ()), [], list(wanted[2].logprobs or ())]
    assert len(got["logprobs"][0]) == got["tokens"][0]


def test_an_index_that_draws_cannot_be_numbered_by_is_an_error_of_its_row(path: str) -> None:
    write = BatchGenerator(path, "numpy", index_column="i", num_return_sequences=3, max_new_tokens=2)
    got = write({"prompt": np.array(["ab", "ab"]), "i": np.array([2**63 + 5, 1], np.uint64)})
    assert [error.split(",")[0] for error in got["error"][::3]] == ["index: got 9223372036854775813", ""]


def test_an_index_makes_texts_independent_of_the_batches(path: str) -> None:
    rows = {"p": np.array(PROMPTS), "row": np.arange(8)}
    write = BatchGenerator(path, "numpy", "p", "row", **SETTINGS)
    whole = dict(zip(rows["row"].tolist(), write(rows)["text"], strict=True))
    order = np.random.default_rng(1).permutation(8)
    for part in np.array_split(order, 3):
        got = write({name: column[part] for name, column in rows.items()})
        assert got["text"].tolist() == [whole[i] for i in part]
    by_place = BatchGenerator(path, "numpy", "p", **SETTINGS)
    assert by_place({"p": rows["p"][4:]})["text"].tolist() != [whole[i] for i in range(4, 8)]


def test_columns_named_like_settings_are_settings_of_the_rows(path: str) -> None:
    write = BatchGenerator(path, "numpy", index_column="i", **SETTINGS)
    plain = write({"prompt": np.array(["a"] * 4), "i": np.arange(4)})
    got = write(
        {
            "prompt": np.array(["a"] * 4),
            "i": np.array([0.0, 1.0, 2.0, 3.0]),
            "max_new_tokens": np.array([2.0, np.nan, 3.5, 3.0]),
            "stop": np.array([None, ("c",), None, None], dtype=object),
        }
    )
    assert got["text"][0] == plain["text"][0][:2]
    (changed,) = write({"prompt": np.array(["a"]), "i": np.array([1]), "stop": np.array(["c"])})["text"]
    assert got["text"][1] == changed
    assert "max_new_tokens: got 3.5" in got["error"][2]
    assert got["text"][3] == plain["text"][3][:3]


def test_several_texts_a_prompt_are_rows_of_their_own(path: str) -> None:
    write = BatchGenerator(path, "numpy", num_return_sequences=3, **SETTINGS)
    got = write({"prompt": np.array(["a", "Ω", "cab"])})
    assert got["prompt"].tolist() == ["a"] * 3 + ["Ω"] * 3 + ["cab"] * 3
    assert got["sample"].tolist() == [0, 1, 2] * 3
    wanted = generate(load(path, "numpy"), ["a", "a", "cab"], num_return_sequences=3, **SETTINGS)
    assert got["text"].tolist() == [text.text if text.index // 3 != 1 else "" for text in wanted]


def test_rows_of_temperature_0_are_greedy_and_others_draw_beside_them(path: str) -> None:
    batch = {"prompt": np.array(["a", "a", "a"]), "temperature": np.array([0.0, 1.5, np.nan])}
    model = load(path)
    greedy = generate(model, ["a"], do_sample=False, max_new_tokens=9)[0].text
    drawn = generate(model, ["a"] * 3, temperature=1.5, seed=3, max_new_tokens=9)
    found = BatchGenerator(path, temperature=0, seed=3, max_new_tokens=9)(batch)["text"].tolist()
    assert found == [greedy, drawn[1].text, greedy]
    assert greedy != drawn[1].text


def test_bad_rows_are_errors_in_their_column_or_raise(path: str) -> None:
    prompts = np.array(["a", "xyz", None, 3, "", "aaaa"], dtype=object)
    rows = {"prompt": prompts, "i": np.array([0, 1, 2, 3, 4, 5])}
    got = BatchGenerator(path, "numpy", index_column="i", max_prompt_tokens=3, **SETTINGS)(rows)
    assert [bool(error) for error in got["error"]] == [False, True, True, True, True, True]
    for error, part in zip(got["error"], ("", "'x'", "got None", "got 3", "no token", "4 tokens"), strict=True):
        assert part in error
    (good,) = generate(load(path, "numpy"), ["a"], **SETTINGS)
    assert got["finish_reason"].tolist() == [good.finish_reason, *["error"] * 5]
    assert got["text"].tolist() == [good.text, *[""] * 5]
    assert got["tokens"].tolist() == [len(good.tokens), 0, 0, 0, 0, 0]
    with pytest.raises(UnknownTokenError, match="'x'"):
        BatchGenerator(path, "numpy", strict=True)({"prompt": prompts})
    bad = BatchGenerator(path, "numpy", index_column="i")(
        {"prompt": prompts[:1].repeat(3), "i": np.array([-1, 0.5, 2])}
    )
    assert [error.split(",")[0] for error in bad["error"]] == ["index: got -1", "index: got 0.5", ""]


def test_a_text_with_no_token_left_is_an_error(path: str) -> None:
    batch = {"prompt": np.array(["a", "ab", "cab"]), "no_repeat_ngram_size": np.array([0, 1, 0])}
    settings = {**SETTINGS, "max_new_tokens": 40, "stop": ()}
    got = BatchGenerator(path, "numpy", num_return_sequences=2, logprobs=True, **settings)(batch)
    wanted = generate(load(path, "numpy"), ["a", "a", "cab"], num_return_sequences=2, **settings)
    error = "no_repeat_ngram_size: no token is left to come next in row {}; allow more"
    assert got["error"].tolist() == ["", "", error.format(2), error.format(3), "", ""]
    assert got["text"].tolist() == [text.text if text.index // 2 != 1 else "" for text in wanted]
    assert got["finish_reason"].tolist() == [*["length"] * 2, *["error"] * 2, *["length"] * 2]
    assert got["tokens"].tolist() == [40, 40, 0, 0, 40, 40]
    assert [len(values) for values in got["logprobs"]] == [40, 40, 0, 0, 40, 40]
    with pytest.raises(NothingLeftError, match="row 1"):
        BatchGenerator(path, "numpy", strict=True, **settings)(batch)


def test_an_empty_batch_is_none_and_nothing_is_loaded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_generator, "load_language_model", lambda *_: pytest.fail("loaded"))
    got = BatchGenerator(path, "numpy")({"prompt": np.array([], dtype=object)})
    assert {name: len(column) for name, column in got.items()} == dict.fromkeys(got, 0)
    assert list(got) == ["prompt", "text", "finish_reason", "tokens", "error"]


def test_what_is_no_batch_or_setting_is_refused(path: str) -> None:
    for settings, message in (
        ({"top_k": -1}, "top_k: got -1"),
        ({"heat": 1}, "no setting heat"),
        ({"num_beams": 3}, "no setting num_beams"),
        ({"lanes": 0}, "lanes: got 0"),
        ({"engine": "numpi"}, "engine: got 'numpi'"),
    ):
        with pytest.raises(ConfigError, match=message):
            BatchGenerator(path, **settings)
    write = BatchGenerator(path, "numpy", index_column="i")
    for batch, message in (
        ({"text": np.array(["a"])}, "no column 'prompt'; there are text"),
        ({"prompt": np.array(["a"])}, "no column 'i'"),
        ({"prompt": np.array(["a"]), "i": np.arange(2)}, "one length each"),
        ({"prompt": np.array("a"), "i": np.array(1)}, "one length each"),
        ({"prompt": np.array(["a"]), "i": np.arange(1), "text": np.array(["a"])}, "'text' is there already"),
    ):
        with pytest.raises(ConfigError, match=message):
            write(batch)
    with pytest.raises(ModelFileError, match="no such file"):
        BatchGenerator("nowhere")({"prompt": np.array(["a"])})


def test_it_pickles_small_and_works_in_another_process(path: str) -> None:
    write = BatchGenerator(path, "numpy", **SETTINGS)
    texts = write({"prompt": np.array(PROMPTS)})["text"].tolist()
    data = pickle.dumps(write)
    assert len(data) < 2000
    assert pickle.loads(data)({"prompt": np.array(PROMPTS)})["text"].tolist() == texts
    code = (
        "import pickle, sys, numpy as np; write = pickle.load(sys.stdin.buffer);"
        f"print(write({{'prompt': np.array({PROMPTS})}})['text'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(texts)


def test_threads_share_one_model_loaded_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(batch_generator, "load_language_model", lambda *a: loaded.append(a) or load(*a))
    monkeypatch.setattr(batch_generator, "_models", {})
    alone = BatchGenerator(path, "numpy", **SETTINGS)({"prompt": np.array(PROMPTS)})["text"].tolist()
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        found[number] = BatchGenerator(path, "numpy", **SETTINGS)({"prompt": np.array(PROMPTS)})["text"].tolist()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [alone] * 4
    assert len(loaded) == 1
    save_checkpoint(path, models.checkpoint("gru", 1, hidden_size=13))
    assert shared_model(path, "numpy").config.hidden_size == 13
    assert len(loaded) == 2
    before, other = os.stat(path), models.checkpoint("gru", 1, hidden_size=13)
    other.params["output.bias"][:] += 1
    save_checkpoint(path, other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time, as a copy may be
    assert os.stat(path).st_size == before.st_size
    assert shared_model(path, "numpy").digest == other.digest


def test_a_pandas_frame_is_a_batch(path: str) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"prompt": PROMPTS, "row": range(8), "group": [0, 1] * 4}, index=range(5, 13))
    write = BatchGenerator(path, "numpy", index_column="row", **SETTINGS)
    whole = frame.assign(text=write(frame)["text"])
    assert whole["text"].tolist() == [text.text for text in generate(load(path, "numpy"), PROMPTS, **SETTINGS)]
    parts = pandas.concat(pandas.DataFrame(write(part)) for _, part in frame.groupby("group"))
    assert parts.sort_values("row")["text"].tolist() == whole["text"].tolist()
