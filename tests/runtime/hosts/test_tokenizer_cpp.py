"""The tokeniser of the C++ host and its tables of Unicode, against Python; libtorch is not needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pytest
from golden_tokenizers import GOLDEN

from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.preparation import NORMALIZATIONS, word_continuations

FOLDER = hosts.HOSTS / "cpp"
COMPILER = shutil.which("g++")
Encode = Callable[[list[dict[str, Any]]], Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program around the host's tokeniser and metadata, which is compiled once."""
    if COMPILER is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("cpp") / "tokenizers"
    source = Path(__file__).with_name("tokenizers.cpp")
    command = [
        COMPILER,
        "-std=c++20",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{FOLDER}",
        str(source),
        "-o",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture
def encode(program: Path) -> Encode:
    """Return a function that encodes and decodes texts by the program."""

    def run(cases: list[dict[str, Any]]) -> Any:
        given = json.dumps(cases, ensure_ascii=False).encode()
        found = subprocess.run([str(program)], input=given, capture_output=True, check=True, timeout=120)
        return json.loads(found.stdout)

    return run


def decoded(got: dict[str, Any]) -> list[str]:
    return [bytes(text).decode() for text in got["texts"]]


@pytest.mark.parametrize("name", GOLDEN)
def test_texts_have_the_tokens_of_the_table(encode: Encode, name: str) -> None:
    golden = GOLDEN[name]
    ids = [golden.ids(tokens) for _, tokens, _ in golden.cases]
    texts = [text for text, _, _ in golden.cases]
    [got] = encode([{"description": golden.description, "texts": texts, "ids": [numbers or [] for numbers in ids]}])
    assert got["ids"] == ids
    assert decoded(got) == [text for _, _, text in golden.cases]


def _encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode(text).tolist()
    except UnknownTokenError:
        return None


def test_tokenizers_that_normalise_are_pythons(encode: Encode) -> None:
    texts = [*hosts.TRICKY, hosts.TRICKY, *hosts.random_texts(300)]
    tokenizers = hosts.normalizing_tokenizers()
    rng = np.random.default_rng(6)
    ids = [[rng.integers(0, len(t.vocabulary), 200).tolist()] for t in tokenizers]
    cases = [
        {"description": t.to_dict(), "texts": texts, "ids": lists} for t, lists in zip(tokenizers, ids, strict=True)
    ]
    refused = 0
    for tokenizer, lists, got in zip(tokenizers, ids, encode(cases), strict=True):
        expected = [_encoded(tokenizer, text) for text in texts]
        refused += expected.count(None)
        assert got["ids"] == expected, tokenizer.to_dict()
        assert decoded(got) == [tokenizer.decode(numbers) for numbers in lists]
        assert got["end"] == (-1 if tokenizer.end_id is None else tokenizer.end_id)
    assert refused > 100


def marked_texts(count: int, seed: int) -> list[str]:
    """Return texts of letters, combining marks of all classes, Hangul and compatibility characters in random order."""
    rng = np.random.default_rng(seed)
    classes: dict[int, str] = {}
    for code in range(0x20000):
        classes.setdefault(unicodedata.combining(chr(code)), chr(code))
    hangul = "\u1100\u1112\u1161\u1175\u11a7\u11a8\u11c2\u11c3가각힣힤"
    pool = [
        *"aAeoqnσι가각",
        *classes.values(),
        *hangul,
        *"\u0327\u0328\u0323\u0301\u0345\u1e9b\u0958\u2126\u1dc0\ufb1d\uff9e\uff76",
    ]
    return ["".join(rng.choice(np.array(pool, object), rng.integers(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("form", NORMALIZATIONS[1:])
def test_normal_forms_are_pythons(encode: Encode, form: str) -> None:
    """Every assigned code point alone, and random sequences, as the ids of a tokeniser of their normalised code points."""
    assigned = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co") and code > 0
    ]
    texts = [*assigned, *marked_texts(4000, seed=2)]
    normal = [unicodedata.normalize(form, text) for text in texts]
    vocabulary = sorted(set("".join(normal)))
    ids = {character: index for index, character in enumerate(vocabulary)}
    description = {
        "level": "char",
        "vocabulary": vocabulary,
        "unknown": "error",
        "lowercase": False,
        "normalize": form,
    }
    [got] = encode([{"description": description, "texts": texts, "ids": []}])
    expected = [[ids[character] for character in text] for text in normal]
    assert [index for index, (a, b) in enumerate(zip(got["ids"], expected, strict=True)) if a != b] == []


@pytest.mark.parametrize(("changes", "expected"), hosts.FORMAT_2_CASES)
def test_metadata_of_format_2(program: Path, changes: dict[str, Any], expected: str | None) -> None:
    given = json.dumps(hosts.format_2_metadata(changes)).encode()
    done = subprocess.run([str(program), "metadata"], input=given, capture_output=True, check=True, timeout=60)
    if expected is None:
        assert done.stdout.decode() == "2 1 1 7 11"
    else:
        assert expected in done.stdout.decode()


def table(name: str) -> list[int]:
    source = (FOLDER / "unicode_tables.h").read_text(encoding="utf-8")
    numbers = re.search(rf"{name}\[\] = \{{([^}}]*)\}}", source)
    assert numbers is not None
    return [int(number) for number in numbers[1].split(",")]


@pytest.mark.parametrize(("name", "pattern"), [("WORD_EDGES", r"\w"), ("CONTINUATION_EDGES", word_continuations())])
def test_sets_of_code_points_are_pythons(name: str, pattern: str) -> None:
    inside = np.zeros(0x110000, bool)
    edges = list(accumulate(table(name)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        inside[first:end] = True
    expected = np.array([re.match(pattern, chr(code)) is not None for code in range(0x110000)])
    different = np.flatnonzero(inside != expected)
    assert not inside[different].any()  # a newer Unicode has more
    assert len(different) < 10_000
    assert not different.size or different.min() > 0x2FF


def test_the_tables_are_what_the_generator_writes() -> None:
    text = (FOLDER / "unicode_tables.h").read_text(encoding="utf-8")
    recorded = re.search(r'UNICODE_VERSION = "([0-9.]+)"', text)
    assert recorded is not None
    if recorded[1] != unicodedata.unidata_version:
        pytest.skip(f"the tables are of Unicode {recorded[1]}, this Python has {unicodedata.unidata_version}")
    command = [sys.executable, str(FOLDER / "make_unicode_tables.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == text
