"""How an app is run as a program."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette

from gram_plugin.serve.program import server_config
from gram_plugin.serve.settings import ServerSettings, ShimSettings, SidecarSettings


@pytest.mark.parametrize("cls", [ShimSettings, SidecarSettings])
def test_idle_connections_outlive_the_pools_of_clients(cls: type[ServerSettings]) -> None:
    """A connection stays open for longer than the common minute, or as long as the settings say."""
    default, chosen = cls(upstream_url="http://h"), cls(upstream_url="http://h", keep_alive_s=600)
    found = [server_config(Starlette(), settings).timeout_keep_alive for settings in (default, chosen)]
    assert found == [75, 600]
