"""Tests of addresses, credentials and the words of errors."""

from __future__ import annotations

from typing import Any

import pytest
from opensearchpy import exceptions as client_errors

from gram_plugin.errors import ConfigError, SearchError
from gram_plugin.search.client import Address, address, asking, connect, connect_async, explained, url_of

CREDENTIALS = {"GRAM_OPENSEARCH_USERNAME": "reader", "GRAM_OPENSEARCH_PASSWORD": "secret"}


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (None, {}, Address("http://localhost:9200")),
        (None, {"GRAM_OPENSEARCH_URL": "https://search/"}, Address("https://search")),
        ("http://h:1/prefix/", CREDENTIALS, Address("http://h:1/prefix", "reader", "secret")),
        ("https://me:p%40ss@h:9200", CREDENTIALS, Address("https://h:9200", "me", "p@ss")),
        ("https://[::1]:9200", {"GRAM_OPENSEARCH_CA": "ca.pem"}, Address("https://[::1]:9200", ca_file="ca.pem")),
    ],
)
def test_address_is_completed(url: str | None, environ: dict[str, str], expected: Address) -> None:
    """What is given wins over the URL's own credentials, and those over the environment."""
    assert address(url, environ=environ) == expected


@pytest.mark.parametrize("url", ["localhost:9200", "ftp://h", "http://", "http://h:port", "http://[::1", "http://h:0"])
def test_unusable_address_is_refused(url: str) -> None:
    """A URL without scheme or host, or with a port that is none, is a wrong setting."""
    with pytest.raises(ConfigError, match="is no address of OpenSearch — give one such as http://localhost:9200"):
        address(url, environ={})


def test_half_credentials_are_refused() -> None:
    """A user name without a password names the variable that is missing."""
    with pytest.raises(ConfigError, match="set GRAM_OPENSEARCH_PASSWORD as well"):
        address("http://h", username="me", environ={})
    with pytest.raises(ConfigError, match="set GRAM_OPENSEARCH_USERNAME as well"):
        address("http://h", environ={"GRAM_OPENSEARCH_PASSWORD": "x"})


def test_secrets_are_never_shown() -> None:
    """Neither the repr of an address nor an error about one holds its password."""
    assert "secret" not in repr(address("http://h", environ=CREDENTIALS))
    with pytest.raises(ConfigError) as refused:
        address("ftp://me:secret@h", environ={})
    assert "secret" not in str(refused.value)
    with connect("http://me:secret@h:9200", environ={}) as client:
        assert url_of(client) == "http://h:9200"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", "http://h:9200"),
        ("https://h", "https://h:443"),
        ("http://[::1]:7/p", "http://[::1]:7/p"),
    ],
)
def test_client_goes_where_it_was_told(url: str, expected: str) -> None:
    """Port and prefix reach the client; without a port it is 9200, for https 443."""
    with connect(url, environ={}) as client:
        assert url_of(client) == expected


async def test_asynchronous_client_has_the_same_address() -> None:
    """Both clients are made from the same address."""
    async with connect_async("https://h:9200/p", environ=CREDENTIALS) as client:
        assert url_of(client) == "https://h:9200/p"


REFUSAL: dict[str, Any] = {
    "error": {
        "root_cause": [{"type": "mapper_parsing_exception", "reason": "No handler"}],
        "type": "illegal_argument_exception",
        "reason": "outer",
        "caused_by": {"reason": "inner"},
    }
}


@pytest.mark.parametrize(
    ("error", "message", "step"),
    [
        (
            client_errors.RequestError(400, "illegal_argument_exception", REFUSAL),
            "400 mapper_parsing_exception: No handler (inner)",
            "see the reason above; the log of the node tells more",
        ),
        (client_errors.NotFoundError(404, "not here", "text"), "404 not here", "see the reason above"),
        (
            client_errors.AuthenticationException(401, "Unauthorized", {}),
            "401 Unauthorized",
            "USERNAME and GRAM_OPENSE",
        ),
        (client_errors.AuthorizationException(403, "Forbidden", {}), "403 Forbidden", "USERNAME and GRAM_OPENSE"),
        (client_errors.ConnectionError("N/A", "refused", OSError()), "refused", "check that OpenSearch runs at"),
        (client_errors.ConnectionTimeout("TIMEOUT", "late", OSError()), "late", "raise the timeout"),
        (client_errors.SSLError("N/A", "self signed", OSError()), "self signed", "set GRAM_OPENSEARCH_CA"),
        (client_errors.SerializationError("no JSON"), "no JSON", "see the reason above"),
    ],
)
def test_error_says_where_what_and_what_next(error: Exception, message: str, step: str) -> None:
    """Every failure of the client becomes one error with address, purpose, reason and next step."""
    found = explained(error, "http://h:9200", "reading the mapping of products")
    assert found.message == f"http://h:9200: reading the mapping of products failed: {message}"
    assert step in found.next_step


def test_failure_inside_the_block_is_translated() -> None:
    """The block raises our error, with the client's as its cause."""
    refusal = client_errors.RequestError(400, "bad", {})
    with connect("http://h:1", environ={}) as client:
        with (
            pytest.raises(SearchError, match="http://h:1: testing failed: 400 bad") as failed,
            asking(client, "testing"),
        ):
            raise refusal
        assert failed.value.__cause__ is refusal
