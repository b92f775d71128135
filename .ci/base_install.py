"""Checks the base install: the wheel is imported, torch is not there, every module of `gram_plugin` imports."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib.util import find_spec
from pathlib import Path

import gram_plugin

WORKSHOP_ONLY = ("torch", "transformers", "optimum", "onnx")


def main() -> None:
    """Ends with a message when the base install is not what the server ships with."""
    home = Path(gram_plugin.__file__).parent
    if "site-packages" not in home.parts:
        sys.exit(f"gram_plugin comes from {home}, not from the installed wheel")
    present = [name for name in WORKSHOP_ONLY if find_spec(name)]
    if present:
        sys.exit(f"the base install brought {', '.join(present)}")
    modules = [item.name for item in pkgutil.walk_packages([str(home)], "gram_plugin.")]
    for name in modules:
        importlib.import_module(name)
    sys.stdout.write(f"{len(modules)} modules of gram_plugin import from {home}, without {', '.join(WORKSHOP_ONLY)}\n")


if __name__ == "__main__":
    main()
