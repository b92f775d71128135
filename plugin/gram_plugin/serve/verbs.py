"""The verbs `gram shim`, `gram off` and `gram on`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gram_plugin.contract.codes import Generator
from gram_plugin.errors import BundleError, ConfigError, DecodeError
from gram_plugin.search.query import Mode
from gram_plugin.serve.settings import ShimSettings, variable
from gram_plugin.serve.switch import turn_off, turn_on

if TYPE_CHECKING:
    from gram_plugin.serve.renewal import Trace

LOG = logging.getLogger(__name__)

_Bundle = Annotated[Path | None, typer.Option(help="Folder that `gram export` wrote.")]
_Url = Annotated[str | None, typer.Option(help="URL of OpenSearch, without credentials.")]
_Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
_Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
_Mode = Annotated[Mode | None, typer.Option(help="Mode of a search that names none.")]
_OffFile = Annotated[Path | None, typer.Option(help="While this file exists every search passes untouched.")]
_Switch = Annotated[
    Path | None, typer.Option("--file", envvar=variable("off_file"), help="The file that the shims were started with.")
]
_Budget = Annotated[float | None, typer.Option(help="Longest that the model may delay a search.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    app.command("shim")(_shim)
    app.command("off")(_off)
    app.command("on")(_on)


def _shim(
    bundle: _Bundle = None,
    url: _Url = None,
    host: _Host = None,
    port: _Port = None,
    mode: _Mode = None,
    budget_ms: _Budget = None,
    off_file: _OffFile = None,
) -> None:
    """Stand before OpenSearch and add codes to its searches; every setting is a GRAM_ variable as well."""
    # The servers' libraries are loaded only by the verbs that serve.
    from gram_plugin.serve.program import hold_signals, log_json_lines, run_program
    from gram_plugin.serve.shim import HEEDED, create_shim

    places = {"bundle": bundle, "upstream_url": url, "host": host, "port": port, "off_file": off_file}
    flags = {**places, "mode": mode, "budget_ms": budget_ms}
    given = {variable(name): str(value) for name, value in flags.items() if value is not None}
    settings = ShimSettings.from_mapping({**os.environ, **given})
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    hold_signals(HEEDED)
    for line in settings.lines():
        console.print(line)
    log_json_lines()
    generator, opened = first_model(settings)
    shim = create_shim(settings, generator, reopen=lambda: reopened(settings), opened=opened)
    run_program(shim, settings, console.print, shim.state.on_signal)


def _off(file: _Switch = None) -> None:
    """Make every shim that knows the file a plain proxy at once; it stays one over restarts, until `gram on`."""
    done = turn_off(_named(file))
    typer.echo(f"codes are off: searches pass untouched while {file} exists" if done else f"{file} exists already")


def _on(file: _Switch = None) -> None:
    """Let the shims add codes again, from the next search on."""
    done = turn_on(_named(file))
    typer.echo(f"codes are on: {file} is removed" if done else f"codes were not switched off: there is no {file}")


def _named(file: Path | None) -> Path:
    if file is None:
        raise ConfigError(
            "no switch file is named",
            next_step=f"pass --file or set {variable('off_file')} to the file that the shim was started with; "
            "a shim without one takes `kill -USR1 PID` for off and `kill -USR2 PID` for on",
        )
    return file


def reopened(settings: ShimSettings) -> Generator:
    """The model of the bundle as it is on disk now.

    Raises:
        BundleError: it cannot be used.
        DecodeError: its graphs cannot be run.
    """
    from gram_plugin.decode.generator import OnnxGenerator

    if settings.bundle is None:
        raise ConfigError("no bundle is set", next_step="pass --bundle or set GRAM_BUNDLE")
    generator = OnnxGenerator.open(settings.bundle, threads=settings.threads)
    return replace(generator, max_batch_tokens=settings.max_batch_tokens)


def first_model(
    settings: ShimSettings, opening: Callable[[ShimSettings], Generator | None] | None = None
) -> tuple[Generator | None, Trace | None]:
    """What `opening`, else `open_model`, gives, and the trace of the bundle from before.

    A bundle that changes while it is opened has another trace then, and is opened again.
    """
    from gram_plugin.serve.renewal import trace_of

    opened = trace_of(settings.bundle) if settings.bundle else None
    return (opening or open_model)(settings), opened


def open_model(settings: ShimSettings) -> Generator | None:
    """The model of the bundle, or None when it cannot be used and searches are to go on without it.

    Raises:
        ConfigError: `require_model` is set and no bundle is.
        BundleError: `require_model` is set and the bundle cannot be used.
    """
    if settings.bundle is None:
        if settings.require_model:
            raise ConfigError("no bundle is set", next_step="pass --bundle or set GRAM_BUNDLE")
        LOG.warning("no bundle is set: searches stay lexical; pass --bundle or set GRAM_BUNDLE")
        return None
    try:
        return reopened(settings)
    except (BundleError, DecodeError) as error:
        if settings.require_model:
            raise
        LOG.error("the bundle cannot be used, searches stay lexical: %s", error)
        return None
