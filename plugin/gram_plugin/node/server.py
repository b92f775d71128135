"""One server of a cluster: its folder, configuration files and command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_plugin.errors import NodeError
from gram_plugin.node.java import Java

_OPTIONS_TIMEOUT_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
logger.grpc.name = org.opensearch.transport.grpc
logger.grpc.level = warn
"""

# Lines of the distribution's jvm.options that write into its own folder, or that we set ourselves.
_REPLACED_OPTIONS = re.compile(r"-Xm[sx]|gc\.log|HeapDump|ErrorFile|java\.io\.tmpdir")


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
    def config(self) -> Path:
        """Its configuration folder."""
        return self.folder / "config"

    @property
    def console(self) -> Path:
        """What the server printed."""
        return self.folder / "console.log"

    @property
    def exit_file(self) -> Path:
        """Written by the keeper as soon as the server has ended: its exit status."""
        return self.folder / "exit"

    @property
    def seed_hosts(self) -> Path:
        """The addresses of all servers, read again and again by a server that seeks its cluster."""
        return self.config / "unicast_hosts.txt"

    def ports_file(self, kind: str) -> Path:
        """Where the server writes the addresses that it got; `kind` is `http` or `transport`."""
        return self.folder / "logs" / f"{kind}.ports"

    def address(self, kind: str) -> str:
        """The `host:port` that the server got for `http` or `transport`; "" while it has none."""
        try:
            lines = self.ports_file(kind).read_text(encoding="ascii").split()
        except OSError:
            return ""
        return next((line for line in lines if line.startswith("127.0.0.1:")), "")

    def prepare(self, settings: Mapping[str, Any], options: str) -> None:
        """Writes the configuration, and removes what an earlier run left about ports and exit."""
        for part in ("config", "data", "logs", "tmp"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        for stale in (self.ports_file("http"), self.ports_file("transport"), self.seed_hosts, self.exit_file):
            stale.unlink(missing_ok=True)
        paths = {"path.data": str(self.folder / "data"), "path.logs": str(self.folder / "logs")}
        _write_settings(self.config / "opensearch.yml", {"node.name": self.name, **paths, **settings})
        (self.config / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        (self.config / "jvm.options").write_text(options, encoding="utf-8")

    def command(self, options: Sequence[str]) -> list[str]:
        """What `bin/opensearch` ends in. The script itself would start Java three more times before."""
        return [
            str(self.java.home / "bin" / "java"),
            *options,
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            f"-Dopensearch.path.home={self.home}",
            f"-Dopensearch.path.conf={self.config}",
            "-Dopensearch.distribution.type=zip",
            "-Dopensearch.bundled_jdk=false",
            "-cp",
            str(self.home / "lib" / "*"),
            "org.opensearch.bootstrap.OpenSearch",
        ]

    def environ(self) -> dict[str, str]:
        """Nothing of the caller's environment reaches the server."""
        return {"PATH": _PATH, "HOME": str(self.folder / "tmp"), "LANG": "C.UTF-8"}

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that the server printed."""
        try:
            text = self.console.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def jvm_options(shipped: str, heap: str, extra: Sequence[str] = ()) -> str:
    """The distribution's `jvm.options` with our heap, and without logs and dumps in the distribution's folder."""
    kept = [line for line in shipped.splitlines() if line and line[0] != "#" and not _REPLACED_OPTIONS.search(line)]
    return "\n".join([*kept, f"-Xms{heap}", f"-Xmx{heap}", *extra, ""])


def final_options(server: Server) -> list[str]:
    """What OpenSearch's own launcher makes of `jvm.options`: system options added, lines for other Javas dropped.

    Raises:
        NodeError: Java refuses an option, such as a heap of `12parsecs`.
    """
    launcher = [
        str(server.java.home / "bin" / "java"),
        "-XX:TieredStopAtLevel=1",
        "-cp",
        str(server.home / "lib" / "*"),
        "org.opensearch.tools.launchers.JvmOptionsParser",
        str(server.config),
    ]
    environ = {**server.environ(), "OPENSEARCH_TMPDIR": str(server.folder / "tmp")}
    try:
        ran = subprocess.run(  # noqa: S603 - the Java that we looked up, with classes of the verified archive
            launcher, env=environ, cwd=server.home, capture_output=True, text=True, timeout=_OPTIONS_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeError(f"Java in {server.java.home} does not run: {error}") from error
    if ran.returncode:
        raise NodeError(
            f"Java refused the options in {server.config / 'jvm.options'}: {ran.stderr.strip()}",
            next_step="check --heap (such as 512m or 2g) and the further Java options",
        )
    return ran.stdout.split()


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
