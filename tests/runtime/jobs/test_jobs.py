"""Tests of jobs: lines in the order of the rows, with the settings of each row, and errors of rows that cannot be served."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
from job_runs import CONFIG, LANES, Stop, done, interrupted, is_complete, mixed, prompts, records, write_input

from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import JobError, UnknownTokenError
from unrolled.engine.models.step_contract import StepModel
from unrolled.runtime import GenerationConfig, generate
from unrolled.runtime.jobs.runner import Job, run_job
from unrolled.runtime.models.engines import make_model


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
    """Resume a job whose file, as 0.1.0 wrote it, does not contain how a table is quoted."""
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
    """Resume a job of another release, whose error messages differ."""
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
