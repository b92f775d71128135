"""Connections to OpenSearch: addresses, credentials, timeouts, and errors that a person can act on."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from gram_plugin.errors import ConfigError, SearchError

if TYPE_CHECKING:  # the client takes half a second to import; `gram --help` must not wait for it
    from opensearchpy import AsyncOpenSearch, OpenSearch

URL_VARIABLE = "GRAM_OPENSEARCH_URL"
USERNAME_VARIABLE = "GRAM_OPENSEARCH_USERNAME"
PASSWORD_VARIABLE = "GRAM_OPENSEARCH_PASSWORD"  # noqa: S105 - the name of a variable, no secret
CA_VARIABLE = "GRAM_OPENSEARCH_CA"
DEFAULT_URL = "http://localhost:9200"
DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Address:
    """Where OpenSearch is and who asks; the password never appears in a repr.

    Attributes:
        url: scheme, host, port and path prefix; credentials in it were moved out.
        username: None for no authentication.
        password: belongs to `username`.
        ca_file: certificates to trust instead of the system's, for https.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None


def address(
    url: str | None = None,
    *,
    username: str | None = None,
    password: str | None = None,
    ca_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Address:
    """Completes what was given from the URL's own credentials, then from `GRAM_OPENSEARCH_*` in the environment.

    Raises:
        ConfigError: the URL is none, or there is a user name without a password or the other way round.
    """
    given = url or environ.get(URL_VARIABLE, DEFAULT_URL)
    parts = _split(given)
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    user = username or unquote(parts.username or "") or environ.get(USERNAME_VARIABLE)
    secret = password or unquote(parts.password or "") or environ.get(PASSWORD_VARIABLE)
    if bool(user) != bool(secret):
        missing = PASSWORD_VARIABLE if user else USERNAME_VARIABLE
        raise ConfigError(f"credentials for {bare} are incomplete", next_step=f"set {missing} as well")
    return Address(bare, user or None, secret or None, ca_file or environ.get(CA_VARIABLE))


def connect(
    url: str | None = None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retries: int = 0,
    username: str | None = None,
    password: str | None = None,
    ca_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> OpenSearch:
    """A client for `url`; nothing is sent before its first use.

    Args:
        url: such as `https://search:9200`; `GRAM_OPENSEARCH_URL` or http://localhost:9200 if None.
        timeout_s: longest wait for one answer, in seconds.
        retries: how often a request is repeated on 502, 503, 504 and lost connections.
        username: together with `password`, else from the URL, else from the environment.
        password: see `username`.
        ca_file: PEM file to trust for https, else from `GRAM_OPENSEARCH_CA`.
        environ: where the rest is looked up.

    Raises:
        ConfigError: the address or the credentials are unusable.
    """
    from opensearchpy import OpenSearch

    found = address(url, username=username, password=password, ca_file=ca_file, environ=environ)
    return OpenSearch(**_client_arguments(found, timeout_s, retries))


def connect_async(
    url: str | None = None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retries: int = 0,
    username: str | None = None,
    password: str | None = None,
    ca_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> AsyncOpenSearch:
    """The same as `connect` for an event loop; close it with `await client.close()`."""
    from opensearchpy import AsyncOpenSearch

    found = address(url, username=username, password=password, ca_file=ca_file, environ=environ)
    return AsyncOpenSearch(**_client_arguments(found, timeout_s, retries))


@contextmanager
def asking(client: OpenSearch | AsyncOpenSearch, purpose: str) -> Iterator[None]:
    """Turns every failure of the client inside the block into a `SearchError`.

    Args:
        client: the one that is used inside, for its address.
        purpose: what was tried, such as `reading the mapping of products`.

    Raises:
        SearchError: names the address, the purpose, what OpenSearch said, and the next step.
    """
    from opensearchpy import exceptions as client_errors

    try:
        yield
    except client_errors.OpenSearchException as error:
        raise explained(error, url_of(client), purpose) from error


def explained(error: Exception, url: str, purpose: str) -> SearchError:
    """A client error in words: what was tried, where, what came back, what to do next."""
    from opensearchpy import exceptions as client_errors

    if isinstance(error, client_errors.AuthenticationException | client_errors.AuthorizationException):
        step = f"set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE} to a user that may do this"
    elif is_untrusted(error):
        step = f"set {CA_VARIABLE} to the file with the certificate authority of {url}"
    elif isinstance(error, client_errors.ConnectionTimeout):
        step = "raise the timeout, or look at the load of the cluster"
    elif isinstance(error, client_errors.ConnectionError):
        step = f"check that OpenSearch runs at {url}; `gram node start` starts one here, --url names another"
    else:
        step = "see the reason above; the log of the node tells more"
    return SearchError(f"{url}: {purpose} failed: {reason_of(error)}", next_step=step)


def is_untrusted(error: Exception) -> bool:
    """Whether a client error says that the server's certificate is not trusted.

    The client without threads calls it an error of the connection, with what aiohttp raised inside.
    """
    from opensearchpy import exceptions as client_errors

    if isinstance(error, client_errors.SSLError):
        return True
    inside = error.info if isinstance(error, client_errors.ConnectionError) and len(error.args) > 2 else None
    return isinstance(inside, ssl.SSLCertVerificationError)


def reason_of(error: Exception) -> str:
    """What OpenSearch gave as root cause, with the status; or what the connection said. At most 500 characters."""
    from opensearchpy import exceptions as client_errors

    if not isinstance(error, client_errors.TransportError):
        return str(error)[:500]
    cause = _root_cause(error.info)
    if isinstance(error.status_code, int):
        return f"{error.status_code} {cause or error.error}"[:500]
    return str(cause or error.error or type(error).__name__)[:500]


def url_of(client: OpenSearch | AsyncOpenSearch) -> str:
    """Scheme, host and port of a client's first host, without credentials."""
    host = client.transport.hosts[0]
    scheme = "https" if host.get("use_ssl") or host.get("scheme") == "https" else "http"
    name = host["host"]
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}:{host.get('port', 9200)}{host.get('url_prefix', '')}"


def _client_arguments(found: Address, timeout_s: float, retries: int) -> dict[str, Any]:
    parts = urlsplit(found.url)
    host: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port or (443 if parts.scheme == "https" else 9200),
        "use_ssl": parts.scheme == "https",
        **({"url_prefix": parts.path} if parts.path else {}),
    }
    arguments: dict[str, Any] = {"hosts": [host], "timeout": timeout_s, "max_retries": retries}
    if found.username:
        arguments["http_auth"] = (found.username, found.password)
    if found.ca_file and parts.scheme == "https":
        arguments["ca_certs"] = found.ca_file
    return arguments


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        usable = False
    if not usable:
        shown = url.rpartition("@")[2]  # never the credentials
        raise ConfigError(f"{shown!r} is no address of OpenSearch", next_step="give one such as http://localhost:9200")
    return parts


def _root_cause(info: Any) -> str | None:
    error = info.get("error") if isinstance(info, Mapping) else None
    if not isinstance(error, Mapping):
        return None
    causes = error.get("root_cause") or [error]
    first, inner = causes[0], error.get("caused_by")
    said = f"{first.get('type')}: {first.get('reason')}"
    return f"{said} ({inner.get('reason')})" if isinstance(inner, Mapping) and inner.get("reason") else said
