"""rsyslog and its module omelasticsearch, which ships logs with `_bulk`: where it comes from, and one that runs.

On Debian and what descends from it the distribution's own packages are fetched with `apt-get`, which checks their
signatures, and unpacked into the cache folder: nothing is installed, and no rights are needed. Elsewhere the system's
own rsyslogd is used.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from programs import ProgramError, output

NAMES = ("rsyslog", "rsyslog-elasticsearch")
REMEDY = "install rsyslog with omelasticsearch (Debian: rsyslog-elasticsearch, Fedora: rsyslog-elasticsearch)"


@dataclass(frozen=True)
class Rsyslog:
    """A program, the folder of its modules, and the folder of libraries that the system may lack."""

    program: Path
    modules: Path
    libraries: Path

    @contextlib.contextmanager
    def shipping(self, configuration: str, folder: Path) -> Iterator[None]:
        """Runs with a configuration until the end; ended by itself it is a failure."""
        (folder / "rsyslog.conf").write_text(configuration, encoding="utf-8")
        words = [self.program, "-n", "-f", folder / "rsyslog.conf", "-i", folder / "rsyslog.pid", "-M", self.modules]
        environ = {**os.environ, "LD_LIBRARY_PATH": str(self.libraries)}
        with (folder / "rsyslog.said").open("wb") as said:
            child = subprocess.Popen([str(word) for word in words], env=environ, stdout=said, stderr=said)
        try:
            yield
            if child.poll() is not None:
                raise ProgramError(f"rsyslogd ended by itself: {(folder / 'rsyslog.said').read_text(encoding='utf-8')}")
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise


def rsyslog(cache: Path, environ: Mapping[str, str], system: str = "/usr/sbin:/sbin") -> Rsyslog:
    """Debian's rsyslog from the cache folder, fetched if it must be; elsewhere the one in a folder of the system.

    Raises:
        ProgramError: neither can be had; the message says what to install.
    """
    path = environ.get("PATH", "")
    if shutil.which("apt-get", path=path) and shutil.which("dpkg", path=path):
        release = platform.freedesktop_os_release()
        home = cache / f"rsyslog-{release['ID']}-{release.get('VERSION_ID', 'unreleased')}"
        if not home.is_dir():
            _unpack(home)
        return _found(home, home / "usr/sbin/rsyslogd")
    program = shutil.which("rsyslogd", path=f"{path}{os.pathsep}{system}")
    if program is None:
        raise ProgramError(f"there is neither apt-get nor an rsyslogd: {REMEDY}")
    return _found(Path("/"), Path(program))


def _found(root: Path, program: Path) -> Rsyslog:
    modules = next(root.glob("usr/lib*/**/rsyslog/omelasticsearch.so"), None)
    if modules is None or not program.is_file():
        raise ProgramError(f"{program} has no module omelasticsearch below {root}usr/lib: {REMEDY}")
    return Rsyslog(program, modules.parent, modules.parent.parent)


def _unpack(home: Path) -> None:
    """Fetches the packages and those that they need and the system lacks; `home` appears whole or not at all."""
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rsyslog-", dir=home.parent))
    try:
        for archive in _archives(scratch):
            output(["dpkg", "--extract", archive, scratch / "tree"])
        (scratch / "tree").rename(home)
    except OSError:
        if not home.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _archives(scratch: Path) -> list[Path]:
    lists, archives = scratch / "lists", scratch / "archives"
    for folder in (lists, archives):
        (folder / "partial").mkdir(parents=True)
    places = {"Dir::State::lists": lists, "Dir::Cache::archives": archives, "Dir::Cache::pkgcache": ""}
    # Its own folders and no lock: neither the system's state nor another apt is in the way.
    settings = {
        **places,
        "Dir::Cache::srcpkgcache": "",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    output(["apt-get", *options, "--quiet", "update"])
    fetched = ("install", "--yes", "--quiet", "--download-only", "--reinstall", "--no-install-recommends")
    output(["apt-get", *options, *fetched, *NAMES])
    return sorted(archives.glob("*.deb"))
