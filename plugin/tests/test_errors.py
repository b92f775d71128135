"""The tree of errors: one root, a next step, an exit code."""

from __future__ import annotations

import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin import errors
from gram_plugin.errors import ConfigError, ExtraMissingError, GramError

TREE = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_hangs_on_the_one_root(kind: type[Exception]) -> None:
    """Every exception of the module is a GramError, ends in Error and says what it means."""
    assert (issubclass(kind, GramError), kind.__name__[-5:], bool(kind.__doc__)) == (True, "Error", True)


def test_usage_errors_exit_2() -> None:
    """What the caller wrote wrongly exits 2 as a shell expects, everything else 1."""
    assert {kind for kind in TREE if kind.exit_code == 2} == {ConfigError, ExtraMissingError}  # type: ignore[attr-defined]
    assert {kind.exit_code for kind in TREE} == {1, 2}  # type: ignore[attr-defined]


@given(st.text(), st.text(min_size=1))
def test_text_joins_finding_and_next_step(message: str, next_step: str) -> None:
    """The text of an error is its message, then its next step where it has one."""
    assert str(GramError(message)) == message
    assert str(GramError(message, next_step=next_step)) == f"{message} — {next_step}"


@pytest.mark.parametrize("kind", TREE)
def test_errors_survive_a_process_boundary(kind: type[GramError]) -> None:
    """An error raised in a worker process arrives whole."""
    arrived = pickle.loads(pickle.dumps(kind("found x", next_step="do y")))  # noqa: S301 - our own bytes
    assert (type(arrived), arrived.message, arrived.next_step) == (kind, "found x", "do y")
