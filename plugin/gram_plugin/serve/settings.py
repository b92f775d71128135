"""Settings of the two programs, read once from an explicit mapping such as the environment.

Every field is the environment variable `GRAM_<FIELD>`. Neither program holds credentials: a
URL that carries some is refused, so there is no secret to print.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from gram_plugin.contract.codes import MAX_BATCH_TOKENS, MAX_CODES, MAX_PRODUCT_CODES
from gram_plugin.errors import ConfigError
from gram_plugin.search.client import CA_VARIABLE, PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE
from gram_plugin.search.query import Mode

PREFIX = "GRAM_"
DEBUG_VARIABLE = "GRAM_DEBUG"

_OTHERS = frozenset({URL_VARIABLE, USERNAME_VARIABLE, PASSWORD_VARIABLE, CA_VARIABLE, DEBUG_VARIABLE})
"""Variables of the command line and of the verbs that talk to OpenSearch; one environment may hold them all."""

# Kubernetes tells every pod of a service `gram-shim` by such variables, of a service `gram` by GRAM_PORT=tcp://….
_SERVICE = re.compile(r"GRAM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field means, in words, and the bounds of its number."""

    meaning: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What shim and sidecar have in common."""

    upstream_url: Annotated[str, Setting("URL of OpenSearch, without credentials")]
    bundle: Annotated[Path | None, Setting("folder that `gram export` wrote")] = None
    host: Annotated[str, Setting("address to listen on")] = "127.0.0.1"
    port: Annotated[int, Setting("port to listen on; 0 takes a free one", low=0, high=65535)] = 9201
    ca_file: Annotated[Path | None, Setting("certificates to trust for https, instead of the system's")] = None
    verify_tls: Annotated[bool, Setting("check the certificate of OpenSearch")] = True
    connect_timeout_s: Annotated[float, Setting("wait for a free connection to OpenSearch", low=0.01, high=600)] = 5.0
    request_timeout_s: Annotated[
        float, Setting("wait for each piece of an answer; 0 waits as long as the client", low=0)
    ] = 0.0
    max_connections: Annotated[int, Setting("connections to OpenSearch at one time", low=1, high=65535)] = 512
    max_body_bytes: Annotated[int, Setting("largest request body that is read into memory", low=1024)] = 10_000_000
    threads: Annotated[int, Setting("threads of the model", low=1, high=256)] = 1
    max_batch: Annotated[
        int, Setting("most texts that the model reads at once; an int8 model reads one by one", low=1, high=4096)
    ] = 16
    max_batch_tokens: Annotated[
        int, Setting("most tokens with padding in such a reading; more texts than fit are read in turn", low=1)
    ] = MAX_BATCH_TOKENS
    max_wait_ms: Annotated[
        float, Setting("how long a text waits for others to share its batch", low=0, high=10_000)
    ] = 1.0
    max_queue: Annotated[int, Setting("texts that may wait for the model before overload is reported", low=1)] = 256
    keep_alive_s: Annotated[
        int, Setting("how long a client's idle connection stays open; more than its pool keeps it", low=1, high=86_400)
    ] = 75
    shutdown_s: Annotated[float, Setting("time for running requests at shutdown", low=0, high=3600)] = 10.0

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, str]) -> Self:
        """Reads every `GRAM_` key of a mapping but those of Kubernetes; all other keys are ignored.

        Raises:
            ConfigError: a `GRAM_` key is unknown to both programs, a value does not parse or is out of
                bounds, or `GRAM_UPSTREAM_URL` is missing.
        """
        mapping = {key: value for key, value in mapping.items() if not _is_of_a_service(key, value)}
        _refuse_unknown(mapping)
        hints = typing.get_type_hints(cls, include_extras=True)
        given = [item.name for item in fields(cls) if variable(item.name) in mapping]
        values = {name: _parse(name, hints[name], mapping[variable(name)]) for name in given}
        if "upstream_url" not in values:
            raise ConfigError(
                "GRAM_UPSTREAM_URL is not set: expected the URL of OpenSearch",
                next_step="pass --url http://localhost:9200 or set GRAM_UPSTREAM_URL",
            )
        return cls(**values)

    def lines(self) -> list[str]:
        """`name = value` for each setting in order; what is printed at the start."""
        return [f"{item.name} = {_shown(item.name, getattr(self, item.name))}" for item in fields(self)]


@dataclass(frozen=True, kw_only=True)
class ShimSettings(ServerSettings):
    """Settings of `gram shim`."""

    mode: Annotated[Mode, Setting("mode of a search that names none")] = Mode.RERANK
    budget_ms: Annotated[float, Setting("longest that the model may delay a search", low=0, high=60_000)] = 50.0
    # An idle model starts at once; while it is busy the next batch gathers by itself.
    max_wait_ms: Annotated[
        float, Setting("how long a text waits for others to share its batch", low=0, high=10_000)
    ] = 0.0
    max_body_bytes: Annotated[int, Setting("largest search that is read; a larger one passes untouched", low=1024)] = (
        1_000_000
    )
    rescue_below: Annotated[int, Setting("`rescue` searches again when fewer hits than this were found", low=1)] = 1
    max_codes: Annotated[int, Setting("most codes in one clause", low=1, high=50)] = MAX_CODES
    tie_breaker: Annotated[
        float, Setting("share of the weaker codes of one family that still counts", low=0, high=1)
    ] = 0.3
    keep_exact: Annotated[
        bool, Setting("codes lift nothing above what holds an identifier, a quoted phrase or the whole query")
    ] = True
    rerank_window: Annotated[
        int, Setting("in `rerank`, best hits of a shard that codes may move; 0 lets them move all", low=0, high=10_000)
    ] = 1000
    cache_entries: Annotated[int, Setting("decoded queries kept in memory; 0 keeps none", low=0)] = 10_000
    cache_age_s: Annotated[float, Setting("age at which a decoded query is decoded again", low=0)] = 3600.0
    calibration_age_s: Annotated[float, Setting("age at which the calibration of an index is read again", low=0)] = 60.0
    breaker_failures: Annotated[
        int, Setting("failures of the model in a row, or silences of a whole budget, that open the breaker", low=1)
    ] = 5
    breaker_pause_s: Annotated[float, Setting("how long an open breaker keeps the model unasked", low=0)] = 5.0
    require_model: Annotated[
        bool, Setting("refuse to start without a usable bundle instead of being a plain proxy")
    ] = False
    bundle_check_s: Annotated[float, Setting("how often the bundle is looked at; 0 waits for SIGHUP", low=0)] = 5.0
    off_file: Annotated[Path | None, Setting("while this file exists every search passes untouched")] = None
    log_queries: Annotated[bool, Setting("write query texts into the log")] = False


@dataclass(frozen=True, kw_only=True)
class SidecarSettings(ServerSettings):
    """Settings of `gram sidecar`."""

    port: Annotated[int, Setting("port to listen on; 0 takes a free one", low=0, high=65535)] = 9202
    threads: Annotated[
        int, Setting("products that the model reads at once, each on a core of its own", low=1, high=256)
    ] = 1
    request_timeout_s: Annotated[
        float, Setting("wait for each piece of an answer; 0 waits as long as the client", low=0)
    ] = 60.0
    max_body_bytes: Annotated[int, Setting("largest `_bulk` body; a larger one is refused", low=1024)] = 100_000_000
    max_batch: Annotated[
        int, Setting("most texts that the model reads at once; an int8 model reads one by one", low=1, high=4096)
    ] = 32
    max_wait_ms: Annotated[
        float, Setting("how long a text waits for others to share its batch", low=0, high=10_000)
    ] = 5.0
    max_queue: Annotated[int, Setting("texts that may wait for the model before overload is reported", low=1)] = 4096
    coding_timeout_s: Annotated[
        float, Setting("longest that the model may delay one request; later documents become pending", low=0)
    ] = 30.0
    stall_timeout_s: Annotated[
        float, Setting("time without a single code after which a model counts as down", low=0.01)
    ] = 5.0
    min_probability: Annotated[float, Setting("least probability of a code that is stored", low=0, high=1)] = 0.02
    max_codes: Annotated[int, Setting("most codes of one document", low=1, high=50)] = MAX_PRODUCT_CODES
    cache_entries: Annotated[int, Setting("texts whose codes are kept in memory; 0 keeps none", low=0)] = 50_000
    mapping_age_s: Annotated[
        float, Setting("age at which an index is asked again whether it has the gram fields", low=0)
    ] = 60.0
    mark_scripts: Annotated[
        bool, Setting("after a script that may have changed the text of a product, mark it pending")
    ] = True
    dead_letters: Annotated[Path | None, Setting("file for the documents that the model could not take")] = None
    max_dead_letter_bytes: Annotated[
        int, Setting("size of that file from which on further ones are only counted", low=1024)
    ] = 100_000_000


def variable(name: str) -> str:
    """The environment variable of a field: `GRAM_` and the name in capitals."""
    return PREFIX + name.upper()


def _refuse_unknown(mapping: Mapping[str, str]) -> None:
    known = {variable(item.name) for cls in (ShimSettings, SidecarSettings) for item in fields(cls)}
    unknown = sorted(key for key in mapping if key.startswith(PREFIX) and key not in known | _OTHERS)
    if unknown:
        raise ConfigError(
            f"unknown setting {', '.join(unknown)}", next_step="docs/settings.md lists every setting; unset the others"
        )


def _is_of_a_service(key: str, value: str) -> bool:
    """Whether Kubernetes put the variable there to tell where a service is."""
    address = key.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value) is not None
    return key.startswith(PREFIX) and (address or _SERVICE.fullmatch(key) is not None)


def _parse(name: str, hint: Any, text: str) -> Any:
    kind, setting = typing.get_args(hint)
    try:
        value = _convert(kind, text)
    except ValueError as error:
        found = f"{variable(name)}={text!r}"
        raise ConfigError(f"{found}: expected {_words(kind)}", next_step="see docs/settings.md") from error
    _check_bounds(variable(name), value, setting)
    return _clean_url(variable(name), value) if name == "upstream_url" else value


def _convert(kind: Any, text: str) -> Any:
    if isinstance(kind, types.UnionType):
        return Path(text) if text else None
    if kind is bool:
        return _convert_bool(text)
    if kind is float and text.strip().lower() in {"nan", "inf", "-inf", "infinity", "-infinity"}:
        raise ValueError(text)
    return kind(text)


def _convert_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _words(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    return {bool: "true or false", int: "a whole number", float: "a finite number"}.get(kind, "a text")


def _check_bounds(name: str, value: Any, setting: Setting) -> None:
    low, high = setting.low, setting.high
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"{low} to {high}"
        raise ConfigError(f"{name} is {value}, expected {span}", next_step="see docs/settings.md")


def _clean_url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{name} is no http or https URL", next_step="for example http://localhost:9200")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{name} carries credentials (hidden here)",
            next_step="leave them out: every request goes on with the caller's own credentials",
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"{name} has a query or fragment", next_step="for example http://localhost:9200")
    return url.rstrip("/")


def _shown(name: str, value: Any) -> str:
    if name != "upstream_url":
        return str(value)
    # A settings object built in code has not passed the door, so credentials are hidden here as well.
    scheme, separator, rest = str(value).partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else str(value)
