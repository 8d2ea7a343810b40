"""``GET /metrics``: how the host stands, in the text format of Prometheus.

Everything is looked up when it is asked for; only the ends of turns and the calls to models are
counted as they happen.
No label holds a group's id: there is no bound to how many groups there are.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from runner.api.call_metrics import CallMetrics
from runner.errors import NanokimiError
from runner.host.app import Host
from runner.host.events import TURN_FINISHED, ends_turn
from runner.model import DeliveryState, Event, SandboxState, TurnState
from runner.oauth.status import LoginState
from runner.settings.tables import Provider

_STATUSES = (TurnState.DONE, TurnState.FAILED, TurnState.CANCELLED)


@dataclass(frozen=True, slots=True)
class _Login:
    """``expires_in`` in seconds; ``None`` for an API key, or when there is no login."""

    ok: bool
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """The host at one moment. ``unanswered`` is ``None`` when the store does not answer."""

    logins: dict[str, _Login]
    running: int
    held: int
    sandboxes: Counter[SandboxState]
    unanswered: int | None
    deliveries: dict[DeliveryState, int]
    unwritten: int


class Metrics:
    """The metrics of one host, in a registry of its own."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ended: Counter[str] = Counter()
        host.events.observe(self._count)
        self._calls = CallMetrics(lambda: host.models.gateway.parts.router)
        host.models.observe(self._calls.count)

    async def endpoint(self) -> Response:
        """Logins, turns, sandboxes, queues and calls to models, for Prometheus."""
        registry = CollectorRegistry()
        registry.register(_Snapshot(await self._look(), self._ended))
        text = generate_latest(registry) + self._calls.text()
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    def _count(self, event: Event) -> None:
        if not ends_turn(event):
            return
        failed = str(TurnState.FAILED)
        status = event.data.get("status", failed) if event.kind == TURN_FINISHED else failed
        self._ended[str(status)] += 1

    async def _look(self) -> _Seen:
        host = self._host
        try:
            unanswered = await host.store.count_unanswered()
            deliveries = await host.deliveries.counts()
        except NanokimiError:
            unanswered, deliveries = None, {}
        return _Seen(
            logins={name: self._login(p) for name, p in host.settings.providers.items()},
            running=host.working_count(),
            held=host.held_count(),
            sandboxes=Counter(session.state for session in host.pool.warm().values()),
            unanswered=unanswered,
            deliveries=deliveries,
            unwritten=host.events.unwritten,
        )

    def _login(self, provider: Provider) -> _Login:
        try:
            if provider.oauth is None:
                return _Login(ok=bool(provider.api_key.reveal()))
            status = self._host.credentials.login(provider.oauth).status()
        except NanokimiError:
            return _Login(ok=False)
        ok = status.state in (LoginState.OK, LoginState.EXPIRING)
        return _Login(ok, None if status.expires_at is None else status.expires_at - time.time())


class _Snapshot(Collector):
    """What was seen, as metrics."""

    def __init__(self, seen: _Seen, ended: Counter[str]) -> None:
        self._seen = seen
        self._ended = ended

    def collect(self) -> Iterator[Metric]:
        yield from self._logins()
        turns = CounterMetricFamily("nanokimi_turns", "Turns that have ended.", labels=["status"])
        for status in _STATUSES:
            turns.add_metric([status], self._ended[status])
        yield turns
        boxes = GaugeMetricFamily(
            "nanokimi_sandboxes", "Sandboxes that are there now.", labels=["state"]
        )
        for state in SandboxState:
            if state is not SandboxState.GONE:
                boxes.add_metric([state], self._seen.sandboxes[state])
        yield boxes
        yield _gauge("turns_running", "Turns that run now.", self._seen.running)
        yield _gauge(
            "groups_held",
            "Groups whose messages are held, for a login or for what else is away.",
            self._seen.held,
        )
        if self._seen.unanswered is not None:
            said = "Messages that ask for an answer and do not have it yet."
            yield _gauge("messages_waiting", said, self._seen.unanswered)
        deliveries = GaugeMetricFamily(
            "nanokimi_deliveries", "Deliveries that have not arrived.", labels=["state"]
        )
        for at, count in self._seen.deliveries.items():
            deliveries.add_metric([at], count)
        yield deliveries
        said = "Events that were shown and are not on disk yet."
        yield _gauge("events_unwritten", said, self._seen.unwritten)

    def _logins(self) -> Iterator[Metric]:
        ok = GaugeMetricFamily(
            "nanokimi_login_ok", "1 when the login or key can be used.", labels=["provider"]
        )
        left = GaugeMetricFamily(
            "nanokimi_login_expires_seconds",
            "Seconds until the access token ends; it is renewed before.",
            labels=["provider"],
        )
        for name, login in self._seen.logins.items():
            ok.add_metric([name], float(login.ok))
            if login.expires_in is not None:
                left.add_metric([name], login.expires_in)
        yield ok
        yield left


def _gauge(name: str, said: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"nanokimi_{name}", said, value=value)
