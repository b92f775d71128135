"""The verb `gram shim` as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gram_plugin.errors import BundleError, ConfigError
from gram_plugin.serve.renewal import trace_of
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.verbs import first_model, open_model

TINY = Path(__file__).parents[1] / "decode/tiny_bundle"


async def start(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    """A `gram shim` in a process of its own."""
    command = [sys.executable, "-c", "from gram_plugin.cli import main; main()", "shim", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRAM_")}
    environment |= variables
    return await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)


async def until_listening(process: asyncio.subprocess.Process) -> list[str]:
    """What it printed up to the line with its address."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("listening on "):
        line = (await process.stderr.readline()).decode()
        assert line, lines
        lines.append(line.strip())
    return lines


async def test_it_prints_its_settings_serves_and_ends_on_sigterm(
    client: Any, opensearch: Any, opensearch_url: str, tmp_path: Path
) -> None:
    """A bundle that is not there makes it a marked plain proxy; SIGTERM ends it without an error."""
    process = await start("--url", opensearch_url, "--port", "0", "--bundle", str(tmp_path / "none"))
    lines = await until_listening(process)
    url = lines[-1].removeprefix("listening on ")
    got = await client.search(url + "/shop/_search", {"query": {"match": {"t": "x"}}})
    process.send_signal(signal.SIGTERM)
    _, rest = await process.communicate()
    assert lines[0] == f"upstream_url = {opensearch_url}"
    assert [json.loads(line)["level"] for line in lines if line.startswith("{")] == ["ERROR"]
    assert (got.status, got.status_header, process.returncode) == (200, "degraded; reason=no-model", 0)
    searches = [json.loads(line) for line in rest.decode().splitlines() if '"event"' in line]
    assert [(line["status"], line["reason"]) for line in searches] == [("degraded", "no-model")]


async def test_a_port_that_is_taken_is_one_line_and_a_way_out(opensearch_url: str) -> None:
    """The message names the address, the exit code is that of a wrong setting."""
    port = opensearch_url.rpartition(":")[2]
    process = await start("--url", opensearch_url, "--port", port)
    _, text = await process.communicate()
    found, step = text.decode().strip().splitlines()[-2:]
    assert found.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert (step.startswith("next:  choose another address with --host and --port"), process.returncode) == (True, 2)


async def test_a_wrong_certificate_file_is_one_line_and_a_way_out(tmp_path: Path) -> None:
    """The program does not start, and what it prints names the variable."""
    process = await start("--url", "https://localhost:9200", GRAM_CA_FILE=str(tmp_path / "none.pem"))
    _, text = await process.communicate()
    found, step = text.decode().strip().splitlines()[-2:]
    assert found == f"error: no certificates can be read from {tmp_path / 'none.pem'}: No such file or directory"
    assert (step.startswith("next:  set GRAM_CA_FILE"), process.returncode) == (True, 2)


async def until(client: Any, url: str, wanted: str) -> None:
    """Returns once `/-/ready` or the metrics hold a text."""
    async with asyncio.timeout(60):
        pages = [""]
        while not any(wanted in page for page in pages):
            pages = [(await client(url + path)).body.decode() for path in ("/-/ready", "/-/metrics")]


async def test_signals_switch_and_renew(client: Any, opensearch: Any, opensearch_url: str, tmp_path: Path) -> None:
    """SIGUSR1 is off, SIGUSR2 on, SIGHUP opens the bundle again: a damaged one is refused, a whole one is taken."""
    bundle = tmp_path / "bundle"
    shutil.copytree(TINY, bundle)
    process = await start(
        "--url", opensearch_url, "--port", "0", "--bundle", str(bundle), GRAM_BUNDLE_CHECK_S="0", GRAM_BUDGET_MS="30000"
    )
    url = (await until_listening(process))[-1].removeprefix("listening on ")
    seen = []
    for number, wanted in (
        (None, '"model":"g1"'),
        (signal.SIGUSR1, '"switched_off":true'),
        (signal.SIGUSR2, '"switched_off":false'),
        (signal.SIGHUP, 'gram_bundles_total{outcome="taken"} 1.0'),
    ):
        if number is not None:
            process.send_signal(number)
        await until(client, url, wanted)
        seen.append((await client.search(url + "/shop/_search", {"query": {"match": {"t": "sofa"}}})).status_header)
    (bundle / "codebook.tsv").write_bytes(b"no codebook")
    process.send_signal(signal.SIGHUP)
    await until(client, url, 'gram_bundles_total{outcome="refused"} 1.0')
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert (seen[0] == seen[2] == seen[3], seen[1], process.returncode) == (True, "off; reason=switched-off", 0)


async def test_a_signal_that_comes_while_the_model_loads_is_heeded(client: Any, opensearch_url: str) -> None:
    """It ends nothing: who switches off in the first second has a shim that is off."""
    process = await start("--url", opensearch_url, "--port", "0", "--bundle", str(TINY))
    assert process.stderr is not None
    await process.stderr.readline()  # settings are told before the model is opened
    process.send_signal(signal.SIGUSR1)
    url = (await until_listening(process))[-1].removeprefix("listening on ")
    await until(client, url, '"switched_off":true')
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


def test_the_trace_of_the_first_model_is_from_before_it_was_opened(tmp_path: Path, fake_generator: Any) -> None:
    """A bundle that changes while it is read does not count as the one that serves."""
    settings = ShimSettings(upstream_url="http://h", bundle=tmp_path)
    before, generator = trace_of(tmp_path), fake_generator()

    def opening(_: ShimSettings) -> Any:
        (tmp_path / "manifest.json").write_text("{}")
        return generator

    assert first_model(settings, opening) == (generator, before)
    assert before != trace_of(tmp_path)


def test_a_required_model_is_required(tmp_path: Path) -> None:
    """With `require_model` a missing bundle stops the start instead of making a plain proxy."""
    wanted = {"upstream_url": "http://h", "require_model": True}
    with pytest.raises(ConfigError, match="no bundle is set"):
        open_model(ShimSettings(**wanted))
    with pytest.raises(BundleError, match="there is no bundle in"):
        open_model(ShimSettings(**wanted, bundle=tmp_path / "none"))
