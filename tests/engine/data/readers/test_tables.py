"""Columns of CSV and TSV: delimiters, quoting, headers, damage, and the same rows for corpora and for prompts."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from corpus_reading import Write, failure
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.readers.options import Reading, ReadOptions
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError, PromptFileError
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_rows import BadRow, PromptRow

PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)


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


def test_tsv_has_no_quoting_by_default(write: Write) -> None:
    path = write("a.tsv", 'text\n"Hello\nmiddle\nworld"\nfine\n"Yes" he said\n"all of it"\n')
    corpus = read_corpus([path])
    assert corpus.content == ('"Hello', "middle", 'world"', "fine", '"Yes" he said', '"all of it"')
    assert corpus.readings[0].quoted == 1
    assert "1 in quotes, which are kept (--quoting csv takes them off)" in corpus.readings[0].describe()
    explicit = read_corpus([path], ReadOptions(quoting="none"))
    assert (explicit.content, explicit.readings[0].quoted) == (corpus.content, 0)
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
    """White space around names is ignored, and a name of two columns selects neither."""
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
        "id;text,raw\n1;a,b\n2;c,d\n",  # two delimiters fit
        "id;text,raw\n1;a,b;c,d\n",  # no delimiter fits
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
    for delimiter in (None, ";"):  # both a line of Excel and an option may name the delimiter
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


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
)  # many NULs count as another encoding
WRITTEN = st.lists(
    st.tuples(TEXTS, st.sampled_from(["a", 'say "hi"', "x;y|z,\t", "\r", "l\r\nm\n"]) | TEXTS), max_size=8
)


def prompts_of(path: Path, table: TableFormat) -> list[str]:
    """Return the prompts of a file without bad rows."""
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
