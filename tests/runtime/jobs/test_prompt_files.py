"""Tests of prompt files: rows of every format, their settings, and bad rows."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError, PromptFileError
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.requests.row_settings import make_config, parse_cell, row_config
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_rows import RESULT_KEYS, BadRow, InputRow, PromptRow
from unrolled.runtime.jobs.records import error_record, stuck_record, text_record


def rows(
    path: Path,
    data: bytes | str,
    format: str | None = None,
    limit: int = 1000,
    table: TableFormat | None = None,
) -> list[InputRow]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with PromptFile(str(path), format, limit, table) as prompts:
        return list(prompts)


def test_json_lines(tmp_path: Path) -> None:
    got = rows(
        tmp_path / "a.jsonl",
        '{"id": "x", "prompt": "ü\\n"}\n\n{"prompt": "b", "top_k": 3, "stop": ["."], "seed": null}\n{"id": 2.5, "prompt": ""}',
    )
    assert got == [
        PromptRow(0, 1, "x", "ü\n", {}),
        PromptRow(1, 3, 1, "b", {"top_k": 3, "stop": ["."], "seed": None}),
        PromptRow(2, 4, 2.5, "", {}),
    ]


@pytest.mark.parametrize(("ending", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_tables(tmp_path: Path, ending: str, mark: str) -> None:
    text = 'id,prompt,top_k,stop,do_sample\nx,"a\nb""c",5.0,END,True\n\n,d,,"[""p"", ""q""]",\ny,e,7,5,false\n'
    data = text.replace(",", mark).replace(f'"p""{mark} ', '"p"", ')
    assert rows(tmp_path / f"a{ending}", data, table=TableFormat(quoting="csv")) == [
        PromptRow(0, 2, "x", 'a\nb"c', {"top_k": 5, "stop": "END", "do_sample": True}),
        PromptRow(1, 5, 1, "d", {"top_k": None, "stop": ("p", "q"), "do_sample": None}),
        PromptRow(2, 6, "y", "e", {"top_k": 7, "stop": "5", "do_sample": False}),
    ]


def prompts_of(found: list[InputRow]) -> list[str]:
    """Return the prompts of rows, none of which may be bad."""
    assert not [row for row in found if isinstance(row, BadRow)]
    return [row.prompt for row in found if isinstance(row, PromptRow)]


def test_tsv_has_no_quoting_unless_said(tmp_path: Path) -> None:
    text = 'prompt\tseed\n"Hello\t1\nmiddle\t2\nworld"\t3\n"Yes" he said\t4\n'
    assert prompts_of(rows(tmp_path / "a.tsv", text)) == ['"Hello', "middle", 'world"', '"Yes" he said']
    (bad,) = rows(tmp_path / "a.tsv", 'prompt\tseed\n"a\tb"\t1\n')
    assert bad == BadRow(
        0, 2, 0, "has 3 columns, the header 2; where quotes hold delimiters and line ends, say --quoting csv"
    )
    quoted = TableFormat(quoting="csv")
    assert prompts_of(rows(tmp_path / "a.tsv", 'prompt\tseed\n"a\tb"\t1\n', table=quoted)) == ["a\tb"]
    plain = TableFormat(quoting="none")
    assert prompts_of(rows(tmp_path / "a.csv", 'prompt,seed\n"Yes" he said,4\n', table=plain)) == ['"Yes" he said']


@pytest.mark.parametrize(("mark", "name"), [(",", ","), (";", ";"), ("\t", "tab"), ("\t", "\\t"), ("|", "|")])
def test_the_delimiter_is_detected_or_named(tmp_path: Path, mark: str, name: str) -> None:
    text = f'id{mark}prompt\n1{mark}"a; b, c|d\te"\n2{mark}f\n'
    for table in (None, TableFormat(delimiter=name)):
        assert prompts_of(rows(tmp_path / "a.csv", text, table=table)) == ["a; b, c|d\te", "f"]


def test_a_table_without_a_header_has_prompts_alone(tmp_path: Path) -> None:
    plain = TableFormat(header=False)
    assert rows(tmp_path / "a.csv", 'a\n"b, c"\n', table=plain) == [
        PromptRow(0, 1, 0, "a", {}),
        PromptRow(1, 2, 1, "b, c", {}),
    ]
    assert rows(tmp_path / "a.csv", "", table=plain) == []
    with pytest.raises(PromptFileError, match="has 2 columns; without a header there can be one"):
        rows(tmp_path / "a.csv", "a,1\n", table=plain)
    with pytest.raises(PromptFileError, match=r"a\.jsonl: --delimiter, --no-header go with \.csv and \.tsv"):
        rows(tmp_path / "a.jsonl", "", table=TableFormat(delimiter=";", header=False))


def test_standard_input_with_options_of_a_table_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for mark, text in (("tab", b'prompt\n"a\n'), (";", b'prompt\n"a"\n')):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        with PromptFile("-", table=TableFormat(mark)) as prompts:
            assert prompts_of(list(prompts)) == ['"a' if mark == "tab" else "a"]


def test_blanks_around_the_names_of_columns_do_not_count(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", " id , prompt\n7, b\n") == [PromptRow(0, 2, "7", " b", {})]


def test_line_ends_inside_quotes_stay(tmp_path: Path) -> None:
    assert prompts_of(rows(tmp_path / "a.csv", b'prompt\r\n"a\r\nb\rc\nd"\r\n')) == ["a\r\nb\rc\nd"]


def test_a_line_that_is_cut_inside_its_end_is_one_line(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", b"prompt\r\n" + b"x" * 31 + b"\r\n" + b"y" * 28 + b"\r\nz\r\n", limit=30)
    assert [(row.line, isinstance(row, BadRow)) for row in found] == [(2, True), (3, False), (4, False)]


def test_json_arrays_of_prompts_and_objects(tmp_path: Path) -> None:
    text = '\ufeff[\n "a",\n {"id": "x", "prompt": "b\\n", "top_k": 3}, 5,\n {"prompt": "c", "prompt": "d"}]\n'
    with pytest.raises(PromptFileError, match=r"a\.json: line 4: the name 'prompt' stands in an object twice"):
        rows(tmp_path / "a.json", text)
    assert rows(tmp_path / "a.json", text.replace('"prompt": "c", ', "")) == [
        PromptRow(0, 2, 0, "a", {}),
        PromptRow(1, 3, "x", "b\n", {"top_k": 3}),
        BadRow(2, 3, 2, "a JSON int, needs an object with a prompt"),
        PromptRow(3, 4, 3, "d", {}),
    ]
    assert rows(tmp_path / "a.json", " [ ] ") == []
    with PromptFile(str(tmp_path / "a.json")) as prompts:
        assert prompts.count_lines() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with no \\["),
        ('{"prompt": "a"}', "needs an array of texts or objects; an object a line is named .jsonl"),
        ('["a"\n"b"]', "not JSON .expecting , or ]: line 2 column 1"),
        ('["a",\n]', "not JSON .*line 2 column 1"),
        ('["a",\n', "not JSON .*line 2 column 1"),
        ('["a"]\n["b"]', "more after the array: line 2"),
        ('["a", NaN]', "line 1: NaN is no number of JSON"),
        ('["a",\n' + "[" * 70 + "]" * 70 + "]", "line 2: more than 64 levels deep"),
        ('["a",\n' + "[" * 200_000, "line 2: more than 64 levels deep"),
        (b'["\xff"]', "byte 0xff behind 2 characters"),
    ],
)
def test_a_json_file_that_is_no_array_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(PromptFileError, match=message):
        rows(tmp_path / "a.json", text)


def test_a_json_array_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.runtime.jobs.prompt_readers.ARRAY_LIMIT", 9)
    assert prompts_of(rows(tmp_path / "a.json", '["abcde"]')) == ["abcde"]
    with pytest.raises(PromptFileError, match="longer than 9 characters, which are held whole; write an object a line"):
        rows(tmp_path / "a.json", '["abcdef"]')


def test_a_name_that_stands_twice_in_an_object_is_a_bad_row(tmp_path: Path) -> None:
    (bad,) = rows(tmp_path / "a.jsonl", '{"prompt": "a", "prompt": "b"}')
    assert isinstance(bad, BadRow)
    assert "the name 'prompt' stands in an object twice" in bad.error


def test_plain_text_has_a_prompt_a_line_even_a_blank_one(tmp_path: Path) -> None:
    got = rows(tmp_path / "a.txt", " a \n\nb")
    assert got == [PromptRow(0, 1, 0, " a ", {}), PromptRow(1, 2, 1, "", {}), PromptRow(2, 3, 2, "b", {})]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_byte_order_marks_of_any_system(tmp_path: Path, end: bytes) -> None:
    lines = {
        "a.jsonl": [b'{"prompt": "a"}', b'{"prompt": "b"}'],
        "a.csv": [b"prompt", b"a", b"b"],
        "a.txt": [b"a", b"b"],
    }
    for name, data in lines.items():
        got = rows(tmp_path / name, b"\xef\xbb\xbf" + end.join(data) + end)
        assert [row.prompt for row in got if isinstance(row, PromptRow)] == ["a", "b"], name


def test_standard_input_and_a_named_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for format, data in ((None, b'{"prompt": "a"}\n'), ("txt", b"a\n"), ("csv", b"prompt\na\n")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with PromptFile("-", format) as prompts:
            assert [row.prompt for row in prompts if isinstance(row, PromptRow)] == ["a"]
            assert prompts.count_lines() is None
        assert not sys.stdin.buffer.closed
    assert rows(tmp_path / "a.csv", "a,b", "txt") == [PromptRow(0, 1, 0, "a,b", {})]


BAD = [
    ("jsonl", b'{"prompt": ', "not JSON"),
    ("jsonl", b'["a"]', "a JSON list"),
    ("jsonl", b'"a"', "a JSON str"),
    ("jsonl", b"{}", "no prompt; there is nothing else"),
    ("jsonl", b'{"text": "a"}', "no prompt; there is text"),
    ("jsonl", b'{"prompt": 3}', "prompt: got a int"),
    ("jsonl", b'{"prompt": null}', "no prompt"),
    ("jsonl", b'{"prompt": "a", "id": []}', "id: got []"),
    ("jsonl", b'{"prompt": "a", "id": true}', "id: got True"),
    ("jsonl", b'{"prompt": "a", "id": 1e999}', "id: got inf"),
    ("jsonl", b'{"prompt": "a", "top_p": NaN}', "NaN is no number"),
    ("jsonl", b'{"prompt": "' + b"a" * 200 + b'"}', "longer than 200 characters"),
    ("jsonl", b"[" * 70 + b"]" * 70, "levels deep"),
    ("jsonl", b'{"prompt": "ab\xff"}', "byte 0xff behind 14 characters"),
    ("jsonl", b"\x00\x01", "not JSON"),
    ("txt", b"a\xc3", "byte 0xc3 behind 1 characters"),
    ("txt", b"a" * 201, "longer than 200"),
    ("csv", b"a,b,c", "has 3 columns, the header 2"),
    ("csv", b"a", "has 1 columns"),
    ("csv", b'"a"b,c', "',' expected after"),
    ("csv", b'"\xe4",3', "byte 0xe4"),
    ("csv", b'"' + b"a" * 220 + b'",3', "longer than 200"),
]
GOOD = {"jsonl": (b"", b'{"prompt": "ok"}'), "txt": (b"", b"ok"), "csv": (b"prompt,seed\n", b"ok,")}


@pytest.mark.parametrize(("format", "line", "message"), BAD)
def test_a_bad_row_is_an_error_in_its_place_and_reading_goes_on(
    tmp_path: Path, format: str, line: bytes, message: str
) -> None:
    head, good = GOOD[format]
    got = rows(tmp_path / f"a.{format}", head + b"\n".join((good, line, good, good)) + b"\n", limit=200)
    first = 1 + head.count(b"\n")
    assert [(row.index, row.line) for row in got] == [(i, first + i) for i in range(4)]
    assert [isinstance(row, BadRow) for row in got] == [False, True, False, False]
    assert isinstance(got[1], BadRow)
    assert message in got[1].error
    assert all(row.prompt == "ok" for row in got if isinstance(row, PromptRow))


def test_a_bad_line_before_that_of_excel_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"line 1: the header: byte 0xe4"):
        rows(tmp_path / "a.csv", b"\xe4\nsep=;\nprompt;seed\nok;1\n")


def test_a_quote_that_is_not_closed_costs_a_record_and_not_the_file(tmp_path: Path) -> None:
    got = rows(tmp_path / "a.csv", 'prompt\nok\n"a\n' + "b\n" * 60, limit=100)
    assert isinstance(got[1], BadRow)
    assert (got[1].line, "a quote is not closed" in got[1].error) == (3, True)
    assert [row.prompt for row in got[2:] if isinstance(row, PromptRow)] == ["b"] * (60 - 49)


def test_an_open_quote_is_named_by_its_line(tmp_path: Path) -> None:
    """Check a quote in a later line of its record, one that a later quote closes, and the size limit."""
    head = 'id,prompt\n1,ok\n"a\nb","c\n'
    (_, bad) = rows(tmp_path / "a.csv", head + "d,e\nf,g\n")
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.error.startswith("the quote that opens in line 4 is not closed")) == (3, True)
    (_, bad, good) = rows(tmp_path / "a.csv", head + 'd,e\n"f",g\n2,ok\n')
    assert isinstance(bad, BadRow)
    assert "',' expected after '\"' in line 6, where the quote that opens in line 4 is closed" in bad.error
    assert (good.line, good.id) == (7, "2")
    (_, bad, *_) = rows(tmp_path / "a.csv", head + "d,e\n" * 40, limit=100)
    assert isinstance(bad, BadRow)
    assert bad.error == "longer than 100 characters; maybe a quote is not closed: one opens in line 4"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "text\na\n", "no column prompt in the header; there is text".replace("is", "are")),
        ("a.csv", "", "no column prompt"),
        ("a.csv", "prompt,temprature\na,1\n", "no setting 'temprature': take these columns out"),
        ("a.csv", "x,prompt,,seed,y\n1,a,,2,3\n", "no setting 'x', '', 'y': .*; it can have id, prompt, do_sample"),
        ("a.csv", "prompt,num_return_sequences\na,1\n", "no setting 'num_return_sequences'"),
        ("a.tsv", "prompt\tprompt\na\tb\n", "'prompt' stands in the header twice"),
        ("a.csv", b"prompt\xff\n", "the header: byte 0xff"),
        ("a.csv", "id,prompt;seed\na,b;c\n", "its delimiter is not plain: .* name it with --delimiter"),
        ("a.md", "a", "the ending '.md'"),
    ],
)
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, name: str, data: bytes | str, message: str) -> None:
    with pytest.raises(PromptFileError, match=message):
        rows(tmp_path / name, data)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="no such file"):
        PromptFile(str(tmp_path / "none.txt"))
    with pytest.raises(PromptFileError, match="is a directory"):
        PromptFile(str(tmp_path), "txt")
    with pytest.raises(ConfigError, match="format: got 'xml'"):
        PromptFile("-", "xml")


@pytest.mark.parametrize(("name", "data"), [("a.txt", "a\nb"), ("a.txt", "a\nb\n"), ("a.csv", "prompt\na\nb\n")])
def test_lines_are_counted_cheaply(tmp_path: Path, name: str, data: str) -> None:
    (tmp_path / name).write_text(data)
    with PromptFile(str(tmp_path / name)) as prompts:
        assert prompts.count_lines() == 2


@pytest.mark.parametrize("format", ["jsonl", "csv", "txt"])
def test_memory_does_not_grow_with_the_file_or_with_a_line(tmp_path: Path, format: str) -> None:
    head, good = GOOD[format]
    path = tmp_path / f"a.{format}"
    path.write_bytes(head + (good + b"\n") * 5_000 + b"x" * 3_000_000 + b"\n" + good)
    with PromptFile(str(path), limit=1000) as prompts:
        tracemalloc.start()
        count = sum(1 for _ in prompts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 5_002
    assert peak < 500_000


@pytest.mark.parametrize(
    ("name", "cell", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", "1", 1),
        ("temperature", "warm", "warm"),
        ("top_k", "3.0", 3),
        ("top_k", "3.5", 3.5),
        ("top_k", " ", None),
        ("seed", str(2**64 - 1), 2**64 - 1),
        ("do_sample", "TRUE", True),
        ("stop", "true", "true"),
        ("stop", '["a", "b"]', ("a", "b")),
        ("stop", '"a"', "a"),
    ],
)
def test_cells(name: str, cell: str, value: Any) -> None:
    got = parse_cell(name, cell)
    assert (got, type(got)) == (value, type(value))


def test_settings_of_a_row() -> None:
    config = make_config({"temperature": 0.5, "stop": ("x",)})
    assert row_config(config, {}) is config
    assert row_config(config, {"top_k": None, "seed": float("nan")}) == config
    changed = row_config(config, {"top_k": np.int32(3), "stop": np.array(["a", "b"]), "seed": 7.0})
    assert changed == GenerationConfig(temperature=0.5, top_k=3, stop=("a", "b"), seed=7)
    for overrides, message in (
        ({"topk": 3}, "no setting topk; a row can have do_sample"),
        ({"batch_size": 3}, "batch_size: is the same for all rows"),
        ({"num_return_sequences": 3}, "num_return_sequences: is the same"),
        ({"top_k": 3.5}, "top_k: got 3.5"),
        ({"top_p": "half"}, "top_p: got 'half'"),
        ({"stop": [1]}, "stop: got"),
    ):
        with pytest.raises(ConfigError, match=message):
            row_config(config, overrides)
    with pytest.raises(ConfigError, match="no setting topk"):
        make_config({"topk": 1})


def test_every_setting_of_a_row_can_be_a_field(tmp_path: Path) -> None:
    """Check that a field that is added to the config becomes a setting of rows."""
    for setting in fields(GenerationConfig):
        value = getattr(GenerationConfig(), setting.name)
        line = json.dumps({"prompt": "a", setting.name: value})
        (row,) = rows(tmp_path / "a.jsonl", line)
        assert isinstance(row, PromptRow)
        if setting.name not in ("num_return_sequences", "batch_size"):
            assert row_config(GenerationConfig(), row.overrides) == GenerationConfig()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "prompt,text\na,b\n", "the column 'text': results have a field of this name; rename it"),
        ("a.tsv", "line\tprompt\na\tb\n", "the column 'line': results have a field of this name"),
        ("a.csv", "prompt,batch_size\na,3\n", "the column 'batch_size': this setting is the same for all rows"),
        ("a.csv", "prompt,x,x\na,3,4\n", "the column 'x' stands in the header twice"),
        ("a.txt", "a\n", "--keep-columns goes with tables and JSON"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(tmp_path: Path, name: str, data: str, message: str) -> None:
    (tmp_path / name).write_text(data)
    with pytest.raises(PromptFileError, match=message):
        PromptFile(str(tmp_path / name), keep_columns=True)


def test_fields_that_cannot_be_kept_make_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"prompt": "a", "error": 1}, {"prompt": "a", "x": [1]}, {"prompt": "a", "num_return_sequences": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"prompt": "a", "x": {"y": [1e999]}}\n')
    with PromptFile(str(path), keep_columns=True) as prompts:
        got = list(prompts)
    assert [row.error for row in got if isinstance(row, BadRow)] == [
        "error: results have a field of this name; rename it",
        "a number in it is too large",
    ]
    assert got[1:3] == [
        PromptRow(1, 2, 1, "a", {}, {"x": [1]}),
        PromptRow(2, 3, 2, "a", {"num_return_sequences": 2}),  # an error of the row, later
    ]


def test_results_have_no_other_keys_than_those_that_are_refused() -> None:
    row, text = PromptRow(3, 4, "id", "a", {}), Generation("a", "b", (1,), "length", 3, (-1.0,))
    made = [text_record(row, 0, 2, text, True), stuck_record(row, 0, 2, ("bad_words",)), error_record(row, "x")]
    assert {key for record in made for key in record} == set(RESULT_KEYS)
