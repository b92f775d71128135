"""A shim whose model hangs in a native call for ever; run as `python hanging_shim.py URL SHUTDOWN_S`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import replace

from gram_plugin.contract.codes import MAX_CODES, Role, ScoredCode
from gram_plugin.serve.program import log_json_lines, run_program
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim


class HangingGenerator:
    """Sleeps in C, where no exception reaches it."""

    generation = "g1"

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Never returns."""
        libc = ctypes.CDLL(None)
        while True:
            libc.sleep(3600)


def main(url: str, shutdown_s: str) -> None:
    """Serves on a free port until a signal."""
    settings = replace(ShimSettings(upstream_url=url, port=0), shutdown_s=float(shutdown_s))
    log_json_lines()
    run_program(create_shim(settings, HangingGenerator()), settings, lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    main(*sys.argv[1:])
