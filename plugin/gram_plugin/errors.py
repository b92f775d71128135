"""The one tree of errors that gram-opensearch raises on purpose.

Every message says what was expected, what was found, and what to do next. Anything that is
not a `GramError` is a defect of ours.
"""

from __future__ import annotations


class GramError(Exception):
    """Root of the tree: `message` names the place and the finding, `next_step` the way out."""

    exit_code = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} — {self.next_step}" if self.next_step else self.message


class ConfigError(GramError):
    """A setting, an environment variable or `gram.toml` is unusable."""

    exit_code = 2


class ExtraMissingError(GramError):
    """A verb needs an extra of the distribution that is not installed."""

    exit_code = 2


class CodeError(GramError):
    """A text is no code, or an attribute cannot be part of one."""


class CatalogueError(GramError):
    """A catalogue file cannot be read as products."""


class JudgmentsError(GramError):
    """A judgments or click file cannot be read."""


class BundleError(GramError):
    """A bundle is incomplete, damaged, or of a format that this version does not read."""


class DecodeError(GramError):
    """The generator could not turn a text into codes."""


class NodeError(GramError):
    """An OpenSearch of one's own could not be fetched, started or stopped."""


class JavaError(NodeError):
    """No fitting Java was found."""


class SearchError(GramError):
    """OpenSearch could not be reached or refused a request of ours."""


class MappingError(SearchError):
    """An index lacks the `gram` fields, or has them in another shape."""


class CalibrationError(SearchError):
    """An index has no λ yet, or it was made for another model generation."""


class RequestError(GramError):
    """A request body is not what its endpoint takes; the client's mistake (HTTP 400)."""


class OverloadError(GramError):
    """The server has no room for the request now (HTTP 429)."""


class TrainingError(GramError):
    """Training cannot start or go on."""


class ExportError(GramError):
    """The trained model could not be turned into a bundle, or failed the parity gate."""
