"""Runs one ASGI app as a program: its socket, its log of JSON lines, its graceful end."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gram_plugin.errors import ConfigError
from gram_plugin.serve.batching import STOP_S
from gram_plugin.serve.protocol import Protocol
from gram_plugin.serve.settings import ServerSettings

LOG = logging.getLogger(__name__)

BACKLOG = 2048
END_S = STOP_S + 3.0
"""What a program may need to end after its running requests: for the batch that runs and for connections."""


class JsonLines(logging.Formatter):
    """One JSON object for each record; what a record carries as `fields` becomes keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {"at": self.formatTime(record), "level": record.levelname, "logger": record.name}
        fields = getattr(record, "fields", None)
        line.update(fields if isinstance(fields, dict) else {"message": record.getMessage()})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_json_lines(level: int = logging.INFO) -> None:
    """Sends the log of this process to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def hold_signals(numbers: Iterable[signal.Signals]) -> None:
    """Keeps signals waiting until `run_program` listens for them: by themselves they would end a program that loads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def run_program(
    app: ASGIApp,
    settings: ServerSettings,
    say: Callable[[str], None],
    on_signal: Mapping[signal.Signals, Callable[[], None]] | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, then lets running requests end for at most `shutdown_s`; main thread only.

    Nothing holds the process longer than `shutdown_s` and `END_S`: it ends beneath a native call that hangs, with an
    error in the log and exit code 1. `on_signal` says what else signals do; they come between two steps of the event
    loop.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    with _listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
        # uvicorn ends gracefully and then raises the signal again, which would count as a crash.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        for number, action in (on_signal or {}).items():
            signal.signal(number, lambda *_, act=action: act())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, on_signal or {})
        _Server(server_config(app, settings), settings.shutdown_s + END_S).run(sockets=[listener])


def server_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn serves an app; it adds nothing to the answers."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=Protocol,
        ws="none",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
    )


class _Server(uvicorn.Server):
    """A server whose process ends within a bound of seconds after the first signal to end.

    Python waits for every thread before it ends, and a thread inside a native call cannot be told to.
    """

    def __init__(self, config: uvicorn.Config, limit_s: float) -> None:
        super().__init__(config)
        self._told: SimpleQueue[int] = SimpleQueue()
        threading.Thread(target=_end_at_last, args=(self._told, limit_s), name="gram-end", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end, as uvicorn does; from the first signal on the time counts.

        It takes no lock but the queue's own, which a signal may: the main thread can be interrupted holding any other.
        """
        self._told.put(sig)
        super().handle_exit(sig, frame)


def _end_at_last(told: SimpleQueue[int], limit_s: float) -> None:
    """Ends the process `limit_s` after a signal, from a thread that ends with it when all went well before."""
    told.get()
    time.sleep(limit_s)
    last = threading.Timer(1.0, os._exit, (1,))  # the log may be held by the very thread that hangs
    last.daemon = True
    last.start()
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    held = ", ".join(sorted(thread.name for thread in others)) or "the main thread"
    LOG.error("still held %g s after the signal to end, by %s: the process ends all the same", limit_s, held)
    os._exit(1)


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            next_step="choose another address with --host and --port (0 takes a free port)",
        ) from error
