"""The fields of codes on a real index: applying, checking, the object's strictness, the calibration in `_meta`."""

from __future__ import annotations

import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import RequestError as ServerRefusal

from gram_plugin.errors import CalibrationError, MappingError, SearchError
from gram_plugin.search.client import connect
from gram_plugin.search.mappings import (
    TEMPLATE_NAME,
    IndexCalibration,
    IndexFields,
    apply_template,
    apply_to_index,
    check_index,
    component_template,
    read_calibration,
    write_calibration,
)

FIELDS = component_template(weighted=True)["template"]["mappings"]["properties"]["gram"]
CALIBRATION = IndexCalibration("g1", 0.5, 8.25, 120, "2026-11-21T10:00:00+00:00")


def gram_of(client: OpenSearch, index: str) -> object:
    """The mapping of `gram` in an index."""
    return client.indices.get_mapping(index=index)[index]["mappings"].get("properties", {}).get("gram")


def test_template_serves_new_indices(client: OpenSearch, index_name: str) -> None:
    """An index template of the owner that is composed of ours gives new indices the fields."""
    assert apply_template(client) is True
    assert apply_template(client) is True
    composed = {"index_patterns": [f"{index_name}-*"], "composed_of": [TEMPLATE_NAME]}
    client.indices.put_index_template(name=index_name, body=composed)
    client.indices.create(index=f"{index_name}-1")
    client.indices.delete_index_template(name=index_name)
    assert gram_of(client, f"{index_name}-1") == FIELDS
    assert check_index(client, f"{index_name}-1") == IndexFields(f"{index_name}-1", (f"{index_name}-1",), weighted=True)


def test_fields_are_added_once(client: OpenSearch, index_name: str) -> None:
    """An existing index gets the fields beside its own, even into a strict mapping; a second time nothing happens."""
    own = {"dynamic": "strict", "properties": {"title": {"type": "text"}}}
    client.indices.create(index=index_name, body={"mappings": own})
    with pytest.raises(MappingError, match=f"run `gram mapping apply {index_name}`"):
        check_index(client, index_name)
    assert apply_to_index(client, index_name) == IndexFields(index_name, (index_name,), True, (index_name,))
    assert apply_to_index(client, index_name) == IndexFields(index_name, (index_name,), True)
    assert client.indices.get_mapping(index=index_name)[index_name]["mappings"] == {
        "dynamic": "strict",
        "properties": {"gram": FIELDS, "title": {"type": "text"}},
    }


def test_missing_field_is_completed(client: OpenSearch, index_name: str) -> None:
    """An index with a part of our fields gets the rest."""
    part = {"properties": {"gram": {"properties": {"codes": {"type": "keyword"}}}}}
    client.indices.create(index=index_name, body={"mappings": part})
    assert apply_to_index(client, index_name).changed == (index_name,)
    assert gram_of(client, index_name) == FIELDS


EARLIER = {"codes": {"type": "keyword"}, "weights": {"type": "rank_features"}, "model": {"type": "keyword"}}


@pytest.mark.parametrize("lacking", [(), ("weights",), ("at",), ("at", "weights")])
def test_an_index_of_an_earlier_release_keeps_its_fields(
    client: OpenSearch, index_name: str, lacking: tuple[str, ...]
) -> None:
    """Its `gram.source` is searchable and stays so; what it lacks is added, and codes can be written to it."""
    earlier = {**EARLIER, "source": {"type": "keyword"}, "at": {"type": "date"}}
    kept = {name: kind for name, kind in earlier.items() if name not in lacking}
    gram = {"dynamic": "strict", "properties": kept}
    client.indices.create(index=index_name, body={"mappings": {"properties": {"gram": gram}}})
    found = apply_to_index(client, index_name)
    assert (found.weighted, found.changed) == (
        "weights" not in lacking or "at" in lacking,
        (index_name,) * ("at" in lacking),
    )
    assert gram_of(client, index_name) == {"dynamic": "strict", "properties": earlier if "at" in lacking else kept}
    client.index(index=index_name, id="1", body={"gram": {"codes": ["g1/type=x"], "source": "abc"}}, refresh=True)
    assert client.count(index=index_name, body={"query": {"term": {"gram.source": "abc"}}})["count"] == 1


def test_an_owner_who_wants_no_facets_keeps_it_so(client: OpenSearch, index_name: str) -> None:
    """Codes without doc values are as good as others, and the rest is added."""
    codes = {"type": "keyword", "doc_values": False}
    gram = {"dynamic": "strict", "properties": {"codes": codes}}
    client.indices.create(index=index_name, body={"mappings": {"properties": {"gram": gram}}})
    assert apply_to_index(client, index_name) == IndexFields(index_name, (index_name,), True, (index_name,))
    assert gram_of(client, index_name) == {**FIELDS, "properties": {**FIELDS["properties"], "codes": codes}}


def test_alias_stands_for_all_its_indices(client: OpenSearch, index_name: str) -> None:
    """An alias is checked and completed index by index; the message names the one that lacks the fields."""
    old, new = f"{index_name}-old", f"{index_name}-new"
    for name in (old, new):
        client.indices.create(index=name, body={"aliases": {f"{index_name}-alias": {}}})
    apply_to_index(client, new)
    with pytest.raises(MappingError, match=f"index {old} lacks fields"):
        check_index(client, f"{index_name}-alias")
    assert apply_to_index(client, f"{index_name}-alias").changed == (old,)
    assert check_index(client, f"{index_name}-alias").indices == (new, old)


@pytest.mark.parametrize(
    ("gram", "finding"),
    [
        ({"type": "text"}, "gram in another shape: expected an object, found text"),
        ({"properties": {"codes": {"type": "text"}}}, "gram.codes in another shape: expected keyword"),
        ({"properties": {"weight": {"type": "float"}}}, "gram.weight in another shape: expected no such field"),
        ({"properties": {"codes": {"type": "keyword", "index": False}}}, "gram.codes in another shape"),
        ({"type": "nested", "properties": {}}, "gram in another shape: expected an object, found nested"),
    ],
)
def test_other_shape_is_refused(client: OpenSearch, index_name: str, gram: dict[str, object], finding: str) -> None:
    """A field of the owner's under our name is never touched, and neither are the other indices of the alias."""
    body: dict[str, object] = {"aliases": {f"{index_name}-alias": {}}}
    client.indices.create(index=f"{index_name}-a", body=body)
    client.indices.create(index=f"{index_name}-b", body={**body, "mappings": {"properties": {"gram": gram}}})
    with pytest.raises(MappingError) as refused:
        apply_to_index(client, f"{index_name}-alias")
    assert finding in refused.value.message
    assert gram_of(client, f"{index_name}-a") is None


def test_index_that_does_not_exist(client: OpenSearch, index_name: str) -> None:
    """Applying to it changes nothing, checking it fails in words."""
    assert apply_to_index(client, index_name) == IndexFields(index_name, (), weighted=True)
    with pytest.raises(MappingError, match=f"has no index '{index_name}'"):
        check_index(client, index_name)


def test_misspelt_key_is_refused_by_the_server(client: OpenSearch, index_name: str) -> None:
    """The object is strict: a key that we do not know cannot become a field."""
    client.indices.create(index=index_name)
    apply_to_index(client, index_name)
    with pytest.raises(ServerRefusal, match="strict_dynamic_mapping_exception"):
        client.index(index=index_name, body={"gram": {"code": ["g1/type=x"]}})


def test_calibration_keeps_what_else_is_in_meta(client: OpenSearch, index_name: str) -> None:
    """Writing replaces the calibration alone; the owner's `_meta` and fields stay."""
    mappings = {"_meta": {"team": "search", "gram": {"note": 1}}, "properties": {"title": {"type": "text"}}}
    client.indices.create(index=index_name, body={"mappings": mappings})
    write_calibration(client, index_name, IndexCalibration("g1", 9.0, 9.0, 9, ""))
    write_calibration(client, index_name, CALIBRATION)
    assert read_calibration(client, index_name, generation="g1") == CALIBRATION
    found = client.indices.get_mapping(index=index_name)[index_name]["mappings"]
    assert found["properties"] == {"title": {"type": "text"}}
    assert found["_meta"]["team"] == "search"
    assert found["_meta"]["gram"]["note"] == 1


def test_absent_or_foreign_calibration_names_the_command(client: OpenSearch, index_name: str) -> None:
    """Without a calibration, with a broken one or one of another generation the message says what to run."""
    step = f"run `gram calibrate {index_name} --queries FILE`"
    with pytest.raises(CalibrationError, match="has no index"):
        read_calibration(client, index_name)
    client.indices.create(index=index_name)
    with pytest.raises(CalibrationError, match=f"index {index_name} is not calibrated — {step}"):
        read_calibration(client, index_name)
    write_calibration(client, index_name, CALIBRATION)
    with pytest.raises(CalibrationError, match=f"for generation g1, the bundle is g2 — {step}"):
        read_calibration(client, index_name, generation="g2")
    client.indices.put_mapping(index=index_name, body={"_meta": {"gram": {"calibration": {"strength": 1}}}})
    with pytest.raises(CalibrationError, match=f"calibration of index {index_name} is unusable"):
        read_calibration(client, index_name)


def test_indices_of_an_alias_must_agree(client: OpenSearch, index_name: str) -> None:
    """One request to an alias has one λ, so its indices must share it; calibrating the alias makes them."""
    alias = f"{index_name}-alias"
    for number in (1, 2):
        client.indices.create(index=f"{index_name}-{number}", body={"aliases": {alias: {}}})
        write_calibration(client, f"{index_name}-{number}", IndexCalibration("g1", 1.0, float(number), 5, ""))
    with pytest.raises(CalibrationError, match="have different calibrations"):
        read_calibration(client, alias)
    write_calibration(client, alias, CALIBRATION)
    assert read_calibration(client, alias) == CALIBRATION


def test_server_that_is_not_there(index_name: str) -> None:
    """A refused connection names the address and how to start a server."""
    with connect("http://127.0.0.1:9", timeout_s=2) as nobody, pytest.raises(SearchError) as failed:
        check_index(nobody, index_name)
    assert failed.value.message.startswith(f"http://127.0.0.1:9: reading the mapping of {index_name} failed: ")
    assert "gram node" in failed.value.next_step
