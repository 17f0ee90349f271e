"""Texts in pieces, from several threads, and from states that were kept."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError, ModelFileError, NothingLeftError, UnknownTokenError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, INT8_STORAGE, WeightStorage, as_restored
from unrolled.runtime import Context, Generation, extend, generate, read, stream, write
from unrolled.runtime.generation.scheduler.flow_slots import MIN_CHUNK
from unrolled.runtime.models.engines import make_model
from unrolled.runtime.models.onnx_model import open_checkpoint

STOPS = ((), ("ab",), ("kk", "dab", "e"), ("aaaaaaaaaaaaaaaa",))
FORMS = ("numpy", "numba", "torch", "onnxruntime", "generate")


def make(engine: str, cell: str = "gru", tokenizer: CharTokenizer | WordTokenizer | None = None) -> StepModel:
    if engine == "torch":
        pytest.importorskip("torch")
    checkpoint = models.checkpoint(cell, 2)
    if tokenizer is not None:
        checkpoint = replace(checkpoint, preprocessing=text_preprocessing(tokenizer))
    return open_checkpoint(checkpoint, "generate") if engine == "generate" else make_model(checkpoint, engine)


@pytest.mark.parametrize("engine", FORMS)
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_pieces_joined_are_the_text(engine: str, stop: tuple[str, ...]) -> None:
    model = make(engine)
    for seed in range(4):
        (whole,) = generate(model, ["cab"], max_new_tokens=60, seed=seed, stop=stop)
        ends: list[Generation] = []
        pieces = list(stream(model, "cab", max_new_tokens=60, seed=seed, stop=stop, on_end=ends.append))
        assert "".join(pieces) == whole.text
        assert ends == [whole]
        assert all(pieces)
        assert len(pieces) > 1 or len(whole.text) < 17


@pytest.mark.parametrize("engine", FORMS)
def test_pieces_come_as_they_are_written(engine: str) -> None:
    pieces = list(stream(make(engine), "a", max_new_tokens=200))
    assert sum(map(len, pieces)) == 200
    assert max(map(len, pieces)) <= MIN_CHUNK


def test_what_may_become_a_stop_text_is_held() -> None:
    """Pieces end before a possible "dab" until the next tokens rule it out."""
    model = make("onnxruntime")
    for seed in range(20):
        given = ""
        for piece in stream(model, "k", max_new_tokens=80, seed=seed, stop=["dab"]):
            given += piece
            assert "dab" not in given
        (whole,) = generate(model, ["k"], max_new_tokens=80, seed=seed, stop=["dab"])
        assert given == whole.text


def test_words_and_special_tokens_stream_as_they_decode() -> None:
    model = make(
        "onnxruntime", tokenizer=WordTokenizer([EOS, BOS, "the", "cat", ",", "(", ")", "sat", "on", "a", "."], "error")
    )
    for seed in range(10):
        (whole,) = generate(model, ["the cat"], max_new_tokens=30, seed=seed)
        assert "".join(stream(model, "the cat", max_new_tokens=30, seed=seed)) == whole.text


def test_write_calls_with_each_piece() -> None:
    model, pieces = make("numba"), list[str]()
    text = write(model, "ab", pieces.append, max_new_tokens=50, seed=3)
    assert "".join(pieces) == text.text == generate(model, ["ab"], max_new_tokens=50, seed=3)[0].text


def test_errors_come_at_once() -> None:
    model = make("onnxruntime")
    with pytest.raises(UnknownTokenError):
        stream(model, "ÿ")
    with pytest.raises(ConfigError, match="no setting warmth"):
        stream(model, "a", warmth=2)
    with pytest.raises(ConfigError, match="needs one text"):
        stream(model, 3)  # type: ignore[arg-type]
    with pytest.raises(NothingLeftError):
        list(stream(model, "a", bad_words=[chr(ord("a") + i) for i in range(models.V)]))


@pytest.mark.parametrize("engine", FORMS)
def test_threads_stream_from_one_model_at_once(engine: str) -> None:
    model = make(engine, "lstm")
    expected = [generate(model, ["bad"], max_new_tokens=70, seed=seed)[0].text for seed in range(12)]

    def run(seed: int) -> str:
        return "".join(stream(model, "bad", max_new_tokens=70, seed=seed))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(12))) == expected


ENGINES = ("numpy", "numba", "torch", "onnxruntime")


@pytest.mark.parametrize("engine", ENGINES)
def test_going_on_from_a_context_is_reading_it_again(engine: str, tmp_path: Path) -> None:
    model = make(engine)
    context = read(model, "deadbeef")
    ends = ["", "a", "cab", "cabbage", "cabb"]
    expected = generate(model, ["deadbeef" + end for end in ends], max_new_tokens=40, repetition_penalty=1.3)
    texts = generate(model, ends, context=context, max_new_tokens=40, repetition_penalty=1.3)
    assert [text.tokens for text in texts] == [text.tokens for text in expected]
    context.save(tmp_path / "a.context")
    again = Context.load(tmp_path / "a.context")
    assert generate(model, ends, context=again, max_new_tokens=40, repetition_penalty=1.3) == texts
    longer = read(model, "cab", context)
    assert longer.tokens.tolist() == model.tokenizer.encode("deadbeefcab").tolist()
    assert generate(model, [""], context=longer, seed=5)[0].tokens == generate(model, ["deadbeefcab"], seed=5)[0].tokens


def test_contexts_go_from_engine_to_engine_and_into_graphs() -> None:
    context = read(make("numba"), "deadbeef")
    expected = generate(make("numba"), ["a"], context=context, max_new_tokens=50)[0].tokens
    for engine in FORMS:
        assert generate(make(engine), ["a"], context=context, max_new_tokens=50)[0].tokens == expected


@pytest.mark.parametrize("engine", ["numpy", "numba", "onnxruntime"])
def test_a_text_in_two_parts_is_the_whole_text(engine: str) -> None:
    model = make(engine)
    (whole,) = generate(model, ["fad"], max_new_tokens=50, seed=7)
    context = read(model, "fad")
    (first,) = generate(model, [""], context=context, max_new_tokens=20, seed=7)
    (second,) = generate(model, [""], context=extend(model, context, first), max_new_tokens=30, seed=7)
    assert first.tokens + second.tokens == whole.tokens


def test_alarm_another_state_writes_another_text() -> None:
    model = make("onnxruntime")
    context = read(model, "deadbeef")
    wrong = replace(context, state=np.zeros_like(context.state))
    settings = {"max_new_tokens": 60, "seed": 1}
    assert generate(model, ["a"], context=wrong, **settings) != generate(model, ["a"], context=context, **settings)


CONTINUE = """
import sys
from unrolled.runtime import Context, generate, load
context = Context.load(sys.argv[2])
for text in generate(load(sys.argv[1], "numpy"), ["", "cab"], context=context, max_new_tokens=30, seed=4):
    print(text.text)
"""


def test_a_text_goes_on_in_another_process(tmp_path: Path) -> None:
    checkpoint = models.checkpoint("lstm", 2)
    save_checkpoint(tmp_path / "model.safetensors", checkpoint)
    model = make_model(checkpoint, "numpy")
    (whole,) = generate(model, ["deadbeef"], max_new_tokens=50, seed=4)
    (first,) = generate(model, ["deadbeef"], max_new_tokens=20, seed=4)
    context = extend(model, read(model, "deadbeef"), replace(first, prompt=""))
    context.save(tmp_path / "a.context")
    command = [sys.executable, "-c", CONTINUE, str(tmp_path / "model.safetensors"), str(tmp_path / "a.context")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    here = generate(model, ["", "cab"], context=context, max_new_tokens=30, seed=4)
    assert done.stdout.splitlines() == [text.text for text in here]
    assert first.text + here[0].text == whole.text


@pytest.mark.parametrize("weights", [FLOAT32_STORAGE, WeightStorage("int8")], ids=["float32", "int8"])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_file_that_draws_inside_reads_and_extends(cell: str, weights: WeightStorage) -> None:
    checkpoint = models.checkpoint(cell)
    inside, step = (open_checkpoint(checkpoint, form, weights) for form in ("generate", "step"))
    settings: dict[str, Any] = {"seed": 6, "temperature": 0.9}
    whole = generate(step, ["cabdace"], max_new_tokens=16, **settings)[0]
    story = read(inside, "face", read(inside, "bad"))
    expected = read(step, "face", read(step, "bad"))
    assert story.tokens.tolist() == expected.tokens.tolist()
    np.testing.assert_allclose(story.state, expected.state, rtol=1e-5, atol=1e-6)
    story = read(inside, "cab")
    first = generate(inside, ["dace"], context=story, max_new_tokens=9, **settings)[0]
    longer = extend(inside, story, first)
    assert longer.written == 9
    rest = generate(inside, [""], context=longer, max_new_tokens=7, **settings)[0]
    assert (*first.tokens, *rest.tokens) == whole.tokens
    assert generate(step, [""], context=longer, max_new_tokens=7, **settings)[0].tokens == rest.tokens
    assert not read(inside, "c").state.any()  # one token, which the continuation reads


def test_contexts_tell_stored_weights_apart(tmp_path: Path) -> None:
    """Contexts of float32 weights, of those restored from fp16 or int8, and of products in int8, in every combination."""
    checkpoint = models.checkpoint("lstm", 2)
    stored = (FLOAT32_STORAGE, WeightStorage("fp16"), WeightStorage("int8"), INT8_STORAGE)
    contexts = [read(open_checkpoint(checkpoint, "step", weights), "cab") for weights in stored]
    for place, weights in enumerate(stored):
        for form in ("step", "both"):
            model = open_checkpoint(checkpoint, form, weights)
            for other, context in enumerate(contexts):
                if other == place:
                    assert len(generate(model, ["a"], context=context, max_new_tokens=3)[0].tokens) == 3
                else:
                    with pytest.raises(ConfigError, match="weights that are stored otherwise"):
                        generate(model, ["a"], context=context)
    assert contexts[0].digest == checkpoint.digest
    assert generate(make_model(checkpoint, "numpy"), ["a"], context=contexts[0], max_new_tokens=3)
    # the weights that came back are a checkpoint like any other
    back = make_model(as_restored(checkpoint, "int8"), "numpy")
    assert generate(back, ["a"], context=contexts[2], max_new_tokens=3)


def test_what_a_context_says_is_checked(tmp_path: Path) -> None:
    model = make("numpy")
    context = read(model, "cab")
    file = tmp_path / "c.context"
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"written": -1}, "written is -1, needs a whole number from 0 to its 3"),
        ({"written": 4}, "written is 4"),
        ({"written": True}, "written is True"),
        ({"written": 1.5}, "written is 1.5"),
        ({"digest": None}, "its digest is None"),
        ({"tokens": np.array([1, -1], np.int64)}, "not those of a context"),
    )
    for change, message in changes:
        replace(context, **change).save(file)
        with pytest.raises(ModelFileError, match=message):
            Context.load(file)
    replace(context, tokens=np.array([1, models.V], np.int64)).save(file)
    for prompt in ("", "a"):
        with pytest.raises(ConfigError, match=f"tokens that are not of the model's vocabulary of {models.V}"):
            generate(model, [prompt], context=Context.load(file), repetition_penalty=1.2)


def test_contexts_of_other_models_and_damaged_files_are_refused(tmp_path: Path) -> None:
    context = read(make("onnxruntime", "lstm"), "a")
    for use in (
        lambda: generate(make("onnxruntime"), ["a"], context=context),
        lambda: read(make("numpy"), "a", context),
    ):
        with pytest.raises(ConfigError, match="another model"):
            use()
    file = tmp_path / "c.context"
    with pytest.raises(ModelFileError, match="cannot be read"):
        Context.load(file)
    context.save(file)
    data = file.read_bytes()
    for bad in (data[:-9], b"", data[:8] + b"}" * (len(data) - 8), b"\xff" * 40):
        file.write_bytes(bad)
        with pytest.raises(ModelFileError):
            Context.load(file)
    from safetensors.numpy import save_file

    save_file({"tokens": np.zeros(1, np.int64)}, file)
    with pytest.raises(ModelFileError, match="is no context"):
        Context.load(file)
    replace(context, tokens=context.tokens[:0]).save(file)
    with pytest.raises(ModelFileError, match="not those of a context"):
        Context.load(file)


def test_overlapping_steps_of_torch_leave_onednn_as_it_was() -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    from unrolled.export.torch.inference import _onednn_off

    before = torch.backends.mkldnn.enabled
    first, second = ExitStack(), ExitStack()
    first.enter_context(_onednn_off)
    second.enter_context(_onednn_off)
    first.close()  # the second step began before the first ended, and ends after it
    assert not torch.backends.mkldnn.enabled
    second.close()
    assert torch.backends.mkldnn.enabled == before
