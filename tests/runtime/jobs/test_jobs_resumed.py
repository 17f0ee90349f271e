"""Tests of resumed jobs: the same bytes as without interruption, and refusal if anything differs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import models
import pytest
from job_runs import CONFIG, LANES, Stop, done, interrupted, is_complete, mixed, prompts, records, write_input

from unrolled.engine.errors import ConfigError, JobError
from unrolled.engine.models.step_contract import StepModel
from unrolled.runtime import GenerationConfig
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.requests.request import Request
from unrolled.runtime.generation.scheduler.scheduler import write_rows
from unrolled.runtime.jobs import job_writer
from unrolled.runtime.jobs.job_file import BlockPart, JobFile
from unrolled.runtime.jobs.runner import Job, Progress, run_job
from unrolled.runtime.models.engines import make_model


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
        # one block has its digest; the next has one for every two rows up to the interruption
        lines = whole[:cut].count(b"\n")
        assert progress.kept == (min(lines // LANES * LANES, 100) if lines >= 64 else 0)
        assert is_complete(output)


def test_rows_that_see_who_was_there_before_are_kept_as_they_are(
    model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imitate an engine whose rounding depends on neighbouring lanes: whole blocks and kept rows stay as they are."""

    def uneven(model: StepModel, requests: Iterable[Request], lanes: int) -> Iterator[Generation]:
        for place, generation in enumerate(write_rows(model, requests, lanes)):
            yield replace(generation, text=f"{generation.text}{place}")

    monkeypatch.setattr(job_writer, "write_rows", uneven)
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
    # the lines do not contain the settings of rows: in a finished block the digest shows a change …
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
    """Resume after changes of the order of a row's fields and of blank lines, which do not matter."""
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
    with pytest.raises(JobError, match="stands where"):  # generated again, although all of its lines are kept
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
    """Resume a file of earlier releases, which identifies rows by ids and prompts alone."""
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
    """Refuse another model, engine, setting or input; report the same job as complete, and write nothing."""
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
    """Resume an output of 0.1.0, which has no job file, or one whose job file was removed."""
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
    """Kill the process after it wrote a block's digest over those of its parts, before it removes the rest."""
    file = JobFile(tmp_path / "out")
    file.begin({"model": "m", "job_format": 2})
    for rows in (2, 4, 64):
        file.add_part(rows, BlockPart("a" * 64, "b" * 64))
    file.close()
    data = file.path.read_bytes()
    begin = data.index(b"\n}\n") + 3
    file.path.write_bytes(data[:begin] + b"c" * 64 + b"\n" + data[begin + 65 :])
    again = JobFile(tmp_path / "out")
    again.read()
    assert (again.blocks, again.digest(0), again.parts, again.complete) == (1, "c" * 64, {}, False)
    again.add_part(2, BlockPart("d" * 64, "e" * 64))
    again.close()
    assert file.path.read_bytes() == data[:begin] + b"c" * 64 + b"\n2 " + b"d" * 64 + b" " + b"e" * 64 + b"\n"


def test_a_job_file_that_another_process_writes_is_read_and_not_changed(tmp_path: Path) -> None:
    """Leave an unfinished line alone while another process is writing it."""
    writer, reader = JobFile(tmp_path / "out"), JobFile(tmp_path / "out")
    writer.begin({"model": "m", "job_format": 2})
    with writer.path.open("ab") as begun:
        begun.write(b"2 " + b"a" * 30)
    before = writer.path.read_bytes()
    reader.read()
    assert writer.path.read_bytes() == before
    writer.add_part(2, BlockPart("a" * 64, "b" * 64))
    for file in (reader, writer):
        file.close()
    assert writer.path.read_bytes() == before[:-32] + b"2 " + b"a" * 64 + b" " + b"b" * 64 + b"\n"


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
