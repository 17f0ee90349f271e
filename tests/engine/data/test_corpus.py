"""Readers: what a file, a column, a field or standard input gives, and what the errors say."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.corpus import BUILTIN, IDENTIFIERS, Corpus, read_corpus
from unrolled.engine.data.readers.options import Reading, ReadOptions
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError, CorpusError, PromptFileError
from unrolled.runtime.jobs.prompt_files import BadRow, PromptFile, PromptRow

Write = Callable[[str, bytes | str], Path]
PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(name: str, data: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return run


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    return lambda data: monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def failure(*sources: str | Path, options: ReadOptions | None = None) -> str:
    """The message of the CorpusError that reading raises."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(sources, options)
    return str(caught.value)


# plain text


def test_one_plain_file_is_kept_as_it_is(write: Write) -> None:
    assert read_corpus([write("a.txt", "  one\n\ntwo é 😀\n")]) == Corpus("a.txt", "  one\n\ntwo é 😀\n")


def test_any_other_ending_is_plain_text(write: Write) -> None:
    assert read_corpus([str(write("notes.md", "# x"))]) == Corpus("notes.md", "# x")
    assert read_corpus([write("README", "a,b")]).content == "a,b"


def test_several_plain_files_are_joined_by_a_line_end(write: Write) -> None:
    paths = [write("b.txt", "second\n"), write("a.txt", "first"), write("c.txt", "third")]
    assert read_corpus(paths) == Corpus("b.txt, a.txt, c.txt", "second\n\nfirst\nthird")


def test_universal_line_ends(write: Write) -> None:
    assert read_corpus([write("a.txt", b"a\r\nb\rc\n\r\n")]).content == "a\nb\nc\n\n"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "utf_8"])
def test_byte_order_mark_is_dropped(write: Write, encoding: str) -> None:
    assert read_corpus([write("a.txt", b"\xef\xbb\xbfabc")], ReadOptions(encoding=encoding)).content == "abc"


def test_byte_order_mark_is_no_part_of_a_column_or_record(write: Write) -> None:
    assert read_corpus([write("a.csv", b"\xef\xbb\xbfname\nx\n")], ReadOptions("name")).content == ("x",)
    assert read_corpus([write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')]).content == ("x",)


def test_column_or_field_of_a_plain_file_is_refused(write: Write) -> None:
    path = write("a.txt", "x")
    assert failure(path, options=ReadOptions(column="c")) == (
        f"{path}: --column goes with .csv and .tsv files; this one is read as plain text"
    )
    assert failure(path, options=ReadOptions(field="f")) == (
        f"{path}: --field goes with .jsonl and .json files; this one is read as plain text"
    )


# columns


def test_csv_column_with_quoted_commas_quotes_and_line_ends(write: Write) -> None:
    path = write("a.csv", 'id,note\n1,"one, two"\n2,"line one\nline two"\n3,"say ""hi"""\n4,plain\n')
    assert read_corpus([path], ReadOptions("note")) == Corpus(
        "a.csv", ("one, two", "line one\nline two", 'say "hi"', "plain")
    )
    assert read_corpus([path], ReadOptions("id")).content == ("1", "2", "3", "4")


def test_tsv_column(write: Write) -> None:
    path = write("a.TSV", 'a\tb\n1,5\t"x\ty"\r\n2\tz\n')
    assert read_corpus([path], ReadOptions("b", quoting="csv")).content == ("x\ty", "z")
    assert read_corpus([path], ReadOptions("a", quoting="csv")).content == ("1,5", "2")
    assert failure(path, options=ReadOptions("b")) == (
        f"{path}, line 2: has 3 columns, the header 2; where quotes hold delimiters and line ends, say --quoting csv"
    )


def test_tsv_has_no_quoting_unless_said(write: Write) -> None:
    path = write("a.tsv", 'text\n"Hello\nmiddle\nworld"\nfine\n"Yes" he said\n"all of it"\n')
    corpus = read_corpus([path])
    assert corpus.content == ('"Hello', "middle", 'world"', "fine", '"Yes" he said', '"all of it"')
    assert corpus.readings[0].quoted == 1
    assert "1 in quotes, which are kept (--quoting csv takes them off)" in corpus.readings[0].describe()
    said = read_corpus([path], ReadOptions(quoting="none"))
    assert (said.content, said.readings[0].quoted) == (corpus.content, 0)
    plain = write("a.csv", '"Yes" he said\n')
    assert read_corpus([plain], ReadOptions(quoting="none", header=False)).content == ('"Yes" he said',)


def test_single_column_needs_no_option(write: Write) -> None:
    assert read_corpus([write("a.csv", "name\nAnna\nBen\n")]).content == ("Anna", "Ben")


def test_blank_cells_are_left_out_and_counted(write: Write) -> None:
    path = write("a.csv", 'a,b\n1,x\n2,\n3,  \n\n4,y\n5,""\n')
    corpus = read_corpus([path], ReadOptions("b"))
    assert corpus.content == ("x", "y")
    assert corpus.readings == (Reading(str(path), "csv", "b", 2, {"empty": 3, "blank lines": 1}, ","),)
    assert corpus.readings[0].describe() == f"{path}: column 'b', 2 rows; skipped: 3 empty, 1 blank lines"


def test_short_rows_are_refused_with_their_line(write: Write) -> None:
    path = write("a.csv", 'a,b\n1,"x\ny"\n2\n')
    assert failure(path, options=ReadOptions("b")) == f"{path}, line 4: has 1 columns, the header 2"


def test_wide_rows_are_refused_with_their_line(write: Write) -> None:
    one = write("one.csv", "text\nI ate pie, ice cream, and cookies\n")
    assert failure(one) == (
        f"{one}, line 2: has 3 columns, the header 1; a text that holds the delimiter ',' needs quotes around it; "
        "a file with a text a line is plain text, and named .txt"
    )
    two = write("two.csv", "id;text\n1;a\n" * 40 + "2;a; b\n")
    assert failure(two, options=ReadOptions("text")) == (
        f"{two}, line 81: has 3 columns, the header 2; a text that holds the delimiter ';' needs quotes around it"
    )


def test_names_of_columns(write: Write) -> None:
    """Blanks around them do not count, and a name that two columns have names neither."""
    path = write("a.csv", " id , text,text,,\n1, one ,two,,\n")
    assert read_corpus([path], ReadOptions("id")).content == ("1",)
    assert failure(path, options=ReadOptions(" text ")) == (
        f"{path}: 2 columns have the name 'text', give them different ones"
    )
    assert failure(path) == f"{path}: which column? --column takes one of 'id', 'text', 'text', '', ''"
    spaced = write("b.csv", "id, text\n1, one \n")
    assert read_corpus([spaced], ReadOptions("text")).content == (" one ",)


def test_many_columns_are_named_in_part(write: Write) -> None:
    path = write("a.csv", ",".join(f"c{number}" for number in range(500)) + "\n")
    listed = ", ".join(f"c{number}" for number in range(20))
    assert failure(path) == f"{path}: which column? --column takes one of {listed} … (500 in all)"


@pytest.mark.parametrize("options", [{"column": ""}, {"column": " "}, {"field": ""}])
def test_a_name_without_characters_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"got ' ?', needs a name"):
        ReadOptions(**options)


DELIMITERS = [(",", ","), (";", ";"), ("\t", "tab"), ("\t", "\\t"), ("|", "|")]


@pytest.mark.parametrize(("mark", "name"), DELIMITERS)
def test_the_delimiter_is_detected_or_named(write: Write, mark: str, name: str) -> None:
    path = write("a.csv", f'id{mark}text\n1{mark}"a; b, c|d\te"\n2{mark}f\n')
    for delimiter in (None, name):
        corpus = read_corpus([path], ReadOptions("text", delimiter=delimiter))
        assert corpus.content == ("a; b, c|d\te", "f")
        assert corpus.readings[0].delimiter == mark
    assert failure(path) == f"{path}: which column? --column takes one of id, text"


@pytest.mark.parametrize("row", ["a; b", "a | b", "a\tb", "a; b; c", '"a, b; c"'])
def test_a_single_column_may_hold_other_delimiters(write: Write, row: str) -> None:
    texts = (row.strip('"'),) * 3
    assert read_corpus([write("a.csv", "text\n" + f"{row}\n" * 3)]).content == texts
    assert read_corpus([write("b.csv", '"text; all"\n' + f"{row}\n" * 3)]).content == texts


@pytest.mark.parametrize(
    "text",
    [
        "id;text,raw\n1;a,b\n2;c,d\n",  # two fit
        "id;text,raw\n1;a,b;c,d\n",  # none does
        "id;text\n1;a\n2;b;c\n",
        "id|text\n1\n",
        "id\ttext;raw\n",
    ],
)
def test_a_delimiter_that_is_not_plain_is_refused(write: Write, text: str) -> None:
    path = write("a.csv", text)
    for column in (None, "text"):
        message = failure(path, options=ReadOptions(column))
        assert message.startswith(f"{path}, line 1: its delimiter is not plain: the first row has 2 columns by ")
        assert message.endswith("; name it with --delimiter")


@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_a_tsv_with_another_delimiter_is_refused_until_that_is_named(write: Write, mark: str) -> None:
    path = write("a.tsv", f"id{mark}prompt\n1{mark}a\n2{mark}b\n")
    message = f"the first row has no tab, but 2 columns by {mark!r}; name it, or tab, with --delimiter"
    assert failure(path) == f"{path}, line 1: {message}"
    with pytest.raises(PromptFileError, match=re.escape(message)), PromptFile(str(path)) as prompts:
        list(prompts)
    assert read_corpus([path], ReadOptions("prompt", delimiter=mark)).content == ("a", "b")
    assert read_corpus([path], ReadOptions(delimiter="tab")).content == (f"1{mark}a", f"2{mark}b")


@pytest.mark.parametrize("header", ["text", "text, all"])
def test_a_tsv_of_one_column_may_hold_other_delimiters(write: Write, header: str) -> None:
    assert read_corpus([write("a.tsv", f"{header}\na, b\nc\n")]).content == ("a, b", "c")


def test_a_first_line_of_excel_names_the_delimiter(write: Write) -> None:
    path = write("a.csv", "sep=;\r\nid;text, raw\r\n1;a, b\r\n2;c;d\r\n")
    assert failure(path, options=ReadOptions("text, raw")).startswith(f"{path}, line 4: has 3 columns, the header 2; ")
    path = write("a.csv", "SEP=|\na,b|c\nx|y\n")
    assert read_corpus([path], ReadOptions("a,b")).content == ("x",)
    path = write("a.csv", "sep=;\nid;text\n1;a, b\n")
    for delimiter in (None, ";"):  # which a line of Excel and an option may both name
        assert read_corpus([path], ReadOptions("text", delimiter=delimiter)).content == ("a, b",)
    assert read_corpus([path], ReadOptions("id;text", delimiter="|")).content == ("1;a, b",)


def test_rows_decide_between_delimiters_of_the_header(write: Write) -> None:
    path = write("a.csv", 'id;text, raw\n1;"a\nb"\n2;c, d, e\n')
    assert read_corpus([path], ReadOptions("text, raw")).content == ("a\nb", "c, d, e")
    cut = write("b.csv", "id;text, raw\n" + "1;a\n" * 48 + '2;"b\n\nc;d;e"\n')  # after the lines of the sample
    assert read_corpus([cut], ReadOptions("text, raw")).content == ("a",) * 48 + ("b\n\nc;d;e",)


def test_a_table_without_a_header(write: Write) -> None:
    path = write("a.csv", "1,one\n2,two\n")
    plain = ReadOptions("2", header=False)
    assert read_corpus([path], plain).content == ("one", "two")
    assert read_corpus([path], plain).readings[0].column == "2"
    assert failure(path, options=ReadOptions(header=False)) == f"{path}: which column? --column takes one of 1, 2"
    assert failure(path, options=ReadOptions("one", header=False)) == f"{path}: no column 'one'; there are 1, 2"
    assert read_corpus([write("b.tsv", "a\nb\n")], ReadOptions(header=False)).content == ("a", "b")
    empty = write("c.csv", "\n")
    assert failure(empty, options=ReadOptions(header=False)) == f"{empty}: empty; a row was expected"
    short = write("d.csv", "1,one\n2\n")
    assert failure(short, options=plain) == f"{short}, line 2: has 1 columns, the first row 2"


def test_an_open_quote_is_named_by_its_line(write: Write) -> None:
    path = write("a.csv", 'id,text\n1,ok\n"a\nb","c\nd,e\nf,g\n')
    hint = "double a quote inside quotes, or read quotes as they are by --quoting none"
    assert failure(path, options=ReadOptions("text")) == (
        f"{path}, line 4: the quote that opens in line 4 is not closed; {hint}"
    )
    path = write("b.csv", 'id,text\r\n1,"o""k"\r\n2,"c\r\nd,e\r\n3,"f"\r\n')
    assert failure(path, options=ReadOptions("text")) == (
        f"{path}, line 3: ',' expected after '\"' in line 5, where the quote that opens in line 3 is closed; {hint}"
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_options_of_tables_go_with_tables(write: Write, name: str) -> None:
    path = write(name, "[]")
    message = failure(path, options=ReadOptions(delimiter=";", header=False))
    assert message.startswith(f"{path}: --delimiter, --no-header go with .csv and .tsv files; ")


def test_csv_fields_beyond_the_default_limit_of_the_csv_module(write: Write) -> None:
    text = "x" * 200_000
    assert read_corpus([write("a.csv", f"t\n{text}\n")]).content == (text,)


def test_missing_column_lists_the_columns(write: Write) -> None:
    path = write("a.csv", "id,note\n1,x\n")
    assert failure(path, options=ReadOptions("nota")) == f"{path}: no column 'nota'; there are id, note"
    assert failure(path) == f"{path}: which column? --column takes one of id, note"


@pytest.mark.parametrize("row", ['"never closed', '"closed" too early', '"not closed" ""'])
def test_csv_damage_names_the_line(write: Write, row: str) -> None:
    path = write("a.csv", f"t\nok\n{row}\n")
    assert failure(path).startswith(f"{path}, line 3: ")


def test_csv_without_header_or_rows(write: Write) -> None:
    empty = write("empty.csv", "")
    assert failure(empty) == f"{empty}: empty; a header row with column names was expected"
    header = write("header.csv", "a\n")
    assert failure(header) == f"{header}: holds no text"


# JSON lines


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


# standard input


def test_stdin_is_plain_text(stdin: Callable[[bytes], None]) -> None:
    stdin("a\r\nb é".encode())
    assert read_corpus(["-"]) == Corpus("standard input", "a\nb é")


def test_stdin_with_a_field_or_a_column(stdin: Callable[[bytes], None]) -> None:
    stdin(b'{"t": "x"}\n{"t": "y"}\n')
    assert read_corpus(["-"], ReadOptions(field="t")) == Corpus("standard input", ("x", "y"))
    stdin(b"a,b\n1,x\n2,y\n")
    assert read_corpus(["-"], ReadOptions(column="b")) == Corpus("standard input", ("x", "y"))


def test_stdin_with_options_of_a_table(stdin: Callable[[bytes], None]) -> None:
    stdin(b'1;"x;"\n2;y\n')
    assert read_corpus(["-"], ReadOptions("2", delimiter=";", header=False)).content == ("x;", "y")
    stdin(b'"x\n"y"\n')
    assert read_corpus(["-"], ReadOptions(delimiter="tab", header=False)).content == ('"x', '"y"')


def test_stdin_joins_with_files_but_only_once(stdin: Callable[[bytes], None], write: Write) -> None:
    stdin(b"in")
    assert read_corpus([write("a.txt", "file"), "-"]) == Corpus("a.txt, standard input", "file\nin")
    assert failure("-", "-") == "standard input (-) can be read only once"


def test_stdin_is_named_in_errors(stdin: Callable[[bytes], None]) -> None:
    stdin(b"a\xff")
    assert failure("-").startswith("standard input: byte 0xff at offset 1")
    stdin(b" \n")
    assert failure("-") == "standard input: holds no text"


# encodings


def test_undecodable_bytes_name_the_offset_and_suggest_encoding(write: Write) -> None:
    path = write("a.txt", b"caf\xe9 au lait")
    assert failure(path) == (
        f"{path}: byte 0xe9 at offset 3 is not utf-8; "
        "name the file's encoding with --encoding, for instance latin-1 or utf-16"
    )


def test_offset_counts_from_the_start_of_the_file_behind_a_byte_order_mark(write: Write) -> None:
    assert "byte 0xe9 at offset 6 is not utf-8" in failure(write("a.txt", b"\xef\xbb\xbfcaf\xe9 au lait"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32", "cp1252"])
def test_other_encodings(write: Write, encoding: str) -> None:
    path = write("a.txt", "café\n".encode(encoding))
    assert read_corpus([path], ReadOptions(encoding=encoding)).content == "café\n"


def test_truncated_utf_16_is_an_error_with_an_offset(write: Write) -> None:
    path = write("a.txt", "ab".encode("utf-16-le") + b"c")
    assert "byte 0x63 at offset 4 is not utf-16-le" in failure(path, options=ReadOptions(encoding="utf-16-le"))


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13"])
def test_unknown_encoding(write: Write, encoding: str) -> None:
    assert failure(write("a.txt", "x"), options=ReadOptions(encoding=encoding)) == (
        f"--encoding: {encoding!r} is not an encoding that Python knows"
    )


# files that give nothing


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", b"\xef\xbb\xbf"])
def test_empty_file(write: Write, data: bytes) -> None:
    path = write("a.txt", data)
    assert failure(path) == f"{path}: holds no text"


def test_one_empty_file_among_several_is_named(write: Write) -> None:
    empty = write("empty.txt", "")
    assert failure(write("a.txt", "x"), empty) == f"{empty}: holds no text"


@pytest.mark.parametrize("data", ["", "\n\n", '{"text": ""}\n'])
def test_empty_jsonl(write: Write, data: str) -> None:
    path = write("a.jsonl", data)
    assert failure(path) == f"{path}: holds no text"


def test_folder_and_missing_file(tmp_path: Path) -> None:
    assert failure(tmp_path) == f"{tmp_path}: is a folder; name the files in it, for instance {tmp_path}/*.txt"
    missing = tmp_path / "nowhere.txt"
    assert failure(missing) == f"{missing}: no such file"


def test_file_below_a_file_is_a_corpus_error(write: Write) -> None:
    assert "cannot be read (" in failure(write("a.txt", "x") / "b.txt")


def test_text_and_records_cannot_be_mixed(write: Write) -> None:
    assert failure(write("a.txt", "x"), write("b.jsonl", '{"text": "y"}')) == (
        "a.txt, b.jsonl: plain text and records (.csv, .tsv, .jsonl, .json) cannot be mixed in one corpus"
    )


def test_records_of_several_files_follow_each_other(write: Write) -> None:
    paths = [write("a.jsonl", '{"text": "x"}\n{"text": "y"}'), write("b.csv", "t\nz\n")]
    assert read_corpus(paths) == Corpus("a.jsonl, b.csv", ("x", "y", "z"))


# views


def test_views_of_a_text() -> None:
    corpus = Corpus("t", "one\n\n  \n two \nthree")
    assert corpus.text == "one\n\n  \n two \nthree"
    assert corpus.records == ("one", " two ", "three")


def test_lines_of_a_text_are_counted_where_they_are_records() -> None:
    corpus = Corpus("t", "one\n\n  \n two \nthree")
    assert corpus.read_as("stream") == ()
    assert corpus.read_as("records") == (Reading("t", "text", None, 3, {"blank lines": 2}),)
    assert corpus.read_as("records")[0].describe() == "t: 3 lines; skipped: 2 blank lines"
    assert Corpus("t", "one\n").read_as("records")[0].skipped == {"blank lines": 0}


def test_views_of_records() -> None:
    corpus = Corpus("r", ("one", "two\nlines"))
    assert corpus.text == "one\ntwo\nlines"
    assert corpus.records == ("one", "two\nlines")


def test_digest_is_of_the_text_alone() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Corpus("a", "abc").digest == Corpus("b", ("abc",)).digest == expected
    assert Corpus("a", "abd").digest != expected
    assert Corpus("a", "é\ud800").digest == hashlib.sha256(b"\xc3\xa9\xed\xa0\x80").hexdigest()


def test_builtin_corpus_is_read_without_sources() -> None:
    corpus = read_corpus()
    assert corpus.name == BUILTIN
    assert len(corpus.text) > 300_000
    assert "Assert statements are a convenient way to insert debugging assertions" in corpus.text
    assert corpus.text.startswith('The "assert" statement\n')
    assert corpus.text.endswith("\n")
    assert read_corpus(()).digest == read_corpus([BUILTIN]).digest == corpus.digest


def test_identifiers_of_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = read_corpus([IDENTIFIERS])
    assert corpus.name == IDENTIFIERS
    assert {"OrderedDict", "isidentifier", "_replace", "maxsize", "__init__", "self"} <= set(corpus.records)
    assert len(corpus.records) > 10_000
    assert list(corpus.records) == sorted(set(corpus.records))
    assert all(name.isidentifier() for name in corpus.records)
    with pytest.raises(CorpusError, match="built in"):
        read_corpus([IDENTIFIERS], ReadOptions(column="name"))
    with pytest.raises(CorpusError, match="cannot be mixed"):
        read_corpus([IDENTIFIERS, BUILTIN])
    monkeypatch.chdir(tmp_path)
    (tmp_path / IDENTIFIERS).write_text("a file of this name is read")
    assert read_corpus([IDENTIFIERS]).content == "a file of this name is read"
    (tmp_path / IDENTIFIERS).unlink()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(CorpusError, match="without its sources"):
        read_corpus([IDENTIFIERS])


def test_sources_that_cannot_be_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    for module, content in (
        ("ast", b"print 'of another Python'"),
        ("csv", b"null = '\0'"),
        ("json", b"# coding: latin-9000"),
        ("queue", b"name = '\xff'"),
        ("abc", b"found = 1"),
    ):
        (tmp_path / f"{module}.py").write_bytes(content)
    read = Path.read_bytes

    def locked(path: Path) -> bytes:
        if path.name == "io.py":
            raise PermissionError(13, "Permission denied")
        return read(path)

    (tmp_path / "io.py").write_bytes(b"hidden = 1")
    monkeypatch.setattr(Path, "read_bytes", locked)
    assert read_corpus([IDENTIFIERS]).content == ("found",)


@PROPERTY
@given(st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=6))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[str]) -> None:
    for ensure_ascii in (True, False):
        path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
        path.write_bytes("\n".join(json.dumps({"text": r}, ensure_ascii=ensure_ascii) for r in records).encode())
        assert read_corpus([path]).content == tuple(records)


@PROPERTY
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\ufeff\0")).filter(str.strip))
def test_plain_round_trip(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.txt"
    path.write_bytes(text.encode())
    assert read_corpus([path]).content == text


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)  # many NULs are another encoding
WRITTEN = st.lists(
    st.tuples(TEXTS, st.sampled_from(["a", 'say "hi"', "x;y|z,\t", "\r", "l\r\nm\n"]) | TEXTS), max_size=8
)


def prompts_of(path: Path, table: TableFormat) -> list[str]:
    """The prompts of a file without bad rows."""
    with PromptFile(str(path), table=table) as prompts:
        found = list(prompts)
    assert not [row for row in found if isinstance(row, BadRow)]
    return [row.prompt for row in found if isinstance(row, PromptRow)]


@PROPERTY
@given(WRITTEN, st.sampled_from(",;\t|"), st.booleans(), st.booleans())
def test_what_the_csv_module_writes_is_read_by_both_readers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], mark: str, all_quoted: bool, named: bool
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=mark, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
        writer.writerows([("id", "prompt"), *rows, ("0", "last")])
    table = TableFormat(mark if named else None)
    wanted = [*(prompt for _, prompt in rows), "last"]
    assert prompts_of(path, table) == wanted
    corpus = read_corpus([path], ReadOptions("prompt", delimiter=mark if named else None))
    assert corpus.content == tuple(prompt for prompt in wanted if prompt.strip())
    assert corpus.readings[0].skipped == {"empty": len(wanted) - len(corpus.content), "blank lines": 0}


UNQUOTED = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\r\n"), max_size=12)


@PROPERTY
@given(st.lists(st.tuples(UNQUOTED, UNQUOTED), max_size=8))
def test_tsv_without_quoting_is_read_by_both_readers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    lines = [("id", "prompt"), *rows, ("0", '"last')]
    path.write_bytes("".join("\t".join(line) + "\n" for line in lines).encode())
    wanted = [prompt for _, prompt in lines[1:]]
    assert prompts_of(path, TableFormat()) == wanted
    assert read_corpus([path], ReadOptions("prompt")).content == tuple(text for text in wanted if text.strip())


@PROPERTY
@given(st.lists(st.lists(st.text('",a\n'), min_size=1, max_size=3), min_size=1, max_size=5))
def test_both_readers_refuse_the_same_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    """Compare damaged tables: the corpus reader names the first row that the prompt reader finds bad."""
    path = tmp_path_factory.mktemp("bad") / "a.csv"
    path.write_bytes(("id,prompt\n" + "\n".join(map(",".join, rows)) + "\n0,last\n").encode())
    with PromptFile(str(path)) as prompts:
        found = list(prompts)
    bad = next((row for row in found if isinstance(row, BadRow)), None)
    options = ReadOptions("prompt")
    if bad is not None:
        message = failure(path, options=options)
        assert message.endswith(bad.error)
        assert int(message.removeprefix(f"{path}, line ").partition(":")[0]) >= bad.line
    elif any(isinstance(row, PromptRow) and row.prompt.strip() for row in found):
        texts = tuple(row.prompt for row in found if isinstance(row, PromptRow) and row.prompt.strip())
        assert read_corpus([path], options).content == texts


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
