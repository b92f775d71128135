"""What the workshop's verbs say when a part of the extra is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gram_plugin.errors import ExtraMissingError


@contextmanager
def workshop(verb: str) -> Iterator[None]:
    """Turns a missing torch, transformers or optimum into words."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "gram_").startswith("gram_"):
            raise
        raise ExtraMissingError(
            f"`gram {verb}` needs the extra [exporter]; not installed: {error.name}",
            next_step="pip install 'gram-opensearch[exporter]'",
        ) from error
