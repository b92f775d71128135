"""One server of a cluster: its folder, configuration files and command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_plugin.node.java import Java

CONSOLE = "console.log"
EXIT = "exit"
"""File that the keeper writes when the server has ended: its exit status."""

_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.deprecation.name = org.opensearch.deprecation
logger.deprecation.level = error
"""

# Lines of the distribution's jvm.options that write into its own folder, or that we set ourselves.
_OWN_OPTIONS = re.compile(r"-Xm[sx]|gc\.log|HeapDump|ErrorFile")


@dataclass(frozen=True)
class Server:
    """The files of one server below its own folder."""

    folder: Path
    home: Path
    java: Java

    @property
    def name(self) -> str:
        """The server's name in the cluster."""
        return self.folder.name

    @property
    def console(self) -> Path:
        """What the server printed."""
        return self.folder / CONSOLE

    @property
    def exit_file(self) -> Path:
        """Exists as soon as the server has ended."""
        return self.folder / EXIT

    @property
    def seed_hosts(self) -> Path:
        """The addresses of all servers, read again and again by a server that seeks its cluster."""
        return self.folder / "config" / "unicast_hosts.txt"

    def ports_file(self, kind: str) -> Path:
        """Where the server writes the addresses that it got; `kind` is `http` or `transport`."""
        return self.folder / "logs" / f"{kind}.ports"

    def prepare(self, settings: Mapping[str, Any], heap: str) -> None:
        """Writes the configuration, and removes what an earlier run left about ports and exit."""
        for part in ("config", "data", "logs", "tmp"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        for stale in (self.ports_file("http"), self.ports_file("transport"), self.seed_hosts, self.exit_file):
            stale.unlink(missing_ok=True)
        config = self.folder / "config"
        paths = {"path.data": str(self.folder / "data"), "path.logs": str(self.folder / "logs")}
        _write_settings(config / "opensearch.yml", {"node.name": self.name, **paths, **settings})
        (config / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        shipped = (self.home / "config" / "jvm.options").read_text(encoding="utf-8")
        (config / "jvm.options").write_text(jvm_options(shipped, heap), encoding="utf-8")

    def command(self) -> list[str]:
        """The start script; it ends in `exec java`, so its pid is the server's."""
        return [str(self.home / "bin" / "opensearch")]

    def environ(self) -> dict[str, str]:
        """Nothing of the caller's environment reaches the server but the PATH that its script needs."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "OPENSEARCH_JAVA_HOME": str(self.java.home),
            "OPENSEARCH_PATH_CONF": str(self.folder / "config"),
            "OPENSEARCH_TMPDIR": str(self.folder / "tmp"),
        }

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that the server printed."""
        try:
            text = self.console.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def jvm_options(shipped: str, heap: str) -> str:
    """The distribution's options with our heap and without logs and dumps in the distribution's folder."""
    kept = [line for line in shipped.splitlines() if line and line[0] != "#" and not _OWN_OPTIONS.search(line)]
    return "\n".join([*kept, f"-Xms{heap}", f"-Xmx{heap}", ""])


def cluster_settings(servers: int, port: int) -> dict[str, Any]:
    """Settings of a small cluster on loopback; ports are the system's choice unless one is given."""
    shared = {
        "cluster.name": "gram",
        "network.host": "127.0.0.1",
        "http.port": port,
        "transport.port": 0,
        "node.portsfile": True,
        # A developer's disk is often nearly full; watermarks would make every index read-only.
        "cluster.routing.allocation.disk.threshold_enabled": False,
        # Otherwise HTTP, and with it the ports file, waits until a cluster is formed.
        "discovery.initial_state_timeout": "0s",
    }
    if servers == 1:
        return {**shared, "discovery.type": "single-node"}
    names = [f"node-{number}" for number in range(servers)]
    return {**shared, "discovery.seed_providers": "file", "cluster.initial_cluster_manager_nodes": names}


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """JSON values are valid YAML, so no YAML library is needed."""
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()), encoding="utf-8")
