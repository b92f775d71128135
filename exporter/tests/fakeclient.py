"""A client of OpenSearch that answers by a function: for the tests of arms and of what is measured with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Answer = Callable[[Mapping[str, Any]], str]


def hits(*ids: str, **more: Any) -> str:
    """An answer of OpenSearch as text."""
    return json.dumps({"hits": {"hits": [{"_id": one} for one in ids]}, **more})


@dataclass
class FakeClient:
    """Has what `ask` uses of a client: `.transport.get_connection().perform_request`, and its address."""

    answer: Answer
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def transport(self) -> Any:
        """Hosts and a connection."""
        return SimpleNamespace(hosts=[{"host": "fake", "port": 9}], get_connection=lambda: self)

    def perform_request(self, method: str, url: str, *, body: bytes, headers: object) -> tuple[int, Any, str]:
        """As the client's connections do it."""
        self.asked.append((url, json.loads(body)))
        return 200, self.headers, self.answer(self.asked[-1][1])
