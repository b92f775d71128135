"""Runs the examples of docs/bulk-encoding.md on the real Spark and the real Ray, in local mode on loopback.

Both are large, so they have an environment of their own: `make engines`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkencoding import codes_of, example, furnish, products, written

LIMIT_S = 300
PRODUCTS = products(120)
PREPARED = {
    "Spark": "",
    "Ray Data": "import ray; ray.init(num_cpus=2, include_dashboard=False, _node_ip_address='127.0.0.1')\n",
}
"""What a person's cluster brings with it, and this machine does not."""
ENVIRONMENT = {
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PYSPARK_PYTHON": sys.executable,
    "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false pyspark-shell",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.mark.parametrize("engine", PREPARED)
def test_an_engine_gives_the_objects_of_the_call(engine: str, tmp_path: Path) -> None:
    """The page's own code writes one line for each product, with the codes that the library call gives alone."""
    bundle = furnish(tmp_path, PRODUCTS)
    (tmp_path / "example.py").write_text(example(engine), encoding="utf-8")
    script = f"{PREPARED[engine]}import runpy; runpy.run_path('example.py', run_name='__main__')"
    words = [sys.executable, "-c", script]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(tmp_path / "grams") == codes_of(bundle, PRODUCTS)
