"""Prompt files: what every format gives, what a row may be, and what becomes of rows that are not."""

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

from unrolled.engine.errors import ConfigError, PromptFileError
from unrolled.runtime.config import GenerationConfig
from unrolled.runtime.prompt_files import BadRow, PromptFile, PromptRow, Row
from unrolled.runtime.row_settings import make_config, parse_cell, row_config


def rows(path: Path, data: bytes | str, format: str | None = None, limit: int = 1000) -> list[Row]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with PromptFile(str(path), format, limit) as prompts:
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
    assert rows(tmp_path / f"a{ending}", text.replace(",", mark).replace(f'"p""{mark} ', '"p"", ')) == [
        PromptRow(0, 2, "x", 'a\nb"c', {"top_k": 5, "stop": "END", "do_sample": True}),
        PromptRow(1, 5, 1, "d", {"top_k": None, "stop": ("p", "q"), "do_sample": None}),
        PromptRow(2, 6, "y", "e", {"top_k": 7, "stop": "5", "do_sample": False}),
    ]


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


def test_a_quote_that_is_not_closed_costs_a_record_and_not_the_file(tmp_path: Path) -> None:
    got = rows(tmp_path / "a.csv", 'prompt\nok\n"a\n' + "b\n" * 60, limit=100)
    assert isinstance(got[1], BadRow)
    assert (got[1].line, "a quote is not closed" in got[1].error) == (3, True)
    assert [row.prompt for row in got[2:] if isinstance(row, PromptRow)] == ["b"] * (60 - 49)


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
    with pytest.raises(ConfigError, match="format: got 'json'"):
        PromptFile("-", "json")


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
    """Fields that are added to the config are settings of rows without more."""
    for setting in fields(GenerationConfig):
        value = getattr(GenerationConfig(), setting.name)
        line = json.dumps({"prompt": "a", setting.name: value})
        (row,) = rows(tmp_path / "a.jsonl", line)
        assert isinstance(row, PromptRow)
        if setting.name not in ("num_return_sequences", "batch_size"):
            assert row_config(GenerationConfig(), row.overrides) == GenerationConfig()
