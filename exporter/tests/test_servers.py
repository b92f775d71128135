"""Child processes: found ready, explained when they fail, ended with the block."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gram_exporter.servers import MEASURED, running
from gram_plugin.contract.bundle import Bundle
from gram_plugin.errors import GramError
from gram_plugin.serve.settings import ShimSettings


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a server that is gone: a port that is taken but not listened on."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _is_listening(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    with closing(socket.socket()) as probe:
        return probe.connect_ex((host, int(port))) == 0


def _processes() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_shim_is_ready_inside_the_block_and_gone_after_it(small_bundle: Bundle, nowhere: str) -> None:
    """Its URL answers although the upstream does not, credentials in the upstream's URL do not stop it, and it ends."""
    before = _processes()
    with running("shim", small_bundle.path, nowhere.replace("//", "//user:secret@"), MEASURED) as url:
        assert _is_listening(url)
        assert len(_processes() - before) == 1
    assert (_is_listening(url), _processes() - before) == (False, set())


def test_an_error_inside_the_block_ends_the_process_too(small_bundle: Bundle, nowhere: str) -> None:
    """Nothing that was started outlives a failed measurement."""
    with pytest.raises(ValueError, match="mine"), running("sidecar", small_bundle.path, nowhere, {}) as url:
        raise ValueError("mine")
    assert not _is_listening(url)


def test_a_process_that_ends_is_quoted(tmp_path: Path, nowhere: str) -> None:
    """A measured shim without its bundle does not become a proxy: the error has its last words."""
    with (
        pytest.raises(GramError, match="gram shim ended with status") as raised,
        running("shim", tmp_path / "gone", nowhere, MEASURED),
    ):
        pass
    assert "gone" in raised.value.message
    assert raised.value.next_step == "run `gram shim` by hand"


def test_a_process_that_is_not_ready_in_time_is_ended(small_bundle: Bundle, nowhere: str) -> None:
    """The wait has an end, and so has the process."""
    before = _processes()
    with (
        pytest.raises(GramError, match="gram shim was not ready in time"),
        running("shim", small_bundle.path, nowhere, {}, start_timeout_s=0.0),
    ):
        pass
    assert _processes() == before


def test_measured_settings_are_settings_of_the_shim() -> None:
    """A cache or a missing model would falsify what is measured."""
    settings = ShimSettings.from_mapping({"GRAM_UPSTREAM_URL": "http://localhost:9200", **MEASURED})
    assert (settings.cache_entries, settings.require_model) == (0, True)
