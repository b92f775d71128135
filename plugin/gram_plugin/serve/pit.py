"""Points in time: which indices one was opened on, as its id tells.

OpenSearch's id is a list of shards in the binary form of its transport layer, as base64. It is the same in 2.19.4 and
3.8.0; what looks otherwise is not understood, and its search stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import re

MAX_ID_CHARS = 500_000
"""Some hundred characters for each shard."""

_BASE64 = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_LONG_BYTES = 8


def indices_of_pit(identifier: str) -> list[str] | None:
    """Names of the indices behind a point in time, each once, in order; None when the id is not understood."""
    if len(identifier) > MAX_ID_CHARS or not _BASE64.fullmatch(identifier):
        return None
    bare = identifier.rstrip("=")
    try:
        reader = _Reader(base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4)))
        reader.number()  # the version that wrote it
        names = [_shard(reader) for _ in range(reader.number())]
    except (binascii.Error, ValueError, IndexError):
        return None
    return list(dict.fromkeys(names)) or None


def _shard(reader: _Reader) -> str:
    """Reads one shard and where it is; the name of its index."""
    name = reader.text()
    reader.text()  # uuid of the index
    reader.number()  # number of the shard
    reader.text()  # node
    if reader.byte():
        raise ValueError("a shard of another cluster, whose mapping is not here")
    reader.skip(_LONG_BYTES)
    reader.text()  # session
    return name


class _Reader:
    """Reads the primitives of OpenSearch's `StreamInput`."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def byte(self) -> int:
        found = self._content[self._at]
        self._at += 1
        return found

    def skip(self, count: int) -> None:
        self._at += count

    def number(self) -> int:
        """Seven bits a byte, the lowest first, at most five bytes."""
        found = 0
        for shift in range(0, 35, 7):
            part = self.byte()
            found |= (part & 0x7F) << shift
            if part < 0x80:
                return found
        raise ValueError("a number without an end")

    def text(self) -> str:
        """A count of UTF-16 units, and each of them in one to three bytes."""
        units = [self._unit() for _ in range(self.number())]
        return b"".join(unit.to_bytes(2, "little") for unit in units).decode("utf-16-le")

    def _unit(self) -> int:
        first = self.byte()
        if first < 0x80:
            return first
        if first >> 5 == 0b110:
            return (first & 0x1F) << 6 | self._rest()
        if first >> 4 == 0b1110:
            return (first & 0x0F) << 12 | self._rest() << 6 | self._rest()
        raise ValueError("no character begins so")

    def _rest(self) -> int:
        found = self.byte()
        if found >> 6 != 0b10:
            raise ValueError("no character goes on so")
        return found & 0x3F
