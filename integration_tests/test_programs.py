"""Programs of others that tests run: one that is missing or fails is a clear failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from programs import ProgramError, find, output
from rsyslog import rsyslog


def test_a_missing_program_is_an_error_with_the_remedy() -> None:
    """It names the program and what to install; no test is skipped for it."""
    with pytest.raises(ProgramError) as raised:
        find("curl-of-tomorrow", "install curl")
    assert str(raised.value) == (
        "curl-of-tomorrow is not on the path, and these tests run it as its users do: install curl"
    )


def test_a_program_that_fails_tells_its_code_and_what_it_said() -> None:
    """Both are in the error, so the log of a failed run is enough."""
    with pytest.raises(ProgramError, match="ended with code 3: no such shoe"):
        output([sys.executable, "-c", "import sys; print('no such shoe'); sys.exit(3)"])


def test_a_program_prints_what_it_reads() -> None:
    """Its standard input is what it is given, its standard output what is returned."""
    assert output([sys.executable, "-c", "print(input()[::-1])"], data=b"shoe") == b"eohs\n"


def test_where_rsyslog_cannot_be_had_the_error_says_what_to_install(tmp_path: Path) -> None:
    """Without Debian's programs and without an rsyslogd of the system; nothing is left in the cache folder."""
    with pytest.raises(ProgramError, match="neither apt-get nor an rsyslogd: install rsyslog with omelasticsearch"):
        rsyslog(tmp_path / "cache", {"PATH": str(tmp_path)}, system="")
    assert list(tmp_path.iterdir()) == []
