"""The look-up of Java: which one is taken, and what the error says when none fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from gram_plugin.errors import JavaError
from gram_plugin.node.java import Java, find_java, read_java
from gram_plugin.node.release import Release

THREE, TWO = Release("3.8.0"), Release("2.19.4")


def put_java(home: Path, version: str, modules: str = "java.base jdk.localedata") -> Path:
    """Writes the files that tell a Java home from any other folder."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").touch()
    (home / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="{modules}"\n', encoding="utf-8")
    return home


def find(root: Path, release: Release = THREE, **environ: str) -> Path:
    """Looks below a root folder, with nothing to fetch."""
    return find_java(release, environ, install=None, cache=root / "cache", root=root).home


@pytest.mark.parametrize(("version", "major"), [("25.0.3", 25), ("21", 21), ("17.0.15", 17), ("1.8.0_402", 8)])
def test_the_major_version_is_read_from_the_release_file(tmp_path: Path, version: str, major: int) -> None:
    """Java 8 and older count from 1."""
    assert read_java(put_java(tmp_path / "jdk", version)) == Java(tmp_path / "jdk", major, full=True)


def test_a_folder_without_java_is_none(tmp_path: Path) -> None:
    """A folder is a Java home by its files, not by its name."""
    assert read_java(tmp_path) is None


def test_the_newest_tested_java_is_taken_for_3(tmp_path: Path) -> None:
    """25 is known to work; 26 is only taken when nothing else fits."""
    for major in ("17", "21", "25", "26"):
        put_java(tmp_path / "usr/lib/jvm" / f"java-{major}", major)
    assert find(tmp_path) == tmp_path / "usr/lib/jvm/java-25"


def test_2_takes_17_and_not_25(tmp_path: Path) -> None:
    """OpenSearch 2 needs the security manager, which Java 24 took away."""
    for major in ("11", "17", "25"):
        put_java(tmp_path / "usr/lib/jvm" / f"java-{major}", major)
    assert find(tmp_path, TWO) == tmp_path / "usr/lib/jvm/java-17"


def test_java_home_wins_over_system_folders_if_it_fits(tmp_path: Path) -> None:
    """`JAVA_HOME` is somebody's general choice: taken when it fits, passed over when not."""
    system = put_java(tmp_path / "usr/lib/jvm/java-25", "25")
    assert find(tmp_path, JAVA_HOME=str(put_java(tmp_path / "mine", "21"))) == tmp_path / "mine"
    assert find(tmp_path, JAVA_HOME=str(put_java(tmp_path / "old", "17"))) == system


def test_a_named_java_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """`OPENSEARCH_JAVA_HOME` is meant for this server, so it is never passed over silently."""
    put_java(tmp_path / "usr/lib/jvm/java-25", "25")
    with pytest.raises(JavaError, match=r"is Java 17; OpenSearch 3.8.0 needs a full JDK 21 or newer"):
        find(tmp_path, OPENSEARCH_JAVA_HOME=str(put_java(tmp_path / "named", "17")))
    with pytest.raises(JavaError, match="is no Java home"):
        find(tmp_path, OPENSEARCH_JAVA_HOME=str(tmp_path / "nowhere"))


def test_a_java_without_locales_is_passed_over(tmp_path: Path) -> None:
    """A cut-down Java lacks the Thai break iterator, without which OpenSearch stops at start."""
    put_java(tmp_path / "usr/lib/jvm/jre", "25", modules="java.base")
    with pytest.raises(JavaError, match=r"found Java 25 without module jdk.localedata in .*jre") as caught:
        find(tmp_path)
    assert caught.value.next_step == "install a JDK 25, or set OPENSEARCH_JAVA_HOME to the folder of one"


def test_no_java_at_all_says_so(tmp_path: Path) -> None:
    """The error names the version that is needed."""
    with pytest.raises(JavaError, match=r"OpenSearch 3\.8\.0 needs a full JDK 21 or newer; found no Java at all"):
        find(tmp_path)


def test_a_java_that_the_account_cannot_read_is_passed_over(tmp_path: Path) -> None:
    """The server runs under another account than root and must be able to start its Java."""
    home = put_java(tmp_path / "usr/lib/jvm/java-25", "25")
    with pytest.raises(JavaError, match=rf"Java 25 in {home} \(out of reach for the server's account\)"):
        find_java(THREE, {}, install=None, cache=tmp_path, root=tmp_path, usable=lambda path: False)


def test_a_missing_java_is_fetched_once(tmp_path: Path) -> None:
    """The installer is asked for the tested version; the next look-up finds what it brought."""
    asked: list[int] = []

    def install(major: int) -> Path:
        asked.append(major)
        return put_java(tmp_path / "cache" / "jdk" / f"jdk-{major}", str(major))

    for _ in range(2):
        java = find_java(THREE, {}, install=install, cache=tmp_path / "cache", root=tmp_path / "root")
        assert java == Java(tmp_path / "cache" / "jdk" / "jdk-25", 25, full=True)
    assert asked == [25]


def test_a_failed_fetch_is_part_of_the_error(tmp_path: Path) -> None:
    """Without network the reader learns both that no Java fits and why none came."""

    def install(major: int) -> Path:
        raise OSError("no route to host")

    with pytest.raises(JavaError, match="found no Java at all; fetching one failed: no route to host"):
        find_java(THREE, {}, install=install, cache=tmp_path, root=tmp_path)
