"""Tests of the JSON in mappings/ and of servers that lack the field type for weights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import Connection, OpenSearch

from gram_plugin.errors import MappingError, SearchError
from gram_plugin.search.mappings import (
    IndexFields,
    apply_template,
    apply_to_index,
    check_index,
    component_template,
    read_mapping_file,
)
from gram_plugin.search.query import GramExtension, Mode
from gram_plugin.serve.settings import ShimSettings

README = Path(__file__).parents[3] / "mappings" / "README.md"
UNKNOWN_TYPE = "No handler for type [rank_features] declared on field [weights]"


class CoreServer(Connection):
    """An OpenSearch with the core's field types alone and one empty index `products`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{key: value for key, value in options.items() if key in ("host", "port")})
        self.templates: dict[str, Any] = {}
        self.mapping: dict[str, Any] = {}

    def close(self) -> None:
        """Nothing is open."""

    def perform_request(
        self, method: str, url: str, params: Any = None, body: bytes | None = None, *args: Any, **options: Any
    ) -> tuple[int, Mapping[str, str], str]:
        """Answers as OpenSearch 2.19 does without the module mapper-extras."""
        if method == "GET":
            return 200, {}, json.dumps({"products": {"mappings": self.mapping}})
        if b'"rank_features"' in (body or b""):
            self._raise_error(400, _refusal("mapper_parsing_exception", UNKNOWN_TYPE), "application/json")
        if url.startswith("/_component_template/"):
            self.templates[url.rpartition("/")[2]] = json.loads(body or b"")
        else:
            self.mapping.update(json.loads(body or b""))
        return 200, {}, '{"acknowledged":true}'


class FullServer(CoreServer):
    """An OpenSearch that refuses everything for another reason."""

    def perform_request(self, *args: Any, **options: Any) -> tuple[int, Mapping[str, str], str]:
        """Always the same refusal."""
        self._raise_error(400, _refusal("illegal_argument_exception", "Limit of total fields"), "application/json")
        raise AssertionError


def _refusal(kind: str, reason: str) -> str:
    return json.dumps({"error": {"root_cause": [{"type": kind, "reason": reason}], "type": kind}, "status": 400})


@pytest.fixture
def core_client() -> Iterator[OpenSearch]:
    """A client of a server without `rank_features`."""
    with OpenSearch("http://h:9200", connection_class=CoreServer) as client:
        yield client


def test_core_alone_gets_the_template_without_weights(core_client: OpenSearch) -> None:
    """Where `rank_features` is unknown the keyword variant is sent instead, and the caller is told."""
    assert apply_template(core_client) is False
    server = core_client.transport.get_connection()
    assert server.templates == {"gram-codes": component_template(weighted=False)}


def test_core_alone_gets_fields_without_weights(core_client: OpenSearch) -> None:
    """An index there has everything but weights, passes the check, and says that codes count alike."""
    with pytest.raises(MappingError):
        check_index(core_client, "products")
    applied = apply_to_index(core_client, "products")
    assert applied == IndexFields("products", ("products",), weighted=False, changed=("products",))
    assert apply_to_index(core_client, "products") == IndexFields("products", ("products",), weighted=False)
    assert check_index(core_client, "products") == IndexFields("products", ("products",), weighted=False)


def test_other_refusals_are_not_mistaken() -> None:
    """Only the missing field type leads to the smaller template; any other refusal is passed on in words."""
    with OpenSearch("http://h:9200", connection_class=FullServer) as client:
        with pytest.raises(
            SearchError, match=r"putting the component template gram-codes failed: 400 .*Limit of total"
        ):
            apply_template(client)
        with pytest.raises(SearchError, match="Limit of total fields"):
            apply_to_index(client, "products")


def test_variants_differ_by_weights_alone() -> None:
    """The template for a bare core is the other one less `weights`."""
    weighted, bare = component_template(weighted=True), component_template(weighted=False)
    fields = weighted["template"]["mappings"]["properties"]["gram"]["properties"]
    assert fields.pop("weights") == {"type": "rank_features"}
    assert weighted["template"] == bare["template"]
    assert weighted["version"] == bare["version"]


def test_pipeline_keeps_the_lexical_search_on_failure() -> None:
    """The native pipeline ignores failures, asks once, and replaces the placeholder beside the lexical query."""
    (processor,) = read_mapping_file("gram-pipeline.json")["request_processors"]
    native = processor["ml_inference"]
    assert (native["ignore_failure"], native["ignore_missing"]) == (True, False)
    assert native["input_map"] == [{"query": "ext.ml_inference.text"}]
    assert native["output_map"] == [{"query.bool.should[0]": "clause"}]
    (action,) = read_mapping_file("gram-connector.json")["actions"]
    sent = set(re.findall(r"\$\{parameters\.(\w+)\}", action["request_body"]))
    assert sent == {"query"} | set(native["model_config"])


def test_connector_has_a_credential() -> None:
    """ml-commons refuses a connector without one, and what its headers name must be in it."""
    connector = read_mapping_file("gram-connector.json")
    named = re.findall(r"\$\{credential\.(\w+)\}", json.dumps(connector["actions"]))
    assert sorted(connector["credential"]) == named == ["authorization"]


def test_the_connector_names_the_port_of_the_shim() -> None:
    """Who applies it as it is reaches the shim where it listens unless it is told otherwise."""
    endpoint = read_mapping_file("gram-connector.json")["parameters"]["endpoint"]
    assert endpoint == f"gram-shim:{ShimSettings(upstream_url='http://h').port}"


def test_every_field_and_key_is_explained() -> None:
    """README.md of mappings/ has a row for each mapped field, each file and each top-level key."""
    rows = set(re.findall(r"`([\w.-]+)(?:: \w+)?`", README.read_text(encoding="utf-8")))
    fields = component_template(weighted=True)["template"]["mappings"]["properties"]["gram"]["properties"]
    names = {path.name for path in README.parent.glob("*.json")}
    native = read_mapping_file("gram-pipeline.json")["request_processors"][0]["ml_inference"]
    connector = set(read_mapping_file("gram-connector.json")) - {"parameters"}
    assert {f"gram.{name}" for name in fields} | names | set(native) | connector <= rows


def test_missing_file_is_a_broken_installation() -> None:
    """A JSON file that is not there is named, with the way out."""
    with pytest.raises(MappingError, match=r"lacks nothing\.json — install gram-opensearch again"):
        read_mapping_file("nothing.json")


def test_pages_of_this_room_are_complete() -> None:
    """docs/mappings.md names every field; docs/clause.md every mode, reason and key of `ext.gram`."""
    docs = README.parents[1] / "docs"
    fields = component_template(weighted=True)["template"]["mappings"]["properties"]["gram"]["properties"]
    mappings_page = (docs / "mappings.md").read_text(encoding="utf-8")
    assert [name for name in fields if f"| `gram.{name}` |" not in mappings_page] == []
    clause_page = (docs / "clause.md").read_text(encoding="utf-8")
    words = [*Mode, "no-query", "hybrid", "no-score", *(item.name for item in dataclasses.fields(GramExtension))]
    assert [word for word in words if f"| `{word}` |" not in clause_page] == []
