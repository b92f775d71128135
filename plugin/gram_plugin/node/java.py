"""The look-up of a Java that fits a release of OpenSearch: environment, system folders, then `install-jdk`."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gram_plugin.errors import JavaError
from gram_plugin.node.release import Release

NAMED_BY_USER = "OPENSEARCH_JAVA_HOME"
SYSTEM_PATTERNS = (
    "usr/lib/jvm/*",
    "usr/java/*",
    "opt/java/*",
    "Library/Java/JavaVirtualMachines/*/Contents/Home",
    "opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
    "usr/local/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
)
"""Where systems keep Java, relative to the root of the file system."""

_LOCALES = "jdk.localedata"  # holds the Thai break iterator, without which OpenSearch 3.x stops at start
_logger = logging.getLogger(__name__)

Installer = Callable[[int], Path]
"""Fetches a JDK of a major version and returns its home folder."""


@dataclass(frozen=True)
class JavaRange:
    """Major versions, both ends included, that a release may start with; `tested` is known to work and gets fetched.

    `highest` None: newer ones are taken too, after all others.
    """

    lowest: int
    tested: int
    highest: int | None

    def holds(self, major: int) -> bool:
        """Whether a major version is in the range."""
        return self.lowest <= major and (self.highest is None or major <= self.highest)

    def __str__(self) -> str:
        return f"{self.lowest} or newer" if self.highest is None else f"{self.lowest} to {self.highest}"


@dataclass(frozen=True)
class Java:
    """A Java home folder, its major version, and whether it has the modules of a full JDK."""

    home: Path
    major: int
    full: bool


def java_range(release: Release) -> JavaRange:
    """3.x needs 21 or newer; 2.x needs the security manager, which Java 24 took away."""
    return JavaRange(17, 21, 23) if release.major < 3 else JavaRange(21, 25, None)


def find_java(
    release: Release,
    environ: Mapping[str, str],
    *,
    install: Installer | None,
    cache: Path,
    root: Path = Path("/"),
    usable: Callable[[Path], bool] = lambda home: True,
) -> Java:
    """Returns the Java to start `release` with; `usable` says whether the server's account may read a folder.

    Raises:
        JavaError: `OPENSEARCH_JAVA_HOME` names an unfitting one, or none fits and none could be fetched.
    """
    wanted = java_range(release)
    if named := environ.get(NAMED_BY_USER):
        return _check_named(Path(named), release, usable)
    passed_over = []
    for java in _candidates(environ, cache, root, wanted):
        if _fits(java, wanted) and usable(java.home):
            return java
        reach = "" if usable(java.home) else " (out of reach for the server's account)"
        passed_over.append(f"{_describe(java)} in {java.home}{reach}")
    found = ", ".join(passed_over) or "no Java at all"
    if install is None:
        raise _none_fits(release, found)
    return _install(release, install, found)


def read_java(home: Path) -> Java | None:
    """Reads `<home>/release`; None where there is no Java."""
    try:
        text = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    version = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE)
    if not version or not (home / "bin" / "java").is_file():
        return None
    modules = re.search(r'^MODULES="([^"]*)"', text, re.MULTILINE)
    return Java(home, int(version[1]), modules is None or _LOCALES in modules[1].split())


def _candidates(environ: Mapping[str, str], cache: Path, root: Path, wanted: JavaRange) -> Iterator[Java]:
    """`JAVA_HOME` first, then system folders, then what we fetched before; newest tested version first."""
    if (home := environ.get("JAVA_HOME")) and (java := read_java(Path(home))):
        yield java
    system = {path.resolve() for pattern in SYSTEM_PATTERNS for path in root.glob(pattern)}
    for homes in (system, set(cache.glob("jdk/*")) | set(cache.glob("jdk/*/Contents/Home"))):
        found = filter(None, map(read_java, homes))
        yield from sorted(found, key=lambda java: (java.major > wanted.tested, -java.major, java.home))


def _fits(java: Java, wanted: JavaRange) -> bool:
    return java.full and wanted.holds(java.major)


def _check_named(home: Path, release: Release, usable: Callable[[Path], bool]) -> Java:
    java, wanted = read_java(home), java_range(release)
    if java is None:
        raise JavaError(f"{NAMED_BY_USER}={home} is no Java home", next_step=f"name a JDK {wanted}, or unset it")
    if not _fits(java, wanted):
        raise JavaError(
            f"{NAMED_BY_USER}={home} is {_describe(java)}; OpenSearch {release.version} needs a full JDK {wanted}",
            next_step=f"name a JDK {wanted}, or unset {NAMED_BY_USER} to let one be looked up",
        )
    if not usable(home):
        raise JavaError(f"{NAMED_BY_USER}={home} cannot be read by the server's account", next_step="move it to /opt")
    return java


def _describe(java: Java) -> str:
    return f"Java {java.major}" if java.full else f"Java {java.major} without module {_LOCALES}"


def _none_fits(release: Release, found: str) -> JavaError:
    wanted = java_range(release)
    return JavaError(
        f"OpenSearch {release.version} needs a full JDK {wanted}; found {found}",
        next_step=f"install a JDK {wanted.tested}, or set {NAMED_BY_USER} to the folder of one",
    )


def _install(release: Release, install: Installer, found: str) -> Java:
    try:
        home = install(java_range(release).tested)
    except OSError as error:
        raise _none_fits(release, f"{found}; fetching one failed: {error}") from error
    java = read_java(home)
    if java is None or not _fits(java, java_range(release)):
        raise _none_fits(release, f"{found}; what was fetched to {home} does not fit")
    return java


def fetch_java(cache: Path) -> Installer | None:
    """An installer that puts a JDK below `cache` by `install-jdk`; None where that package is missing."""
    try:
        jdk = importlib.import_module("jdk")
    except ImportError:
        return None

    def install(major: int) -> Path:
        folder = cache / "jdk"
        folder.mkdir(parents=True, exist_ok=True)
        _logger.info("fetching a JDK %d into %s", major, folder)
        try:
            found = Path(jdk.install(str(major), path=str(folder)))
        except jdk.JdkError as error:
            raise OSError(str(error)) from error
        return next((path for path in (found / "Contents" / "Home", found) if path.is_dir()), found)

    return install
