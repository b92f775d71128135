"""Settings of shim and sidecar."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gram_plugin.errors import ConfigError
from gram_plugin.search.query import Mode
from gram_plugin.serve.settings import ServerSettings, ShimSettings, SidecarSettings, variable

URL = {"GRAM_UPSTREAM_URL": "http://localhost:9200/"}


@pytest.mark.parametrize("cls", [ShimSettings, SidecarSettings])
def test_defaults_hold_where_nothing_is_set(cls: type[ServerSettings]) -> None:
    """Other variables of the environment are none of our business; a trailing slash goes."""
    assert cls.from_mapping({**URL, "HOME": "/", "GRAM_DEBUG": "1"}) == cls(upstream_url="http://localhost:9200")


def test_values_are_read_by_their_kind() -> None:
    """Numbers, switches, modes and folders."""
    given = {
        **URL,
        "GRAM_MODE": "recall",
        "GRAM_BUDGET_MS": "12.5",
        "GRAM_MAX_CODES": "3",
        "GRAM_LOG_QUERIES": "yes",
        "GRAM_VERIFY_TLS": "0",
        "GRAM_BUNDLE": "b",
        "GRAM_CA_FILE": "",
    }
    assert ShimSettings.from_mapping(given) == ShimSettings(
        upstream_url="http://localhost:9200",
        mode=Mode.RECALL,
        budget_ms=12.5,
        max_codes=3,
        log_queries=True,
        verify_tls=False,
        bundle=Path("b"),
    )


def test_one_environment_serves_both_programs() -> None:
    """A setting of the other program is no unknown key."""
    given = {**URL, "GRAM_MIN_PROBABILITY": "0.5", "GRAM_BUDGET_MS": "1"}
    assert ShimSettings.from_mapping(given).budget_ms == 1
    assert SidecarSettings.from_mapping(given).min_probability == 0.5


SERVICES = {
    "GRAM_PORT": "tcp://10.0.0.1:80",
    "GRAM_SERVICE_HOST": "10.0.0.1",
    "GRAM_SHIM_SERVICE_HOST": "10.0.0.1",
    "GRAM_SHIM_SERVICE_PORT": "9201",
    "GRAM_SHIM_SERVICE_PORT_HTTP": "9201",
    "GRAM_SHIM_PORT": "tcp://10.0.0.1:9201",
    "GRAM_SHIM_PORT_9201_TCP": "tcp://10.0.0.1:9201",
    "GRAM_SHIM_PORT_9201_TCP_PROTO": "tcp",
    "GRAM_SHIM_PORT_9201_TCP_PORT": "9201",
    "GRAM_SHIM_PORT_9201_TCP_ADDR": "10.0.0.1",
}


@pytest.mark.parametrize("cls", [ShimSettings, SidecarSettings])
def test_what_kubernetes_tells_of_services_is_no_setting(cls: type[ServerSettings]) -> None:
    """Services named gram and gram-shim put variables into every pod; the programs start all the same."""
    assert cls.from_mapping({**URL, **SERVICES}) == cls(upstream_url="http://localhost:9200")


def test_the_variables_of_other_verbs_are_known_by_name() -> None:
    """One environment may hold those of the verbs that talk to OpenSearch."""
    names = ("GRAM_DEBUG", *(f"GRAM_OPENSEARCH_{name}" for name in ("URL", "USERNAME", "PASSWORD", "CA")))
    given = {**URL, **dict.fromkeys(names, "x")}
    assert ShimSettings.from_mapping(given) == ShimSettings(upstream_url="http://localhost:9200")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "GRAM_UPSTREAM_URL is not set: expected the URL of OpenSearch"),
        ({**URL, "GRAM_BUDGET": "1"}, "unknown setting GRAM_BUDGET"),
        ({**URL, "GRAM_OPENSEARCH_PASWORD": "secret"}, "unknown setting GRAM_OPENSEARCH_PASWORD"),
        ({**URL, "GRAM_SHIM_PORT": "9201"}, "unknown setting GRAM_SHIM_PORT"),
        ({**URL, "GRAM_PORT": "x"}, "GRAM_PORT='x': expected a whole number"),
        ({**URL, "GRAM_PORT": "70000"}, "GRAM_PORT is 70000, expected 0 to 65535"),
        ({**URL, "GRAM_MAX_QUEUE": "0"}, "GRAM_MAX_QUEUE is 0, expected at least 1"),
        ({**URL, "GRAM_BUDGET_MS": "nan"}, "GRAM_BUDGET_MS='nan': expected a finite number"),
        ({**URL, "GRAM_VERIFY_TLS": "maybe"}, "GRAM_VERIFY_TLS='maybe': expected true or false"),
        ({**URL, "GRAM_MODE": "best"}, "GRAM_MODE='best': expected one of rerank, recall, rescue, off"),
        ({"GRAM_UPSTREAM_URL": "localhost:9200"}, "GRAM_UPSTREAM_URL is no http or https URL"),
        ({"GRAM_UPSTREAM_URL": "http://h:99999"}, "GRAM_UPSTREAM_URL is no http or https URL"),
        ({"GRAM_UPSTREAM_URL": "http://h/?x"}, "GRAM_UPSTREAM_URL has a query or fragment"),
        ({"GRAM_UPSTREAM_URL": "http://me:secret@h"}, "GRAM_UPSTREAM_URL carries credentials (hidden here)"),
    ],
)
def test_mistakes_are_named_with_a_way_out(given: dict[str, str], message: str) -> None:
    """The message has the variable, the finding and what was expected, and never a secret."""
    with pytest.raises(ConfigError) as caught:
        ShimSettings.from_mapping(given)
    assert (caught.value.message, caught.value.next_step != "") == (message, True)
    assert "secret" not in str(caught.value)


def test_lines_show_every_setting_and_no_credentials() -> None:
    """What is printed at the start has one line for each field, in order."""
    lines = ShimSettings(upstream_url="https://me:secret@h:1").lines()
    assert [line.partition(" = ")[0] for line in lines] == [item.name for item in fields(ShimSettings)]
    assert lines[0] == "upstream_url = https://***@h:1"


@pytest.mark.parametrize("cls", [ShimSettings, SidecarSettings])
def test_the_page_has_the_defaults(cls: type[ServerSettings]) -> None:
    """docs/settings.md shows for each variable the default of this program."""
    page = (Path(__file__).parents[3] / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(GRAM_\w+)` .*$", page, re.MULTILINE)}
    for item in fields(cls):
        if item.name != "upstream_url":
            assert f"`{getattr(cls(upstream_url='http://h'), item.name)}`" in rows[variable(item.name)], item.name
