"""The verb `gram shim`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gram_plugin.contract.codes import Generator
from gram_plugin.errors import BundleError, ConfigError, DecodeError
from gram_plugin.search.query import Mode
from gram_plugin.serve.settings import ShimSettings, variable

LOG = logging.getLogger(__name__)

_Bundle = Annotated[Path | None, typer.Option(help="Folder that `gram export` wrote.")]
_Url = Annotated[str | None, typer.Option(help="URL of OpenSearch, without credentials.")]
_Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
_Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
_Mode = Annotated[Mode | None, typer.Option(help="Mode of a search that names none.")]
_Budget = Annotated[float | None, typer.Option(help="Longest that the model may delay a search.")]


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("shim")(_shim)


def _shim(
    bundle: _Bundle = None,
    url: _Url = None,
    host: _Host = None,
    port: _Port = None,
    mode: _Mode = None,
    budget_ms: _Budget = None,
) -> None:
    """Stand before OpenSearch and add codes to its searches; every setting is a GRAM_ variable as well."""
    # The servers' libraries are loaded only by the verbs that serve.
    from gram_plugin.serve.program import log_json_lines, run_program
    from gram_plugin.serve.shim import create_shim

    flags = {"bundle": bundle, "upstream_url": url, "host": host, "port": port, "mode": mode, "budget_ms": budget_ms}
    given = {variable(name): str(value) for name, value in flags.items() if value is not None}
    settings = ShimSettings.from_mapping({**os.environ, **given})
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for line in settings.lines():
        console.print(line)
    log_json_lines()
    run_program(create_shim(settings, open_model(settings)), settings, console.print)


def open_model(settings: ShimSettings) -> Generator | None:
    """The model of the bundle, or None when it cannot be used and searches are to go on without it.

    Raises:
        ConfigError: `require_model` is set and no bundle is.
        BundleError: `require_model` is set and the bundle cannot be used.
    """
    from gram_plugin.decode.generator import OnnxGenerator

    if settings.bundle is None:
        if settings.require_model:
            raise ConfigError("no bundle is set", next_step="pass --bundle or set GRAM_BUNDLE")
        LOG.warning("no bundle is set: searches stay lexical; pass --bundle or set GRAM_BUNDLE")
        return None
    try:
        return OnnxGenerator.open(settings.bundle, threads=settings.threads)
    except (BundleError, DecodeError) as error:
        if settings.require_model:
            raise
        LOG.error("the bundle cannot be used, searches stay lexical: %s", error)
        return None
