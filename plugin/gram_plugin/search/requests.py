"""Requests of long jobs to OpenSearch, tried again through overload and outages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from gram_plugin.errors import SearchError
from gram_plugin.search.backfill import TRANSIENT
from gram_plugin.search.client import explained, is_untrusted, reason_of, url_of

if TYPE_CHECKING:  # see client.py
    from opensearchpy import AsyncOpenSearch

_log = logging.getLogger(__name__)

RESUME = "look at the cluster, then run the same command again: it goes on where it stopped"


class Budget(Protocol):
    """How often a request is tried, and how long to wait between."""

    @property
    def tries(self) -> int:
        """Most requests of the same kind, >= 1."""

    async def pause(self, tried: int, retry_after_s: float) -> None:
        """Waits after the `tried`-th failure."""


class Requests:
    """Asks one OpenSearch.

    Args:
        client: does not repeat requests by itself.
        budget: for overload and outages.
    """

    def __init__(self, client: AsyncOpenSearch, budget: Budget) -> None:
        self._client = client
        self.budget = budget

    async def ask(
        self,
        purpose: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        expected: tuple[int, ...] = (),
    ) -> Any:
        """The answer, tried again through overload and outages; None for an expected failure.

        Raises:
            SearchError: OpenSearch refused it, or could not answer however often it was asked.
        """
        tried = 0
        while True:
            try:
                return await self._try(purpose, method, path, params, body, expected)
            except _TransientError as error:
                tried += 1
                if tried >= self.budget.tries:
                    raise SearchError(f"gave up after {tried} tries: {error.message}", next_step=RESUME) from error
                _log.info("try %d of %d failed, again soon: %s", tried, self.budget.tries, error.message)
                await self.budget.pause(tried, 0.0)

    async def ask_once(self, method: str, path: str, body: Any) -> None:
        """Asks for something that may as well fail."""
        from opensearchpy import exceptions as client_errors

        try:
            await self._client.transport.perform_request(method, path, body=body)
        except client_errors.OpenSearchException as error:
            _log.debug("%s %s failed: %s", method, path, reason_of(error))

    async def _try(
        self,
        purpose: str,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Any,
        expected: tuple[int, ...],
    ) -> Any:
        from opensearchpy import exceptions as client_errors

        try:
            answer = await self._client.transport.perform_request(method, path, params=params, body=body)
        except client_errors.OpenSearchException as error:
            status = error.status_code if isinstance(error, client_errors.TransportError) else None
            if status in expected:
                return None
            found = explained(error, url_of(self._client), purpose)
            # No certificate gets better by waiting.
            if is_untrusted(error) or (isinstance(status, int) and status not in TRANSIENT):
                raise found from error
            raise _TransientError(found.message) from error
        if _has_failed_shards(answer):
            raise _TransientError(f"{purpose}: not every shard answered")
        return answer


class _TransientError(SearchError):
    """A failure that may pass."""


def quoted(name: str) -> str:
    """A name as part of a path."""
    return quote(name, safe="")


def _has_failed_shards(answer: Any) -> bool:
    """Whether a search or a refresh reached only some of its shards, so that products would be missing unseen."""
    shards = answer.get("_shards") if isinstance(answer, Mapping) else None
    return isinstance(shards, Mapping) and bool(shards.get("failed"))
