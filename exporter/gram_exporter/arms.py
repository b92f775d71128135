"""Arms: ways to answer a query on a live index, each asked as its user would ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from opensearchpy import OpenSearch

from gram_exporter.lexical import Lexical
from gram_plugin.errors import ConfigError, SearchError
from gram_plugin.search.client import asking, url_of
from gram_plugin.search.query import Mode

BASELINE = "BM25"
DIRECT = "direct"
"""Status of an answer that passed no shim."""
APPLIED = "applied"


class ArmName(StrEnum):
    """What `gram evaluate --arm` takes; the first three are modes of a shim, the baseline is always there."""

    RERANK = "rerank"
    RECALL = "recall"
    RESCUE = "rescue"
    FUZZY = "fuzzy"
    EXPANSION = "expansion"
    ORACLE = "oracle"
    DENSE = "dense"
    DENSE_TUNED = "dense-tuned"

    @property
    def mode(self) -> Mode | None:
        """The shim's mode; None for an arm that needs no shim."""
        return Mode(self.value) if self in (ArmName.RERANK, ArmName.RECALL, ArmName.RESCUE) else None


DEFAULT_ARMS = (ArmName.RERANK, ArmName.RECALL)
DENSE_ARMS = (ArmName.DENSE, ArmName.DENSE_TUNED)
RIVAL_ARMS = (ArmName.EXPANSION, ArmName.ORACLE, *DENSE_ARMS)

_LOG = "look at the log of the node, then run it again"
_SHIM = "give the address that `gram shim` listens on, or none: then one is started"


@dataclass(frozen=True)
class Arm:
    """One way to answer a query.

    Attributes:
        name: in the tables.
        client: who is asked.
        mode: None asks OpenSearch directly, else the shim with this mode.
        query: its own query for a text, instead of the one that all arms share.
        index: its own index, instead of the one that all arms search.
        benchmark_only: whether it is no product that could be run, only a mark to measure by; it is not timed.
    """

    name: str
    client: OpenSearch
    mode: Mode | None = None
    query: Lexical | None = None
    index: str | None = None
    benchmark_only: bool = False


def arms_of(direct: OpenSearch, shim: OpenSearch, modes: Sequence[Mode]) -> list[Arm]:
    """The baseline and one arm for each mode."""
    return [Arm(BASELINE, direct), *(Arm(f"{BASELINE} + codes, {mode.value}", shim, mode) for mode in modes)]


def search_body(query: Mapping[str, Any], text: str, mode: Mode | None, size: int, budget_ms: float) -> dict[str, Any]:
    """A search for ids; for the shim with its mode."""
    body: dict[str, Any] = {"query": dict(query), "size": size, "_source": False}
    if mode is not None:
        body["ext"] = {"gram": {"query": text, "mode": mode.value, "budget_ms": budget_ms}}
    return body


def ask(arm: Arm, index: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The answer and what the shim said of it; `direct` when there is none between.

    Raises:
        SearchError: the arm is gone, refused, or answered from a part of the index; or it is no shim and should be.
    """
    with asking(arm.client, f"searching {index}"):
        # The client's own search() drops the headers, and the status of the shim is one.
        _, headers, text = arm.client.transport.get_connection().perform_request(
            "POST",
            f"/{quote(index, safe=',*-')}/_search",
            body=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
    status = next((value for name, value in headers.items() if name.lower() == "x-gram-status"), DIRECT)
    if arm.mode is not None and status == DIRECT:
        raise SearchError(f"{url_of(arm.client)} is no gram shim: its answer has no x-gram-status", next_step=_SHIM)
    return _whole(arm, text), status


def _whole(arm: Arm, text: str) -> dict[str, Any]:
    """The answer, if it is one and comes from every shard in time: a part would be measured as a bad ranking."""
    try:
        answer: dict[str, Any] = json.loads(text)
        hits, failed = answer["hits"]["hits"], answer.get("_shards", {}).get("failed", 0)
        whole = isinstance(hits, list) and not failed and not answer.get("timed_out")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchError(f"{url_of(arm.client)} answered a search with {text[:200]!r}", next_step=_LOG) from error
    if not whole:
        raise SearchError(
            f"{url_of(arm.client)} searched a part of the index only: {failed} shards failed", next_step=_LOG
        )
    return answer


def check_arms(names: Sequence[str]) -> list[ArmName]:
    """The arms by their names, each once, in the order of the table.

    Raises:
        ConfigError: a name is no arm.
    """
    known = [name.value for name in ArmName]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown arm {unknown[0]!r}", next_step=f"use one of {', '.join(known)}")
    return [name for name in ArmName if name in names]
