"""How an app is run as a program."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from gram_plugin.serve.program import END_S, server_config
from gram_plugin.serve.settings import ServerSettings, ShimSettings, SidecarSettings


@pytest.mark.parametrize("cls", [ShimSettings, SidecarSettings])
def test_idle_connections_outlive_the_pools_of_clients(cls: type[ServerSettings]) -> None:
    """A connection stays open for longer than the common minute, or as long as the settings say."""
    default, chosen = cls(upstream_url="http://h"), cls(upstream_url="http://h", keep_alive_s=600)
    found = [server_config(Starlette(), settings).timeout_keep_alive for settings in (default, chosen)]
    assert found == [75, 600]


SHUTDOWN_S = 1.0


async def test_a_model_that_hangs_in_a_native_call_does_not_hold_the_end(client: Any, opensearch_url: str) -> None:
    """Searches are answered until SIGTERM; then the process ends within its bound, and its log names the thread."""
    program = [sys.executable, str(Path(__file__).with_name("hanging_shim.py")), opensearch_url, str(SHUTDOWN_S)]
    process = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    while not (line := (await process.stderr.readline()).decode()).startswith("listening on "):
        assert line
    url = line.removeprefix("listening on ").strip()
    got = await client.search(url + "/shop/_search", {"query": {"match": {"title": "red couch"}}})
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = await process.communicate()
    took_s = time.monotonic() - began
    last = json.loads(said.decode().splitlines()[-1])
    assert (got.status, got.status_header, process.returncode) == (200, "degraded; reason=late", 1)
    assert (last["level"], last["message"]) == (
        "ERROR",
        f"still held {SHUTDOWN_S + END_S:g} s after the signal to end, by gram-batch_0: the process ends all the same",
    )
    assert took_s < SHUTDOWN_S + END_S + 10  # ten for a busy machine; without the bound it would be an hour
