"""Texts of JSON lines and JSON arrays, and a named error with its line for everything else."""

from __future__ import annotations

import json

import pytest
from corpus_reading import Write, failure
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.readers.options import Reading, ReadOptions

PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)


def test_jsonl_field(write: Write) -> None:
    path = write("a.jsonl", '{"text": "one\\ntwo", "n": 1}\r\n\n{"n": 2, "text": "\\u00e9 😀"}\n{"text": " "}')
    assert read_corpus([path]) == Corpus("a.jsonl", ("one\ntwo", "é 😀"))
    assert read_corpus([write("b.ndjson", '{"body": "x"}')], ReadOptions(field="body")).content == ("x",)


def test_jsonl_line_separators_inside_a_text_are_no_line_ends(write: Write) -> None:
    assert read_corpus([write("a.jsonl", '{"text": "a\u2028b\u0085c"}\n')]).content == ("a\u2028b\u0085c",)


def test_bad_json_names_the_line(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x"}\n\n{"text": \n')
    assert failure(path).startswith(f"{path}, line 3: not JSON (")


def test_field_that_is_missing_or_no_text(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x", "n": 5, "nothing": null}\n')
    assert failure(path, options=ReadOptions(field="n")) == f"{path}, line 1: field 'n' is a int, needs a text"
    assert "field 'nothing' is a NoneType" in failure(path, options=ReadOptions(field="nothing"))
    message = failure(path, options=ReadOptions(field="body"))
    assert message == (
        f"{path}, line 1: no object with a field 'body'; there are text, n, nothing; --field names another"
    )


def test_a_name_that_stands_twice_in_an_object(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x"}\n{"text": "y", "text": "z"}\n')
    assert failure(path) == f"{path}, line 2: not JSON (the name 'text' stands in an object twice)"


def test_blank_records_and_lines_are_counted(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x"}\n\n{"text": " "}\n{"text": "y"}\n\n')
    assert read_corpus([path]).readings == (Reading(str(path), "jsonl", "text", 2, {"empty": 1, "blank lines": 2}),)


def test_json_arrays(write: Write) -> None:
    corpus = read_corpus([write("a.json", '\ufeff[\n"x",\r\n "y\\n", ""]\n')])
    assert corpus.content == ("x", "y\n")
    assert [(read.format, read.column, read.rows, read.skipped["empty"]) for read in corpus.readings] == [
        ("json", None, 2, 1)
    ]
    path = write("b.json", '[{"text": "x", "body": "y"}, {"text": "z", "body": "w"}]')
    assert read_corpus([path]).content == ("x", "z")
    assert read_corpus([path], ReadOptions(field="body")).readings[0].column == "body"
    assert read_corpus([path], ReadOptions(field="body")).content == ("y", "w")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"text": "x"}',
            ": it begins with no [, needs an array of texts or objects; an object a line is named .jsonl",
        ),
        ('{"text": "x"}\n{"text": "y"}', ": it begins with no ["),
        ("plain", ": it begins with no ["),
        ('["x",\n', ": not JSON (Expecting value: line 2 column 1"),
        (
            '["x",\n{"text": "y"}, 5]',
            ", line 1, item 1: no object with a field 'text', but '\"x\"'; --field names another",
        ),
        ('[\n{"body": "x"}]', ", line 2, item 1: no object with a field 'text'; there are body; --field names another"),
        ('[\n{"text": 5}]', ", line 2, item 1: field 'text' is a int, needs a text"),
        ("[]", ": holds no text"),
    ],
)
def test_a_json_file_that_is_no_array_of_texts(write: Write, text: str, message: str) -> None:
    path = write("a.json", text)
    assert failure(path).startswith(f"{path}{message}")


def test_json_that_is_no_object(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x"}\n["text"]\n')
    assert failure(path).startswith(f"{path}, line 2: no object with a field 'text'")
    assert "'[\"text\"]'" in failure(path)


@pytest.mark.parametrize("data", ["", "\n\n", '{"text": ""}\n'])
def test_empty_jsonl(write: Write, data: str) -> None:
    path = write("a.jsonl", data)
    assert failure(path) == f"{path}: holds no text"


@PROPERTY
@given(st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=6))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[str]) -> None:
    for ensure_ascii in (True, False):
        path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
        path.write_bytes("\n".join(json.dumps({"text": r}, ensure_ascii=ensure_ascii) for r in records).encode())
        assert read_corpus([path]).content == tuple(records)


@PROPERTY
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip), min_size=1, max_size=6),
    st.sampled_from([None, 1]),
)
def test_json_array_round_trip(
    tmp_path_factory: pytest.TempPathFactory, records: list[str], indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    for items in (records, [{"text": record} for record in records]):
        path.write_bytes(json.dumps(items, indent=indent, ensure_ascii=False).encode())
        assert read_corpus([path]).content == tuple(records)
