"""Targets: which requests write documents that could carry codes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

_ACTIONS = {"_doc": "index", "_create": "create", "_update": "update"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path writes: one document (`action` as a `_bulk` line names it), or many, where `action` is None.

    `index` is None for `/_bulk`, where each line names its own; `id` is None where the path names none.
    """

    action: str | None
    index: str | None
    id: str | None = None


def find_target(method: str, raw_path: str) -> Target | None:
    """What a request writes, or None where it writes no document that could carry codes.

    Args:
        method: upper-case HTTP method.
        raw_path: the path as sent, still percent-encoded and without query.
    """
    parts = [unquote(part) for part in raw_path.split("/") if part]
    if method not in {"PUT", "POST"} or not parts:
        return None
    if parts[-1] == "_bulk" and len(parts) <= 2:
        return Target(None, parts[0] if len(parts) == 2 else None)
    if len(parts) == 2 and parts[1] == "_doc" and method == "POST":
        return Target("index", parts[0])
    if len(parts) != 3 or parts[1] not in _ACTIONS or (parts[1] == "_update" and method == "PUT"):
        return None
    return Target(_ACTIONS[parts[1]], parts[0], parts[2])
