"""What an operator sees of a running program: `/-/live`, `/-/ready`, `/-/metrics` and the counters behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gram_plugin.serve.status import NEXT_STEPS, Status

# Around the default budget of 50 ms the steps are fine, so that a p99 can be read off.
DECODE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1.0)


class Health:
    """Readiness and one metrics registry of one program; nothing of it is global.

    `details` is asked at each `/-/ready` for what else to show.
    """

    def __init__(self, details: Callable[[], Mapping[str, object]] = dict) -> None:
        self.registry = CollectorRegistry()
        self.ready = False
        self._details = details

    def routes(self) -> list[Route]:
        """The three endpoints."""
        return [Route("/-/live", self._live), Route("/-/ready", self._ready), Route("/-/metrics", self._metrics)]

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"ready": self.ready, **self._details()}, status_code=200 if self.ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class ShimMetrics:
    """Counters of the query shim."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.searches = Counter(
            "gram_searches", "Searches by what became of them", ["outcome", "reason"], registry=registry
        )
        self.commands = Counter(
            "gram_commands_needed",
            "Searches that stay lexical until somebody runs a command",
            ["command"],
            registry=registry,
        )
        self.queries = Counter(
            "gram_query_codes", "Query decodings: cached, joined or decoded", ["how"], registry=registry
        )
        self.wait = Histogram(
            "gram_query_codes_seconds",
            "Time that a search waited for its codes",
            registry=registry,
            buckets=DECODE_BUCKETS_S,
        )
        self.upstream = Histogram("gram_upstream_seconds", "Time until OpenSearch began to answer", registry=registry)
        self.breaker = Gauge("gram_breaker_open", "1 while the model is not asked", registry=registry)
        self.switched_off = Gauge("gram_switched_off", "1 while somebody made this a plain proxy", registry=registry)
        self.bundles = Counter(
            "gram_bundles", "New bundles while running: taken or refused", ["outcome"], registry=registry
        )

    def count(self, status: Status) -> None:
        """Counts one search by what became of it, and the command that it waits for, if any."""
        self.searches.labels(str(status.outcome), str(status.reason or "")).inc()
        if status.reason in NEXT_STEPS:
            self.commands.labels(NEXT_STEPS[status.reason]).inc()
