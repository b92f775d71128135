"""Which indices a point in time was opened on."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.serve.pit import indices_of_pit

UUID = "OJqBBrjHRmSg12DPpyKZJA"


def number(value: int) -> bytes:
    """As OpenSearch writes a number: seven bits a byte, the lowest first."""
    low, high = value & 0x7F, value >> 7
    return bytes([low]) if not high else bytes([low | 0x80]) + number(high)


def text(value: str) -> bytes:
    """As OpenSearch writes a text: the count of UTF-16 units, each in one to three bytes."""
    units = value.encode("utf-16-le")
    pairs = [int.from_bytes(units[at : at + 2], "little") for at in range(0, len(units), 2)]
    return number(len(pairs)) + b"".join(chr(unit).encode("utf-8", "surrogatepass") for unit in pairs)


def shard(name: str, at: int = 0, cluster: bytes = b"\x00") -> bytes:
    """One shard of an id."""
    return text(name) + text(UUID) + number(at) + text(UUID) + cluster + bytes(8) + text(UUID)


def identifier(*shards: bytes) -> str:
    """An id with the filters of aliases behind the shards."""
    content = number(136_000_000) + number(len(shards)) + b"".join(shards) + b"\x01" + text(UUID) + b"\x00\x00"
    return base64.urlsafe_b64encode(content).decode()


@given(st.lists(st.text(min_size=1, max_size=130), min_size=1, max_size=4))
def test_names_are_read_in_any_script(names: list[str]) -> None:
    """Each index once, in order, however many shards it has and whatever it is called."""
    found = identifier(*(shard(name, at) for name in names for at in range(2)))
    assert indices_of_pit(found) == list(dict.fromkeys(names))


def test_an_id_as_opensearch_gave_it() -> None:
    """Of 3.8.0, for one index with two shards, less the padding that some clients cut."""
    content = (
        b"\xa3\xff\xbbA\x02\x01t\x16OJqBBrjHRmSg12DPpyKZJA\x00\x16xdkaSaFSRiKMG0M_6Eas0A\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x01\x16Vl_GQQwTSr2HNoixA3AF5Q\x01t\x16OJqBBrjHRmSg12DPpyKZJA\x01\x16xdkaSaFSRiKMG0M_6Eas0A\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x02\x16Vl_GQQwTSr2HNoixA3AF5Q\x01\x16OJqBBrjHRmSg12DPpyKZJA\x00\x00"
    )
    given_id = base64.urlsafe_b64encode(content).decode()
    assert [indices_of_pit(given_id), indices_of_pit(given_id.rstrip("="))] == [["t"], ["t"]]


@pytest.mark.parametrize(
    "found",
    [
        "",
        "x",
        "????",
        "AAAA",
        "A" * 600_000,
        identifier(),
        identifier(shard("a", cluster=b"\x01")),
        identifier(shard("a"))[:40],
    ],
)
def test_other_ids_are_not_understood(found: str) -> None:
    """Empty, cut, too long, no base64, no shards, shards of another cluster: nothing is guessed."""
    assert indices_of_pit(found) is None


@given(st.binary(max_size=300))
def test_no_bytes_are_an_error(content: bytes) -> None:
    """Whatever a client sends as an id is read or not understood."""
    found = indices_of_pit(base64.urlsafe_b64encode(content).decode())
    assert found is None or all(isinstance(name, str) for name in found)
