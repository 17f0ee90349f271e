"""JSON: non-finite numbers and lone surrogates are written, and damaged input gives a named error."""

from __future__ import annotations

import pytest

from unrolled.engine.errors import ModelFileError
from unrolled.engine.storage.json_text import MAX_JSON_DEPTH, object_in, parse_array, parse_json, parse_value, to_json


def test_numbers_that_json_lacks_become_null() -> None:
    assert to_json({"a": [float("nan"), (float("inf"), 1.5)], "b": True}) == '{"a": [null, [null, 1.5]], "b": true}'


def test_lone_surrogates_are_escaped_and_come_back() -> None:
    value = {"a\ud83d": ["\udce9", "ü😀"]}
    assert to_json(value) == '{"a\\ud83d": ["\\udce9", "ü😀"]}'
    assert parse_value(to_json(value)) == value
    assert to_json("ü\u2028", ascii=True) == '"\\u00fc\\u2028"'
    assert to_json({"a": 1}, indent=2) == '{\n  "a": 1\n}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[NaN]", "NaN is no number of JSON"),
        ("{", "Expecting property name"),
        ("[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1), "more than 64 levels deep"),
        ("[" * 200_000, "more than 64 levels deep"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the name 'b' stands in an object twice"),
    ],
)
def test_invalid_values_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_value(text, unique=True)


def test_a_repeated_name_has_its_last_value_unless_names_are_unique() -> None:
    assert parse_value('{"a": 1, "a": 2}') == {"a": 2}
    assert parse_value("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH) is not None


def test_items_of_an_array_have_the_number_of_their_first_line() -> None:
    assert parse_array(' [\n1, {"a":\n2}\n,\n\n3 ]\n') == [(2, 1), (2, {"a": 2}), (6, 3)]
    assert parse_array("[]") == []


def test_a_part_of_a_file_is_named_if_it_is_no_object() -> None:
    assert parse_json('{"a": 1}', "its header") == {"a": 1}
    with pytest.raises(ModelFileError, match="its header is not JSON"):
        parse_json("{", "its header")
    with pytest.raises(ModelFileError, match="its header is a JSON list, needs an object"):
        parse_json("[]", "its header")


def test_a_missing_object_is_empty() -> None:
    assert object_in({"data": {"level": "char"}}, "data") == {"level": "char"}
    assert object_in({"data": [1]}, "data") == object_in({}, "data") == {}
