"""Tests of reading and writing bulk bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.errors import RequestError
from gram_plugin.search.bulk import BulkItem, parse_bulk, render_bulk

INDEX = b'{"index":{"_index":"p","_id":"1"}}'

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_documents = st.dictionaries(st.text(), _json, max_size=4)
_actions = st.sampled_from(["index", "create", "update", "delete"])


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    lines: list[dict[str, Any]] = []
    ascii_only, newline = draw(st.booleans()), draw(st.sampled_from(["\n", "\r\n"]))
    for action in draw(st.lists(_actions, min_size=1, max_size=5)):
        lines.append({action: {"_id": draw(st.text(st.characters(codec="utf-8"), max_size=5))}})
        if action != "delete":
            lines.append(draw(_documents))
    texts = [json.dumps(line, ensure_ascii=ascii_only) + newline for line in lines]
    return "".join(texts).encode("utf-8", "backslashreplace")


@given(_bodies())
def test_round_trip(body: bytes) -> None:
    """What was parsed is rendered byte for byte, whatever the line ends, order of keys and escapes."""
    assert render_bulk(parse_bulk(body)) == body


@given(_documents, _documents)
def test_field_is_set_and_nothing_else_changes(document: dict[str, Any], value: dict[str, Any]) -> None:
    """Setting a field gives the document with that field, in the parsed source and in the bytes."""
    raw = json.dumps(document, indent=None).encode()
    (item,) = parse_bulk(INDEX + b"\n" + raw + b" \r\n")
    changed = item.with_field("gram", value)
    others = {key: kept for key, kept in document.items() if key != "gram" and not key.startswith("gram.")}
    assert changed.source == {**others, "gram": value}
    assert changed.raw_source is not None
    assert json.loads(changed.raw_source) == {**others, "gram": value}
    assert parse_bulk(render_bulk([changed])) == [changed]


def test_items_tell_action_metadata_source_and_line() -> None:
    """Every action becomes one item with its number of line; empty lines before it stay: OpenSearch counts them."""
    body = (
        b'\n{"index":{"_id":"1"}}\n{"a":1}\n  \n{"delete":{"_id":"2"}}\n{"update":{"_id":"3"}}\r\n{"doc":{"a":2}}\r\n'
    )
    assert parse_bulk(body) == [
        BulkItem("index", {"_id": "1"}, {"a": 1}, 2, b'\n{"index":{"_id":"1"}}', b'{"a":1}'),
        BulkItem("delete", {"_id": "2"}, None, 5, b'  \n{"delete":{"_id":"2"}}', None),
        BulkItem("update", {"_id": "3"}, {"doc": {"a": 2}}, 6, b'{"update":{"_id":"3"}}\r', b'{"doc":{"a":2}}\r'),
    ]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"price":1.10,"id":12345678901234567890.5}', b'{"price":1.10,"id":12345678901234567890.5,"gram":{"x":1}}'),
        (b'{"a":1,"a":2} \r', b'{"a":1,"a":2,"gram":{"x":1}}'),
        (b'{"a":"\\ud800"}', b'{"a":"\\ud800","gram":{"x":1}}'),
        (b"{ }", b'{"gram":{"x":1}}'),
        (b'\xef\xbb\xbf{"a":1}', b'\xef\xbb\xbf{"a":1,"gram":{"x":1}}'),
        (b'{"a":1,"gram":{"y":2},"gram.z":3}', b'{"a":1,"gram":{"x":1}}'),
        (b'{"gram":1,"a":"\\ud800"}', b'{"a":"\\ud800","gram":{"x":1}}'),
        (
            b'{"p":1.10e2,"gram":1 , "q": 12345678901234567890.1234 }',
            b'{"p":1.10e2, "q": 12345678901234567890.1234,"gram":{"x":1}}',
        ),
    ],
)
def test_field_is_spliced_into_the_bytes_as_sent(raw: bytes, expected: bytes) -> None:
    """Numbers, duplicate keys and escapes stay as they were written; only a field of the same name is replaced."""
    (item,) = parse_bulk(INDEX + b"\n" + raw + b"\n")
    assert item.with_field("gram", {"x": 1}).raw_source == expected


@pytest.mark.parametrize("raw", [b"", b"[1]", b"null", b'{"a":', b'{"a":1} rest', b'{"a":"\xff"}', b"[" * 5000])
def test_bad_source_is_passed_on(raw: bytes) -> None:
    """A source that is no object keeps its bytes and has no parsed source: OpenSearch answers for that one item."""
    body = INDEX + b"\n" + raw + b"\n" + INDEX + b"\n{}\n"
    items = parse_bulk(body)
    assert [item.source for item in items] == [None, {}]
    assert render_bulk(items) == body
    with pytest.raises(ValueError, match="line 1: index has no document"):
        items[0].with_field("gram", {})


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (b"", "the bulk body holds no action"),
        (b"\n \r\n", "the bulk body holds no action"),
        (INDEX + b"\n{}", "line 2: the bulk body must end with a newline"),
        (INDEX + b"\n{}\n" + INDEX + b"\n", "line 3 of the bulk body is the last one, but 'index' needs a source"),
        (INDEX + b'\n{}\n{"index":}\n{}\n', "line 3 of the bulk body is no JSON: Expecting value"),
        (INDEX + b'\n{}\n\n{"index":{}\n{}\n', "line 4 of the bulk body is no JSON"),
        (INDEX + b'\n{}\n{"upsert":{}}\n{}\n', "line 3 of the bulk body has the unknown action 'upsert'"),
        (b'{"index":{},"create":{}}\n{}\n', "line 1 of the bulk body must be an object with exactly one action"),
        (b"[]\n{}\n", "line 1 of the bulk body must be an object with exactly one action"),
        (b'{"index":[]}\n{}\n', "line 1 of the bulk body must have an object after 'index'"),
        (b'{"index":{"_id":"1","_id":"2"}}\n{}\n', "line 1 of the bulk body is no JSON: a key occurs twice"),
        (b'{"index":{"_id":"\xff"}}\n{}\n', "line 1 of the bulk body is no JSON: 'utf-8' codec"),
        (b'{"update":{"_id":"1"}}\n{"doc":\n' + INDEX + b"\n{}\n", "line 2 of the bulk body is no JSON"),
        (b"[" * 5000 + b"\n{}\n", "line 1 of the bulk body is no JSON"),
    ],
)
def test_broken_framing_is_refused_with_its_line(body: bytes, finding: str) -> None:
    """A line that OpenSearch would refuse the request for, or lose without a word, is named with its number."""
    with pytest.raises(RequestError) as refused:
        parse_bulk(body)
    assert refused.value.message.startswith(finding)
    assert refused.value.next_step


def test_a_field_inside_an_update_is_spliced_in_too() -> None:
    """Only the object that is named changes; the rest of the line and the action stay as sent."""
    (item,) = parse_bulk(b'{ "update" : {"_id":"1"} }\n{"doc": {"a": 1.10 } , "upsert":{"gram":1, "b":2e1}}\r\n')
    changed = item.with_field("gram", {"x": "é"}, inside="doc").with_field("gram", {}, inside="upsert")
    expected = '{"doc": {"a": 1.10,"gram":{"x":"é"}}, "upsert":{ "b":2e1,"gram":{}}}'
    assert render_bulk([changed]) == b'{ "update" : {"_id":"1"} }\n' + expected.encode() + b"\n"
    assert changed.source == json.loads(expected)
    with pytest.raises(ValueError, match="line 1: update has no document"):
        item.with_field("gram", {}, inside="script")


_space = st.sampled_from(["", " ", "\t "])
_written = st.sampled_from(
    [
        "1.10e2",
        "12345678901234567890.1234",
        "-0",
        "1E5",
        '"\\u0041"',
        '"\\ud800 \\" } , : \\\\"',
        "[1.0, {}]",
        '"é"',
        "null",
    ]
)
_names = st.sampled_from(["a", "price", "grams", "\\u0061", "", "a.gram", "é"])
_ours = st.sampled_from(["gram", "gram.codes", "\\u0067ram"])


@st.composite
def _members(draw: st.DrawFn, names: st.SearchStrategy[str]) -> tuple[bool, str]:
    ours = draw(st.booleans())
    name, value = draw(_ours if ours else names), draw(_written)
    nested = draw(st.sampled_from([value, f'{{"gram":{value} ,"x":[{{"gram":1}}]}}']))
    return ours, f'{draw(_space)}"{name}"{draw(_space)}:{draw(_space)}{nested}{draw(_space)}'


@given(st.lists(_members(_names), max_size=6), st.sampled_from([None, "doc", "upsert"]))
def test_all_but_the_field_is_as_it_was_written(members: list[tuple[bool, str]], inside: str | None) -> None:
    """Whatever a client has under the name of the field goes, every other member keeps each of its bytes."""
    kept = ",".join(text for ours, text in members if not ours)
    before = "{" + ",".join(text for _, text in members) + "}"
    after = "{" + kept.rstrip() + ("," if kept else "") + '"gram":{"x":1}}'
    if inside is not None:
        before, after = (f'{{ "n":1.0 , "{inside}" : {text}, "z":[{text}]}}' for text in (before, after))
        after = after.rpartition(', "z"')[0] + before[before.rindex(', "z"') :]
    (item,) = parse_bulk(b'{"update":{}}\n' + before.encode() + b"\n")
    assert (item.with_field("gram", {"x": 1}, inside=inside).raw_source or b"").decode() == after


def test_a_name_that_is_a_number_keeps_its_text_and_other_numbers_stay_numbers() -> None:
    """OpenSearch takes the text of the number as the name."""
    (item,) = parse_bulk(b'{"update":{"_index":7.0,"_id":1.10,"routing":-0,"if_seq_no":3,"version":2}}\n{"doc":{}}\n')
    assert item.metadata == {"_index": "7.0", "_id": "1.10", "routing": "-0", "if_seq_no": 3, "version": 2}
