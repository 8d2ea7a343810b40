"""Calls to models as Prometheus metrics, for the host and for the gateway alone.

Fed with each call as it is booked. Several workers of one gateway count in files that they share
(the multiprocess mode of the client library), so that each of them can answer for all; one that is
started again counts on where it ended.
https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request
from starlette.responses import Response

from runner.calls import NANO, Call, Outcome, Tokens
from runner.gateway.routing import Router

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
OTHER = "other"
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

_LABELS = ("provider", "model")


def share_counts(worker: int) -> None:
    """Count together with the other workers; before any :class:`CallMetrics` is made.

    The environment names the directory, see ``DIRECTORY``. Files are by worker and not by process,
    so that restarts do not make more and more of them.
    """
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]  # untyped upstream


class CallMetrics:
    """The calls of one gateway, in a registry of its own.

    Args:
        router: gives the routing table of the moment. Providers and models that are not in it, for
            instance names that clients made up, are counted as ``other``.
    """

    def __init__(self, router: Callable[[], Router]) -> None:
        self._router = router
        self._known_of: Router | None = None
        self._known: frozenset[tuple[str, str]] = frozenset()
        self._registry = registry = CollectorRegistry()
        self._calls = Counter(
            "nanokimi_model_calls",
            "Calls that have ended.",
            (*_LABELS, "outcome"),
            registry=registry,
        )
        self._tokens = Counter(
            "nanokimi_model_tokens",
            "Tokens as the provider reported them; reasoning is a part of output.",
            (*_LABELS, "kind"),
            registry=registry,
        )
        self._cost = Counter(
            "nanokimi_model_cost_dollars",
            "Cost of the calls whose cost is known.",
            _LABELS,
            registry=registry,
        )
        self._unpriced = Counter(
            "nanokimi_model_calls_unpriced",
            "Calls with an answer whose cost is not known.",
            _LABELS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "nanokimi_model_first_byte_seconds",
            "From the request to the first byte of its answer.",
            _LABELS,
            registry=registry,
            buckets=BUCKETS,
        )

    def count(self, call: Call) -> None:
        """Take a call that has ended; some microseconds."""
        names = self._names(call)
        self._calls.labels(*names, call.outcome.value).inc()
        for kind, number in _by_kind(call.tokens).items():
            if number:
                self._tokens.labels(*names, kind).inc(number)
        if call.first_byte_ms is not None:
            self._first_byte.labels(*names).observe(call.first_byte_ms / 1000)
        if call.cost is not None:
            self._cost.labels(*names).inc(call.cost / NANO)
        elif call.outcome is Outcome.OK or call.first_byte_ms is not None:
            self._unpriced.labels(*names).inc()

    def text(self) -> bytes:
        """What was counted, by all workers, in the text format."""
        registry = self._registry
        if DIRECTORY in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped upstream
        return generate_latest(registry)

    async def endpoint(self, _request: Request) -> Response:
        """``GET /metrics`` of a gateway without a host."""
        return Response(self.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    def _names(self, call: Call) -> tuple[str, str]:
        router = self._router()
        if router is not self._known_of:
            self._known_of = router
            self._known = frozenset((t.provider, t.model) for t in router.targets.all)
        names = (call.provider, call.model)
        return names if names in self._known else (OTHER, OTHER)


def _by_kind(tokens: Tokens) -> Mapping[str, int | None]:
    return {
        "input": tokens.input,
        "cached": tokens.cached,
        "cache_write": tokens.cache_write,
        "output": tokens.output,
        "reasoning": tokens.reasoning,
    }
