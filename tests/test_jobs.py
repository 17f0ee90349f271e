"""Jobs: lines in the order of the rows, whole whatever ends the process, and gone on with byte for byte."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.checkpoint import save_checkpoint
from unrolled.engine.contract import StepModel
from unrolled.engine.errors import ConfigError, JobError, UnknownTokenError
from unrolled.engine.tables import TableFormat
from unrolled.runtime import GenerationConfig, generate, jobs, load
from unrolled.runtime.adapters import make_model
from unrolled.runtime.interrupts import Interrupts
from unrolled.runtime.job_file import JobFile, Part
from unrolled.runtime.jobs import Job, Progress, run_job
from unrolled.runtime.lanes import write_rows
from unrolled.runtime.result_files import ResultStream
from unrolled.runtime.rows import Generation, Request

LANES = 2  # blocks of 64 rows
CONFIG = GenerationConfig(max_new_tokens=6, stop=("b",), seed=5)


@pytest.fixture(scope="module")
def model() -> StepModel:
    return make_model(models.checkpoint("gru", 1, hidden_size=12), "numpy")


def prompts(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Rows of different lengths, some with settings of their own."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for i in range(count):
        letters = rng.integers(0, models.V, rng.integers(1, 9))
        made.append({"id": f"r{i}", "prompt": "".join(chr(ord("a") + letter) for letter in letters)})
        if i % 7 == 0:
            made[-1]["temperature"] = 0.5
    return made


def write_input(folder: Path, rows: list[Any], name: str = "in.jsonl") -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def mixed(count: int) -> list[Any]:
    """Rows with a bad one here and there, at both ends too."""
    rows: list[Any] = prompts(count)
    for place, bad in ((0, "{"), (count // 2, {"prompt": "Ω"}), (count // 2 + 1, {"id": 1, "prompt": "a", "top_p": 2})):
        rows.insert(place, bad)
    return [*rows, {"id": "last"}]


def records(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def is_complete(output: Path) -> bool:
    """Return whether the file that identifies a job has digests of whole blocks alone, and says that there are no more."""
    _, _, rest = Path(f"{output}.job").read_bytes().partition(b"\n}\n")
    return re.fullmatch(rb"([0-9a-f]{64}\n)*complete\n", rest) is not None


def done(model: StepModel, folder: Path, rows: list[Any], name: str = "out.jsonl", **settings: Any) -> Path:
    """The output of an uninterrupted job."""
    output = folder / name
    run_job(model, Job(write_input(folder, rows), str(output), **{"lanes": LANES, **settings}), CONFIG)
    return output


class Stop:
    """An observer that ends the job, as Ctrl-C would, when so many rows are over."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, progress: Progress) -> None:
        if progress.rows >= self.rows and not progress.interrupted:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _every_row_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_S", 0.0)


def test_results_are_those_of_generate_in_the_order_of_the_rows(model: StepModel, tmp_path: Path) -> None:
    rows = prompts(150)
    got = records(done(model, tmp_path, rows, token_ids=True))
    plain = generate(model, [row["prompt"] for row in rows], CONFIG)
    cool = generate(model, [row["prompt"] for row in rows], temperature=0.5, max_new_tokens=6, stop="b", seed=5)
    for i, (row, record) in enumerate(zip(rows, got, strict=True)):
        text = (cool if "temperature" in row else plain)[i]
        assert record == {
            "id": row["id"],
            "prompt": row["prompt"],
            "text": text.text,
            "finish_reason": text.finish_reason,
            "tokens": len(text.tokens),
            "token_ids": list(text.tokens),
        }
        assert list(record) == ["id", "prompt", "text", "finish_reason", "tokens", "token_ids"]
    assert {record["finish_reason"] for record in got} == {"stop", "length"}
    assert is_complete(tmp_path / "out.jsonl")


def test_logprobs_stand_in_the_lines_where_asked_for(model: StepModel, tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "logprobs": True}]
    output = tmp_path / "out.jsonl"
    run_job(model, Job(write_input(tmp_path, rows), str(output)), CONFIG)
    wanted = generate(model, ["a", "b"], max_new_tokens=6, stop="b", seed=5, logprobs=True)
    assert [record.get("logprobs") for record in records(output)] == [None, list(wanted[1].logprobs or ())]


def test_settings_of_all_rows_that_do_not_fit_the_model_end_the_job(model: StepModel, tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "a", "bad_words": ["Ω"]}]
    output = tmp_path / "out.jsonl"
    job = Job(write_input(tmp_path, rows), str(output))
    with pytest.raises(UnknownTokenError, match="Ω"):
        run_job(model, job, GenerationConfig(bad_words=("Ω",)))
    assert not output.exists()
    assert run_job(model, job, GenerationConfig(bad_words=("c",), max_new_tokens=9)).errors == 1
    assert "c" not in records(output)[0]["text"]
    assert "Ω" in records(output)[1]["error"]


def test_several_texts_a_prompt_are_lines_of_their_own(model: StepModel, tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, "{", {"prompt": "cab"}]
    config = GenerationConfig(max_new_tokens=5, num_return_sequences=3, seed=1)
    output = tmp_path / "out.jsonl"
    run_job(model, Job(write_input(tmp_path, rows), str(output), lanes=LANES), config)
    got = records(output)
    assert [(record["id"], record.get("sample")) for record in got] == [
        *((0, 0), (0, 1), (0, 2), (1, None), (2, 0), (2, 1), (2, 2))
    ]
    wanted = generate(model, ["a", "a", "cab"], config)  # the bad row has a place
    assert [record["text"] for record in got if "text" in record] == [
        text.text for text in wanted if text.index // 3 != 1
    ]
    interrupted = tmp_path / "again.jsonl"
    job = Job(str(tmp_path / "in.jsonl"), str(interrupted), lanes=LANES, resume=True)
    run_job(model, job, config, Stop(1))
    with interrupted.open("rb+") as file:
        file.truncate(len(b"".join(interrupted.read_bytes().splitlines(keepends=True)[:2])))
    run_job(model, job, config)
    assert interrupted.read_bytes() == output.read_bytes()


def test_a_bad_row_is_a_record_in_its_place(model: StepModel, tmp_path: Path) -> None:
    rows = [
        "[",
        {"prompt": "a"},
        {"id": "x", "prompt": "aΩ"},
        {"id": "y", "prompt": "a", "heat": 1},
        {"id": "z", "prompt": "a", "top_p": 7},
        {"id": "n", "prompt": "a", "num_return_sequences": 2},
        {"id": "e", "prompt": ""},
        {"id": "l", "prompt": "a" * 9},
        {"prompt": "b"},
        {"id": "q"},
    ]
    output = tmp_path / "out.jsonl"
    progress = run_job(model, Job(write_input(tmp_path, rows), str(output), max_prompt_tokens=8), CONFIG)
    got = records(output)
    assert (progress.rows, progress.errors, progress.texts) == (10, 8, 2)
    assert [(r["id"], r["line"]) for r in got if "error" in r] == [
        *((0, 1), ("x", 3), ("y", 4), ("z", 5), ("n", 6), ("e", 7), ("l", 8), ("q", 10))
    ]
    for record, part in zip(
        (r for r in got if "error" in r),
        (
            "not JSON",
            "'Ω'",
            "no setting heat",
            "top_p: got 7",
            "same for all rows",
            "no token",
            "9 tokens",
            "no prompt",
        ),
        strict=True,
    ):
        assert part in record["error"]
    texts = generate(model, ["a"] * 8 + ["b"], CONFIG)
    assert [record["text"] for record in got if "text" in record] == [texts[1].text, texts[8].text]


def test_a_strict_job_ends_at_the_first_bad_row_and_can_be_gone_on_with(model: StepModel, tmp_path: Path) -> None:
    rows: list[Any] = prompts(5)
    output = tmp_path / "out.jsonl"
    source = write_input(tmp_path, [*rows[:3], "{", *rows[3:]])
    with pytest.raises(JobError, match=r"in.jsonl, line 4: not JSON"):
        run_job(model, Job(source, str(output), lanes=LANES, strict=True), CONFIG)
    assert [record["id"] for record in records(output)] == ["r0", "r1", "r2"]
    write_input(tmp_path, rows)
    progress = run_job(model, Job(source, str(output), lanes=LANES, strict=True, resume=True), CONFIG)
    assert [record["id"] for record in records(output)] == [f"r{i}" for i in range(5)]
    assert (progress.rows, progress.errors) == (5, 0)


STUCK = {"prompt": "ab", "no_repeat_ngram_size": 1, "max_new_tokens": 40, "stop": ["Ω"]}  # of 11 letters 9 are left


def test_a_text_with_no_token_left_is_an_error_record(model: StepModel, tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"id": "s", **STUCK}, {"prompt": "b"}]
    output = done(model, tmp_path, rows)
    got = records(output)
    error = "no_repeat_ngram_size: no token is left to come next in row 1; allow more"
    assert got[1] == {"id": "s", "line": 2, "error": error}
    wanted = generate(model, ["a", "a", "b"], CONFIG)
    assert [got[i]["text"] for i in (0, 2)] == [wanted[i].text for i in (0, 2)]
    again = replace(Job(str(tmp_path / "in.jsonl"), str(output), lanes=LANES), overwrite=True)
    progress = run_job(model, again, CONFIG)
    assert (progress.rows, progress.errors, progress.texts) == (3, 1, 2)
    assert progress.tokens == sum(record.get("tokens", 0) for record in got)
    strict = tmp_path / "strict.jsonl"
    with pytest.raises(JobError, match=r"in.jsonl, line 2: no_repeat_ngram_size: no token is left"):
        run_job(model, replace(again, output=str(strict), strict=True), CONFIG)
    assert records(strict) == got[:1]


def test_a_job_goes_on_behind_texts_with_no_token_left(model: StepModel, tmp_path: Path) -> None:
    config = replace(CONFIG, num_return_sequences=2)
    rows: list[Any] = prompts(150)
    rows[2:2], rows[70:70] = [STUCK], [STUCK, "{"]
    job = Job(write_input(tmp_path, rows), str(tmp_path / "whole.jsonl"), lanes=LANES, resume=True)
    progress = run_job(model, job, config)
    assert (progress.errors, progress.texts) == (3, 300)
    whole = Path(job.output).read_bytes()
    assert [(record.get("sample"), record["line"]) for record in records(job.output) if "error" in record] == [
        *((0, 3), (1, 3), (0, 71), (1, 71), (None, 72))
    ]
    part = replace(job, output=str(tmp_path / "part.jsonl"))
    assert run_job(model, part, config, Stop(100)).interrupted
    progress = run_job(model, part, config)
    assert Path(part.output).read_bytes() == whole
    assert (progress.rows, progress.errors, progress.kept) == (153, 3, 100)


@pytest.mark.parametrize("ending", ["csv", "txt", "json"])
def test_other_formats(model: StepModel, tmp_path: Path, ending: str) -> None:
    source = tmp_path / f"in.{ending}"
    array = '["a", {"prompt": "b", "max_new_tokens": 1}]'
    source.write_text({"csv": "prompt,max_new_tokens\na,\nb,1\n", "txt": "a\nb\n", "json": array}[ending])
    run_job(model, Job(str(source), str(tmp_path / "out")), GenerationConfig(max_new_tokens=4, seed=2))
    wanted = generate(model, ["a", "b"], max_new_tokens=4, seed=2)
    texts = [record["text"] for record in records(tmp_path / "out")]
    assert texts == [wanted[0].text, wanted[1].text[: 4 if ending == "txt" else 1]]


def test_how_a_table_is_written_is_part_of_a_job(model: StepModel, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("".join(f"{prompt}\n" for prompt in ["prompt", "ab", "", *"abc" * 20]))
    job = Job(str(source), str(output), lanes=LANES, resume=True, table=TableFormat(";", "none"))
    assert run_job(model, job, CONFIG, Stop(10)).interrupted
    with pytest.raises(JobError, match=r'begun with table \{"delimiter": ";", "quoting": "none"\}, not null'):
        run_job(model, replace(job, table=TableFormat()), CONFIG)
    progress = run_job(model, job, CONFIG)
    assert (progress.rows, progress.errors, progress.blank_lines) == (61, 0, 1)
    assert records(output)[0]["prompt"] == "ab"


def test_a_job_on_quoted_tsv_goes_on_with_quoting_alone(model: StepModel, tmp_path: Path) -> None:
    """As 0.1.0 read it, in whose jobs nothing says how a table is written."""
    source, output = tmp_path / "in.tsv", tmp_path / "out.jsonl"
    source.write_text("prompt\n" + '"ab"\n' * 100)
    job = Job(str(source), str(output), lanes=LANES, resume=True, table=TableFormat(quoting="csv"))
    assert run_job(model, job, CONFIG, Stop(80)).interrupted
    assert b'"table"' not in Path(f"{output}.job").read_bytes()
    with pytest.raises(JobError, match="the input has changed: begin anew"):
        run_job(model, replace(job, table=TableFormat()), CONFIG)
    assert run_job(model, job, CONFIG).rows == 100
    assert [record["prompt"] for record in records(output)] == ["ab"] * 100


KEPT = [
    {"id": "x", "label": 1, "prompt": "ab", "b": {"nested": [1.5, None, "é"]}, "a": 12301807997281171527},
    {"prompt": "Ω", "label": True, "temperature": 0.5},
    {"prompt": "cab", "label": ""},
    {"label": "no prompt"},
]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_fields_are_carried_to_the_results(model: StepModel, tmp_path: Path, ending: str) -> None:
    source = tmp_path / f"in.{ending}"
    rows = [json.dumps(row, ensure_ascii=False) for row in KEPT]
    source.write_text("\n".join(rows) if ending == "jsonl" else f"[{', '.join(rows)}]", encoding="utf-8")
    job = Job(str(source), str(tmp_path / "out"), lanes=LANES, keep_columns=True)
    config = replace(CONFIG, num_return_sequences=2)
    assert run_job(model, job, config).errors == 2
    got = records(job.output)
    assert [list(record) for record in got] == [
        *[["id", "sample", "prompt", "text", "finish_reason", "tokens", "label", "b", "a"]] * 2,
        ["id", "line", "error", "label"],
        *[["id", "sample", "prompt", "text", "finish_reason", "tokens", "label"]] * 2,
        ["id", "line", "error", "label"],
    ]
    assert [(record["label"], record.get("b"), record.get("a")) for record in got[1:]] == [
        (1, KEPT[0]["b"], KEPT[0]["a"]),
        (True, None, None),
        *[("", None, None)] * 2,
        ("no prompt", None, None),
    ]
    plain = tmp_path / "plain.jsonl"
    run_job(model, replace(job, output=str(plain), keep_columns=False), config)
    errors = [record.get("error", "") for record in records(plain)]
    assert ["--keep-columns" in error for error in errors[:3]] == [True, True, True]


def test_columns_are_carried_to_the_results_as_texts(model: StepModel, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('z,prompt,seed,"a, b"\n007,ab,5," 1.0 "\n,abc,,\n')
    job = Job(str(source), str(tmp_path / "out.jsonl"), lanes=LANES, resume=True, keep_columns=True)
    run_job(model, job, CONFIG)
    got = records(job.output)
    assert [(record["z"], record["a, b"]) for record in got] == [("007", " 1.0 "), ("", "")]
    assert list(got[0]) == ["id", "prompt", "text", "finish_reason", "tokens", "z", "a, b"]
    text = generate(model, ["ab"], replace(CONFIG, seed=5))[0].text
    assert got[0]["text"] == text
    assert run_job(model, job, CONFIG).complete
    source.write_text(source.read_text().replace("007", "008"))
    with pytest.raises(JobError, match=r"other rows, .* from line 2 to 3; the input has changed"):
        run_job(model, job, CONFIG)
    source.write_text("prompt\nab\nabc\n")
    with pytest.raises(JobError, match="was written with keep_columns true, not null"):
        run_job(model, replace(job, keep_columns=False), CONFIG)


def test_a_job_with_columns_goes_on(model: StepModel, tmp_path: Path) -> None:
    rows = [{**row, "label": place} for place, row in enumerate(prompts(150))]
    rows[70] |= {"top_p": 7}
    whole = done(model, tmp_path, rows, keep_columns=True).read_bytes()
    output, job = interrupted(model, tmp_path, rows, 100, keep_columns=True)
    write_input(tmp_path, [*rows[:80], {**rows[80], "label": "another"}, *rows[81:]])
    with pytest.raises(JobError, match=r"other rows, .* from line 65 to 82; the input has changed"):
        run_job(model, job, CONFIG)
    write_input(tmp_path, rows)
    assert run_job(model, job, CONFIG).kept == 100
    assert output.read_bytes() == whole


def test_other_words_of_an_error_are_no_change(model: StepModel, tmp_path: Path) -> None:
    """As of another release, which goes on with the job."""
    rows = prompts(100)
    rows[3] |= {"top_p": 7}
    rows[70] |= {"top_p": 7}
    output, job = interrupted(model, tmp_path, rows, 80)
    about = Path(f"{output}.job")
    head, end, digests = about.read_bytes().partition(b"\n}\n")
    for kept in (digests[:65], b""):  # the second block is written once more, then both
        about.write_bytes(head + end + kept)
        output.write_bytes(output.read_bytes().replace(b"got 7", b"7 came"))
        run_job(model, job, CONFIG, Stop(90))
        assert output.read_bytes().count(b"7 came") == 2
    assert not run_job(model, job, CONFIG).interrupted
    assert [record["error"].split(";")[0][:6] for record in records(output) if "error" in record] == ["top_p:"] * 2
    assert run_job(model, job, CONFIG).complete


def test_standard_input_and_output(
    model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    rows = mixed(20)
    whole = done(model, tmp_path, rows).read_bytes()
    capfdbinary.readouterr()
    data = Path(tmp_path / "in.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with io.TextIOWrapper(os.fdopen(os.dup(1), "wb")) as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        run_job(model, Job("-", "-", lanes=LANES), CONFIG)
    assert capfdbinary.readouterr().out == whole
    with pytest.raises(JobError, match="is a stream, and cannot be resumed"):
        run_job(model, Job(str(tmp_path / "in.jsonl"), "-", resume=True), CONFIG)


def test_shards_are_the_rows_of_the_whole(model: StepModel, tmp_path: Path) -> None:
    rows = mixed(100)
    whole = done(model, tmp_path, rows).read_bytes().splitlines()
    for i in range(3):
        part = done(model, tmp_path, rows, f"part{i}.jsonl", shard=(i, 3), lanes=3 + i)
        assert part.read_bytes().splitlines() == whole[i::3]


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    checkpoint = models.checkpoint("gru", 1)
    checkpoint.tokenizer.unknown = "skip"
    output = tmp_path / "out.jsonl"
    source = write_input(tmp_path, [{"id": "ü\udc80", "prompt": "a\ud800"}])
    run_job(make_model(checkpoint, "numpy"), Job(source, str(output)), CONFIG)
    (record,) = records(output)
    assert (record["id"], record["prompt"]) == ("ü\udc80", "a\ud800")
    assert "ü" in output.read_text(encoding="utf-8")


# Going on.


def interrupted(model: StepModel, folder: Path, rows: list[Any], at: int, **settings: Any) -> tuple[Path, Job]:
    """A job that was ended when ``at`` rows were over."""
    output = folder / "part.jsonl"
    source = write_input(folder, rows)
    job = Job(source, str(output), lanes=LANES, resume=True, **settings)
    assert run_job(model, job, CONFIG, Stop(at)).interrupted
    return output, job


def test_a_job_cut_at_any_byte_goes_on_to_the_same_file(model: StepModel, tmp_path: Path) -> None:
    rows = mixed(150)
    whole = done(model, tmp_path, rows).read_bytes()
    output, job = interrupted(model, tmp_path, rows, 100)
    about = Path(f"{output}.job").read_bytes()
    kept = output.read_bytes()
    assert whole.startswith(kept)
    assert kept.count(b"\n") == 100
    rng = random.Random(4)
    for cut in (0, 1, *(rng.randrange(len(whole)) for _ in range(4)), len(whole) - 1, len(whole)):
        Path(f"{output}.job").write_bytes(about)
        output.write_bytes(whole[:cut])
        progress = run_job(model, job, CONFIG)
        assert output.read_bytes() == whole, cut
        assert (progress.rows, progress.errors) == (154, 4)
        # one block has its digest, and of the next there is one every two rows, up to where it was interrupted
        lines = whole[:cut].count(b"\n")
        assert progress.kept == (min(lines // LANES * LANES, 100) if lines >= 64 else 0)
        assert is_complete(output)


def test_rows_that_see_who_was_there_before_are_kept_as_they_are(
    model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an engine rounded by what stands in the neighbouring lanes: blocks are the same, and what is kept of one."""

    def uneven(model: StepModel, requests: Iterable[Request], lanes: int) -> Iterator[Generation]:
        for place, generation in enumerate(write_rows(model, requests, lanes)):
            yield replace(generation, text=f"{generation.text}{place}")

    monkeypatch.setattr(jobs, "write_rows", uneven)
    rows = mixed(140)
    whole = done(model, tmp_path, rows).read_bytes()
    assert whole != done(model, tmp_path, rows, "other.jsonl", lanes=3).read_bytes()
    lines = whole.splitlines()
    for at in (3, 100):
        output, job = interrupted(model, tmp_path, rows, at)
        assert run_job(model, job, CONFIG).kept == at
        got = output.read_bytes().splitlines()
        next_block = -at // 64 * -64
        assert (got[:at], got[next_block:]) == (lines[:at], lines[next_block:])
        assert got[at:next_block] != lines[at:next_block]
        output.unlink()


def test_other_settings_are_named(model: StepModel, tmp_path: Path) -> None:
    rows = prompts(80)
    output, job = interrupted(model, tmp_path, rows, 70)
    kept = output.read_bytes()
    other = make_model(models.checkpoint("gru", 1, hidden_size=12, vocab_size=12), "numpy")
    for changed, config, message in (
        (other, CONFIG, "model "),
        (make_model(models.checkpoint("gru", 1, hidden_size=12), "onnxruntime"), CONFIG, 'engine "numpy", not "onnx'),
        (model, GenerationConfig(seed=6, stop=("b",), max_new_tokens=7), "max_new_tokens 6, not 7, seed 5, not 6"),
        (model, GenerationConfig(max_new_tokens=6, seed=5), r"stop \[\"b\"\], not \[\]"),
    ):
        with pytest.raises(JobError, match=message):
            run_job(changed, job, config)
    for name, value in (("lanes", 3), ("shard", (0, 2)), ("token_ids", True), ("precision", "bf16"), ("format", "txt")):
        with pytest.raises(JobError, match=f"was begun with .*{name} "):
            run_job(model, replace(job, **{name: value}), CONFIG)
    moved = tmp_path / "other.jsonl"
    Path(job.input).rename(moved)
    with pytest.raises(JobError, match=r'input "in\.jsonl", not "other\.jsonl"'):
        run_job(model, replace(job, input=str(moved)), CONFIG)
    assert output.read_bytes() == kept
    Path(f"{output}.job").write_text("{")
    with pytest.raises(JobError, match="cannot be read"):
        run_job(model, replace(job, input=str(moved)), CONFIG)


def test_an_input_that_changed_is_noticed(model: StepModel, tmp_path: Path) -> None:
    rows = prompts(200)
    output, job = interrupted(model, tmp_path, rows, 150)
    about, kept = Path(f"{output}.job").read_bytes(), output.read_bytes()
    for place, change in ((3, {"prompt": "k"}), (3, {"id": "other"}), (140, {"prompt": "kk"}), (3, "{")):
        changed: list[Any] = list(rows)
        changed[place] = change if isinstance(change, str) else {**rows[place], **change}
        write_input(tmp_path, changed)
        with pytest.raises(JobError, match=f"is not of .*line {place + 1}; the input has changed"):
            run_job(model, job, CONFIG)
    # settings of a row are no part of the lines: of a block that is over the digest shows them …
    for change in ({"temperature": 0.7}, {"seed": 99}, {"stop": ["c"], "top_k": 3}):
        write_input(tmp_path, [*rows[:3], {**rows[3], **change}, *rows[4:]])
        with pytest.raises(
            JobError, match=r"other settings of rows, than are in .* from line 1 to 64; the input has ch"
        ):
            run_job(model, job, CONFIG)
    # … and of the one that is not, those of its parts
    write_input(tmp_path, [*rows[:145], {**rows[145], "seed": 99}, *rows[146:]])
    with pytest.raises(
        JobError, match=r"other settings of rows, than are in .* from line 129 to 146; the input has ch"
    ):
        run_job(model, job, CONFIG)
    for count, message in (
        (100, "for other rows, .* from line 65 to 100"),
        (128, "more lines than the input has rows"),
        (149, "more lines than the input has rows"),
    ):
        write_input(tmp_path, rows[:count])
        with pytest.raises(JobError, match=message):
            run_job(model, job, CONFIG)
    assert (Path(f"{output}.job").read_bytes(), output.read_bytes()) == (about, kept)


def test_settings_that_say_the_same_are_no_change(model: StepModel, tmp_path: Path) -> None:
    """Neither the order of a row's fields nor blank lines between rows."""
    rows = prompts(150)
    rows[3] |= {"top_k": 5, "temperature": 0.5}
    whole = done(model, tmp_path, rows).read_bytes()
    output, job = interrupted(model, tmp_path, rows, 140)
    write_input(tmp_path, [*rows[:3], "", dict(reversed(rows[3].items())), *rows[4:]])
    run_job(model, job, CONFIG)
    assert output.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"", b"0" * 30, b"\0" * 65, b"x" * 200])
def test_what_a_killed_process_left_of_a_digest_is_taken_off(model: StepModel, tmp_path: Path, tail: bytes) -> None:
    rows = prompts(200)
    whole = done(model, tmp_path, rows).read_bytes()
    output, job = interrupted(model, tmp_path, rows, 150)
    about = Path(f"{output}.job")
    head, end, digests = about.read_bytes().partition(b"\n}\n")
    about.write_bytes(head + end + digests[:65] + tail)  # the second block's digest is lost, and those of parts
    write_input(tmp_path, [*rows[:64], {**rows[64], "seed": 99}, *rows[65:]])
    with pytest.raises(JobError, match="stands where"):  # written again, though all of its lines are there
        run_job(model, job, CONFIG)
    write_input(tmp_path, rows)
    assert run_job(model, job, CONFIG).kept == 64
    assert output.read_bytes() == whole
    assert is_complete(output)


def test_no_room_for_a_digest_is_an_error_that_loses_nothing(
    model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prompts(100)
    whole = done(model, tmp_path, rows).read_bytes()
    job = Job(str(tmp_path / "in.jsonl"), str(tmp_path / "part.jsonl"), lanes=LANES, resume=True)

    def full(file: JobFile, digest: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JobFile, "add", full)
        with pytest.raises(JobError, match=r"part\.jsonl\.job: cannot be written \(No space .* whole lines are kept"):
            run_job(model, job, CONFIG)
    assert len(records(job.output)) == 64
    run_job(model, job, CONFIG)
    assert Path(job.output).read_bytes() == whole


def test_a_job_file_without_digests_goes_on(model: StepModel, tmp_path: Path) -> None:
    """As earlier releases wrote it: what is known of rows is their ids and prompts."""
    rows = prompts(200)
    whole = done(model, tmp_path, rows).read_bytes()
    output, job = interrupted(model, tmp_path, rows, 150)
    about = Path(f"{output}.job")
    about.write_bytes(about.read_bytes().partition(b"\n}\n")[0] + b"\n}")
    assert run_job(model, job, CONFIG, Stop(180)).interrupted
    assert about.read_bytes().endswith(b"\n}")
    write_input(tmp_path, [*rows[:3], {**rows[3], "temperature": 0.7}, *rows[4:]])
    assert run_job(model, job, CONFIG).kept == 128
    assert output.read_bytes() == whole


def test_an_output_that_was_changed_is_noticed(model: StepModel, tmp_path: Path) -> None:
    output, job = interrupted(model, tmp_path, prompts(200), 150)
    lines, about = output.read_bytes().splitlines(keepends=True), Path(f"{output}.job")
    changed = lines[140].replace(b'"tokens": ', b'"tokens": 1')
    output.write_bytes(b"".join([*lines[:140], changed, *lines[141:]]))
    with pytest.raises(JobError, match=r"results of .*in\.jsonl from line 129 to 142 were changed after"):
        run_job(model, job, CONFIG)
    head, end, digests = about.read_bytes().partition(b"\n}\n")
    about.write_bytes(
        head + end + digests[:130]
    )  # no digests of parts, as 0.1.0 left it: the block is written once more
    with pytest.raises(JobError, match="stands where"):
        run_job(model, job, CONFIG)
    output.write_bytes(b"".join([*lines[:20], b"\0\n", *lines[21:]]))
    with pytest.raises(JobError, match="is not of"):
        run_job(model, job, CONFIG)


def test_an_output_that_exists_is_not_touched_unless_told(model: StepModel, tmp_path: Path) -> None:
    rows = prompts(10)
    output = done(model, tmp_path, rows)
    whole = output.read_bytes()
    job = Job(str(tmp_path / "in.jsonl"), str(output), lanes=LANES)
    with pytest.raises(JobError, match="exists; --overwrite begins anew"):
        run_job(model, job, CONFIG)
    progress = run_job(model, replace(job, resume=True), CONFIG)
    assert (progress.complete, progress.rows, progress.tokens) == (True, 10, 0)
    write_input(tmp_path, prompts(11))
    with pytest.raises(JobError, match=r"was complete, and has no results of .*in.jsonl, line 11; the input"):
        run_job(model, replace(job, resume=True), CONFIG)
    assert output.read_bytes() == whole
    run_job(model, replace(job, overwrite=True), CONFIG)
    assert len(records(output)) == 11
    for name, message in ((".", "is a folder"), ("in.jsonl", "is the input")):
        with pytest.raises(JobError, match=message):
            run_job(model, Job(job.input, str(tmp_path / name), overwrite=True), CONFIG)
    with pytest.raises(ConfigError, match="say one of them"):
        Job("a", resume=True, overwrite=True)


def files(output: Path) -> list[tuple[bytes, int]]:
    """Return what the results and the file beside them hold, and when they were last written."""
    return [(path.read_bytes(), path.stat().st_mtime_ns) for path in (output, Path(f"{output}.job"))]


def test_a_complete_output_is_of_one_job_alone(model: StepModel, tmp_path: Path) -> None:
    """Another model, engine, setting or input is refused; the same job is complete, and nothing is written."""
    rows = prompts(150)
    output = done(model, tmp_path, rows)
    job = Job(str(tmp_path / "in.jsonl"), str(output), lanes=LANES, resume=True)
    before = files(output)
    progress = run_job(model, job, CONFIG)
    assert (progress.complete, progress.rows, progress.kept, progress.texts) == (True, 150, 150, 0)
    assert files(output) == before
    for changed, config, message in (
        (make_model(models.checkpoint("lstm", 1, hidden_size=12), "numpy"), CONFIG, "model "),
        (make_model(models.checkpoint("gru", 1, hidden_size=12), "numba"), CONFIG, 'engine "numpy", not "numba"'),
        (model, replace(CONFIG, seed=6), "seed 5, not 6"),
        (model, replace(CONFIG, temperature=0.9), "temperature 1.0, not 0.9"),
    ):
        with pytest.raises(JobError, match=rf"is complete, and was written with {message}.*--overwrite"):
            run_job(changed, job, config)
    for place, change, message in (
        (3, {"prompt": "kk"}, "is not of .*line 4; the input has changed"),
        (3, {"temperature": 0.7}, "other settings of rows, than are in .* from line 1 to 64; the input has"),
        (149, {"seed": 9}, "other settings of rows, than are in .* from line 129 to 150; the input has"),
    ):
        write_input(tmp_path, [*rows[:place], {**rows[place], **change}, *rows[place + 1 :]])
        with pytest.raises(JobError, match=message):
            run_job(model, job, CONFIG)
    for count, message in ((151, "has no results of .*line 151"), (149, "from line 129 to 149"), (128, "more lines")):
        write_input(tmp_path, prompts(151)[:count])
        with pytest.raises(JobError, match=message):
            run_job(model, job, CONFIG)
    assert files(output) == before
    write_input(tmp_path, rows)
    for cut in (1, 200):
        output.write_bytes(before[0][0][:-cut])
        with pytest.raises(JobError, match=r"was complete, and (now ends inside a line|has no results of .*line 1)"):
            run_job(model, job, CONFIG)


def test_a_complete_output_that_nothing_identifies_is_refused(model: StepModel, tmp_path: Path) -> None:
    """As 0.1.0 left it, or without the file that somebody removed."""
    output = done(model, tmp_path, prompts(10))
    whole = output.read_bytes()
    Path(f"{output}.job").unlink()
    job = Job(str(tmp_path / "in.jsonl"), str(output), lanes=LANES, resume=True)
    with pytest.raises(JobError, match=r"no out\.jsonl\.job says of which model, .* 0\.1\.0 removed .*--overwrite"):
        run_job(model, job, CONFIG)
    assert output.read_bytes() == whole
    run_job(model, replace(job, resume=False, overwrite=True), CONFIG)
    assert (output.read_bytes(), is_complete(output)) == (whole, True)


def test_what_stays_of_an_output_that_was_removed_is_in_nobodys_way(model: StepModel, tmp_path: Path) -> None:
    rows = prompts(10)
    output = done(model, tmp_path, rows)
    output.unlink()
    job = Job(str(tmp_path / "in.jsonl"), str(output), lanes=LANES)
    assert run_job(model, replace(job, resume=True), replace(CONFIG, seed=9)).texts == 10
    output.unlink()
    assert run_job(model, job, CONFIG).texts == 10
    assert is_complete(output)


def test_the_release_is_no_part_of_what_identifies_a_job(model: StepModel, tmp_path: Path) -> None:
    output, job = interrupted(model, tmp_path, prompts(80), 70)
    about = Path(f"{output}.job")
    assert version("unrolled") not in about.read_text().partition("settings")[0]
    about.write_text(about.read_text().replace('"job_format": 2', '"job_format": 3'))
    with pytest.raises(JobError, match="was begun with job_format 3, not 2"):
        run_job(model, job, CONFIG)


def test_a_job_file_cut_at_any_byte_goes_on_to_the_same_file(model: StepModel, tmp_path: Path) -> None:
    rows = mixed(150)
    whole = done(model, tmp_path, rows).read_bytes()
    output, job = interrupted(model, tmp_path, rows, 100)
    about, kept = Path(f"{output}.job").read_bytes(), output.read_bytes()
    begin = about.index(b"\n}\n") + 3
    part = 2 + 2 * 65  # bytes of a line of a part, of less than ten rows
    for cut, known in (
        (begin, 0),
        (begin + 64, 0),
        (begin + 65, 64),
        (begin + 65 + part - 1, 64),
        (begin + 65 + part, 66),
    ):
        Path(f"{output}.job").write_bytes(about[:cut])
        output.write_bytes(kept)
        assert run_job(model, job, CONFIG).kept == known
        assert output.read_bytes() == whole
        assert is_complete(output)


def test_digests_of_parts_that_a_killed_process_left_under_that_of_the_block_are_removed(tmp_path: Path) -> None:
    """The block's digest is written over those of its parts, and the process killed before it removes the rest."""
    file = JobFile(tmp_path / "out")
    file.begin({"model": "m", "job_format": 2})
    for rows in (2, 4, 64):
        file.add_part(rows, Part("a" * 64, "b" * 64))
    file.close()
    data = file.path.read_bytes()
    begin = data.index(b"\n}\n") + 3
    file.path.write_bytes(data[:begin] + b"c" * 64 + b"\n" + data[begin + 65 :])
    again = JobFile(tmp_path / "out")
    again.read()
    assert (again.blocks, again.digest(0), again.parts, again.complete) == (1, "c" * 64, {}, False)
    again.add_part(2, Part("d" * 64, "e" * 64))
    again.close()
    assert file.path.read_bytes() == data[:begin] + b"c" * 64 + b"\n2 " + b"d" * 64 + b" " + b"e" * 64 + b"\n"


def test_an_unfinished_output_says_how_to_go_on(model: StepModel, tmp_path: Path) -> None:
    _, job = interrupted(model, tmp_path, prompts(50), 5)
    with pytest.raises(JobError, match="is not finished: --resume goes on"):
        run_job(model, replace(job, resume=False), CONFIG)


def test_two_processes_cannot_write_one_file(model: StepModel, tmp_path: Path) -> None:
    source = write_input(tmp_path, prompts(20))
    job = Job(source, str(tmp_path / "out.jsonl"), lanes=LANES, resume=True)
    refused = []

    def second(progress: Progress) -> None:
        if not refused:
            refused.append("")
            with pytest.raises(JobError, match="another process is writing it"):
                run_job(model, job, CONFIG)
            refused.append("yes")

    run_job(model, job, CONFIG, second)
    assert refused == ["", "yes"]
    assert len(records(job.output)) == 20


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full_is_an_error(model: StepModel, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="No space left"):
        run_job(model, Job(write_input(tmp_path, prompts(3)), "/dev/full"), CONFIG)


WORK = """
import sys
from unrolled.runtime import GenerationConfig, load
from unrolled.runtime.jobs import Job, run_job
source, output, model, limit, engine = sys.argv[1:6]
if int(limit):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    config = GenerationConfig(max_new_tokens=6, stop="b", seed=5)
    run_job(load(model, engine), Job(source, output, lanes=2 if engine == "numpy" else 16, resume=True), config)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(path, models.checkpoint("gru", 1, hidden_size=12))
    return str(path)


def start(source: str, output: Path, model_file: str, limit: int = 0, engine: str = "numpy") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORK, source, str(output), model_file, str(limit), engine]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_full_disk_leaves_whole_lines_to_go_on_with(model: StepModel, model_file: str, tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limits of files")
    rows = mixed(100)
    whole = done(model, tmp_path, rows).read_bytes()
    output = tmp_path / "part.jsonl"
    process = start(write_input(tmp_path, rows), output, model_file, limit=len(whole) // 2)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "JobError" in message
    assert "whole lines are kept" in message
    kept = output.read_bytes()
    assert whole.startswith(kept)
    assert kept.endswith(b"\n")
    assert len(whole) // 2 - 200 < len(kept) <= len(whole) // 2
    process = start(str(tmp_path / "in.jsonl"), output, model_file)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    assert output.read_bytes() == whole


def kill_often(model: StepModel, model_file: str, folder: Path, rows: int, kills: int, seed: int) -> int:
    """Kill a job again and again, each time when its file has grown by a random part; how often it was."""
    whole = done(model, folder, mixed(rows)).read_bytes()
    output, rng, done_kills = folder / "part.jsonl", random.Random(seed), 0
    while True:
        process = start(str(folder / "in.jsonl"), output, model_file)
        reached = output.stat().st_size if output.exists() else 0
        target = reached + rng.randrange(2 * len(whole) // kills) if done_kills < kills else len(whole) + 1
        while process.poll() is None and not (output.exists() and output.stat().st_size >= target):
            time.sleep(0.0005)
        if process.poll() is None:
            time.sleep(rng.random() * 0.01)
            process.kill()
            done_kills += 1
        message = process.communicate(timeout=60)[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, message
        assert whole.startswith(output.read_bytes() if output.exists() else b"")
    assert output.read_bytes() == whole
    assert is_complete(output)
    return done_kills


def test_a_job_that_is_killed_goes_on_to_the_same_file(model: StepModel, model_file: str, tmp_path: Path) -> None:
    assert kill_often(model, model_file, tmp_path, 250, 3, seed=6) >= 1


@pytest.mark.parametrize("engine", ["numba", "onnxruntime"])
def test_a_killed_job_goes_on_with_other_engines(engine: str, model_file: str, tmp_path: Path) -> None:
    """Of 16 lanes, with which numba fills them by itself; some rows have settings that only single steps can follow."""
    rows = mixed(1500)
    for row in rows[5::9]:
        if isinstance(row, dict):
            row["repetition_penalty"] = 1.3
    source, output = write_input(tmp_path, rows), tmp_path / "part.jsonl"
    model, whole = load(model_file, engine), tmp_path / "whole.jsonl"
    config = GenerationConfig(max_new_tokens=6, stop=("b",), seed=5)
    run_job(model, Job(source, str(whole), lanes=16), config)
    process = start(source, output, model_file, engine=engine)
    while process.poll() is None and not (output.exists() and output.stat().st_size > whole.stat().st_size // 2):
        time.sleep(0.0005)
    process.kill()
    message = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL, message
    kept = output.read_bytes()
    assert whole.read_bytes().startswith(kept)
    assert 0 < len(kept) < whole.stat().st_size
    lines = kept.count(b"\n")
    assert lines - 16 <= run_job(model, Job(source, str(output), lanes=16, resume=True), config).kept <= lines
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_many_kills_give_the_same_file(model: StepModel, model_file: str, kills: int, tmp_path: Path) -> None:
    killed, attempt = 0, 0
    while killed < kills:
        folder = tmp_path / str(attempt)
        folder.mkdir()
        some = min(kills, 25)
        killed += kill_often(model, model_file, folder, 240 * some, some, seed=attempt)
        attempt += 1
    assert attempt < 10


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_whole_lines_and_what_is_done(
    model: StepModel, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    output = tmp_path / "out.jsonl"

    def send(progress: Progress) -> None:
        if progress.rows == 30 and not progress.interrupted:
            os.kill(os.getpid(), number)

    progress = run_job(model, Job(write_input(tmp_path, prompts(90)), str(output), lanes=LANES), CONFIG, send)
    assert progress.interrupted
    assert len(records(output)) == progress.rows == 30
    assert Path(f"{output}.job").exists()
    assert signal.getsignal(number) is before


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
def test_a_signal_inside_a_write_waits_for_its_end() -> None:
    order: list[str] = []

    def write() -> None:
        with Interrupts() as interrupts, interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            order.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert order == ["written"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
def test_one_wait_inside_another_ends_with_the_outer_one() -> None:
    order: list[str] = []

    def write() -> None:
        with Interrupts() as interrupts, interrupts.held():
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGTERM)
                order.append("written")
            order.append("counted")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert order == ["written", "counted"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
@pytest.mark.parametrize("bad", [False, True])
def test_a_row_that_was_written_when_the_signal_came_is_counted(
    bad: bool, model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = prompts(90)
    rows[30:40] = ["{"] * 10 if bad else rows[30:40]
    output, write, written = tmp_path / "out.jsonl", jobs._Run._write_line, 0

    def watched(run: Any, record: Any) -> None:
        nonlocal written
        write(run, record)
        written += 1
        if written == 35:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(jobs._Run, "_write_line", watched)
    progress = run_job(model, Job(write_input(tmp_path, rows), str(output), lanes=LANES), CONFIG)
    assert progress.interrupted
    assert len(records(output)) == progress.rows == 35
    assert progress.errors == (5 if bad else 0)


def test_memory_and_open_rows_do_not_grow_with_bad_rows(
    model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    write = jobs._Run._write_errors

    def watched(run: Any) -> None:
        nonlocal longest
        longest = max(longest, len(run.waiting))
        write(run)

    monkeypatch.setattr(jobs._Run, "_write_errors", watched)
    rows: list[Any] = ["{"] * 3000
    rows.insert(100, {"prompt": "a"})
    assert sum("error" in record for record in records(done(model, tmp_path, rows))) == 3000
    assert 1 < longest <= 64


MEMORY = """
import resource, sys
from unrolled.runtime import GenerationConfig, load
from unrolled.runtime.jobs import Job, run_job
model, config = load(sys.argv[1], "numpy"), GenerationConfig(max_new_tokens=3)
peaks = []
for source in sys.argv[2:]:
    run_job(model, Job(source, source + ".out"), config)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted in other units elsewhere")
def test_resident_memory_is_flat_over_a_hundred_thousand_rows(model_file: str, tmp_path: Path) -> None:
    few, many = (write_input(tmp_path, prompts(1000) * times, f"{times}.jsonl") for times in (1, 100))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, model_file, few, many], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 10  # MB; 1 was seen
    assert Path(f"{many}.out").read_bytes().count(b"\n") == 100_000


class Narrow(io.RawIOBase):
    """Takes three bytes at a time, as a pipe that is nearly full does."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:3])
        return min(3, len(data))


def test_a_line_goes_whole_into_a_pipe_that_takes_a_part_at_a_time() -> None:
    pipe: Any = Narrow()
    ResultStream(pipe, "pipe").write(b"a whole line\n")
    assert pipe.taken == b"a whole line\n"
