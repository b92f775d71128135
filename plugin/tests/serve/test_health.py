"""What an operator sees of a program."""

from __future__ import annotations

from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from gram_plugin.serve.health import Health, ShimMetrics
from gram_plugin.serve.status import APPLIED, Reason, off


async def answer(health: Health, path: str) -> Response:
    """What the endpoint at `path` answers."""
    (route,) = [route for route in health.routes() if route.path == path]
    response = await route.endpoint(Request({"type": "http", "headers": [], "app": Starlette()}))
    assert isinstance(response, Response)
    return response


async def test_ready_is_503_until_it_is() -> None:
    """Readiness follows the flag, with the program's details beside it; liveness does not."""
    health = Health(lambda: {"model": "g1"})
    before, live = await answer(health, "/-/ready"), await answer(health, "/-/live")
    health.ready = True
    after = await answer(health, "/-/ready")
    assert (before.status_code, before.body) == (503, b'{"ready":false,"model":"g1"}')
    assert (after.status_code, after.body) == (200, b'{"ready":true,"model":"g1"}')
    assert (live.status_code, live.body) == (200, b'{"live":true}')


async def test_metrics_are_of_this_program_alone() -> None:
    """Two programs in one process count apart."""
    first, second = Health(), Health()
    Counter("gram_x", "x", registry=first.registry).inc()
    pages = [(await answer(health, "/-/metrics")).body for health in (first, second)]
    assert [b"gram_x_total 1.0" in bytes(page) for page in pages] == [True, False]


async def test_searches_that_wait_for_a_command_are_counted_by_it() -> None:
    """An operator's alert can name what to run; other reasons need no command."""
    health = Health()
    metrics = ShimMetrics(health.registry)
    for status in (
        off(Reason.UNCALIBRATED),
        off(Reason.NO_MAPPING),
        off(Reason.UNCALIBRATED),
        off(Reason.MODE),
        APPLIED,
    ):
        metrics.count(status)
    lines = bytes((await answer(health, "/-/metrics")).body).decode().splitlines()
    assert [line for line in lines if line.startswith("gram_commands_needed_total")] == [
        'gram_commands_needed_total{command="gram calibrate"} 2.0',
        'gram_commands_needed_total{command="gram mapping apply"} 1.0',
    ]
    assert 'gram_searches_total{outcome="off",reason="uncalibrated"} 2.0' in lines
