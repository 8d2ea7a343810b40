"""From the name that a client asks for to the candidates, in the order to try them. Pure.

A name is a ``model_name`` or an alias, ``vendor/model`` in any spelling, or ``route:NAME``. Who
rests is not decided here but at the moment of asking, by ``calls``: it changes between tries.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from runner.gateway.failure import GatewayFailure
from runner.gateway.targets import Pool, Target, Targets, build_targets
from runner.settings import routes
from runner.settings.schema import Settings
from runner.settings.tables import Route as RouteTable
from runner.settings.vendors import VENDORS, Vendor, current_id, split_model

MAX_CANDIDATES = 64
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Route:
    """What a route asks of its models; ``chain`` in order. ``rollout`` is percent of the groups."""

    name: str
    chain: tuple[str, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    prompt: str = ""
    rollout: int = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """``level`` 0 is the model that was asked for; above it are fallbacks."""

    target: Target
    level: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is tried for a call, in order; never empty."""

    asked: str
    candidates: tuple[Candidate, ...]
    route: Route | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Router:
    """The routing table of some settings. Make it with :func:`build_router`."""

    targets: Targets
    routes: Mapping[str, Route]
    otherwise: Route
    by_id: Mapping[tuple[str, str], Pool] = field(repr=False)
    folded: Mapping[str, str] = field(repr=False)

    @property
    def names(self) -> list[str]:
        """What a client may ask for: pools, then routes."""
        return [*self.targets.pools, *(f"{routes.PREFIX}{name}" for name in self.routes)]

    def resolve(
        self, name: str, *, session: str = "", group: str = "", turn: int = 0
    ) -> Plan | GatewayFailure:
        """The plan for a call, or the 404 that names near ones.

        Args:
            session: what stays with one credential, see :func:`session_of`.
            group: decides the side of a rollout.
            turn: counts calls without a session, which take turns.
        """
        if name.lower().startswith(routes.PREFIX):
            return self._resolve_route(name, session=session, group=group, turn=turn)
        found = self._pool(name)
        if found is None:
            return self._unknown(name)
        pool, warnings = found
        levels = [pool, *self._pools(pool.fallbacks)]
        return Plan(name, _candidates(levels, session, turn), warnings=warnings)

    def _resolve_route(
        self, asked: str, *, session: str, group: str, turn: int
    ) -> Plan | GatewayFailure:
        name = routes.canonical(asked[len(routes.PREFIX) :])
        route = self.routes.get(name)
        warnings: tuple[str, ...] = ()
        if route is None:
            route = replace(self.otherwise, name=name[:_SHOWN])
            warnings = (f'there is no route "{name[:_SHOWN]}": {" then ".join(route.chain)}',)
        levels = list(self._pools(route.chain))
        if not in_rollout(group, route.rollout):
            levels.sort(key=_is_kimi)
        if not levels:
            tried = ", ".join(route.chain)
            text = f"no model of the route {route.name} is configured: {tried}"
            return GatewayFailure(503, "no_model", text)
        return Plan(asked, _candidates(levels, session, turn), route, warnings)

    def _pools(self, names: Iterable[str]) -> Iterator[Pool]:
        for name in names:
            if (found := self._pool(name)) is not None:
                yield found[0]

    def _pool(self, name: str) -> tuple[Pool, tuple[str, ...]] | None:
        """The pool of a name, and what is to say about the name."""
        pools = self.targets.pools
        if (pool := pools.get(name) or pools.get(self.folded.get(name.casefold(), ""))) is not None:
            return pool, ()
        if name in self.targets.disabled:
            return None
        vendor, model = split_model(name)
        for possible in [vendor] if vendor else VENDORS.values():
            current, retired = current_id(possible, model, possible.base)
            warnings = (str(retired),) if retired else ()
            if (pool := self.by_id.get((possible.name, current))) is not None:
                return pool, warnings
        if vendor is not None and (made := self._of_vendor(vendor, name, model)) is not None:
            return made
        own = self.by_id.get(("", name))
        return (own, ()) if own is not None else None

    def _of_vendor(
        self, vendor: Vendor, name: str, model: str
    ) -> tuple[Pool, tuple[str, ...]] | None:
        """Any model of a vendor that some entry has a key for, called in that entry's way."""
        current, retired = current_id(vendor, model, vendor.base)
        like = [t for t in self.targets.all if t.vendor == vendor.name]
        made: dict[tuple[str, str], Target] = {}
        for target in like:
            made.setdefault(
                (target.base_url, target.credential.fingerprint),
                replace(target, name=name, model=current, context=0),
            )
        if not made:
            return None
        return Pool(name, tuple(made.values())), (str(retired),) if retired else ()

    def _unknown(self, name: str) -> GatewayFailure:
        shown = name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…"
        if name in self.targets.disabled:  # why is for the operator, see Targets
            text = f'the model "{shown}" is configured, but it is off or has no key'
            return GatewayFailure(404, "model_not_found", text)
        near = difflib.get_close_matches(shown.casefold(), self.folded, 3, 0.5)
        names = [self.folded[n] for n in near] or self.names[:10]
        said = ("did you mean " if near else "there are ") + ", ".join(f'"{n}"' for n in names)
        return GatewayFailure(404, "model_not_found", f'there is no model "{shown}"; {said}')


def build_router(settings: Settings, environ: Mapping[str, str] = os.environ) -> Router:
    """The routing table of these settings. Build it anew when they, or a key, change."""
    targets = build_targets(settings, environ)
    tables = {routes.canonical(name): table for name, table in settings.routes.items()}
    by_id: dict[tuple[str, str], list[Target]] = {}
    fallbacks: dict[tuple[str, str], list[str]] = {}
    for pool in targets.pools.values():
        for target in pool.targets:
            same = by_id.setdefault((target.vendor, target.model), [])
            if all(t.key != target.key for t in same):
                same.append(target)
            fallbacks.setdefault((target.vendor, target.model), []).extend(pool.fallbacks)
    named = {
        n: _route(n, tables.get(n), settings) for n in dict.fromkeys((*routes.BUILT_IN, *tables))
    }
    return Router(
        targets,
        named,
        _route("", None, settings),
        {
            at: Pool("/".join(filter(None, at)), tuple(same), tuple(dict.fromkeys(fallbacks[at])))
            for at, same in by_id.items()
        },
        {name.casefold(): name for name in targets.pools},
    )


def _route(name: str, table: RouteTable | None, settings: Settings) -> Route:
    built_in = routes.BUILT_IN.get(name, routes.ANY_OTHER)
    own = table or RouteTable()
    # The fallback role is the last resort, also where it is no part of the chain.
    usual = routes.role_chain(
        (*built_in.roles, "fallback"), settings.gateway, settings.default_model
    )
    return Route(
        name,
        own.chain or usual,
        built_in.temperature if own.temperature is None else own.temperature,
        own.max_tokens,
        built_in.prompt if own.prompt is None else own.prompt,
        settings.gateway.rollout if own.rollout is None else own.rollout,
    )


def in_rollout(group: str, percent: int) -> bool:
    """Whether a group is among the first ``percent``; a higher percentage only adds groups."""
    digest = hashlib.blake2b(group.encode(errors="surrogatepass"), digest_size=8, key=b"rollout")
    return int.from_bytes(digest.digest()) % 10_000 < percent * 100


def _is_kimi(pool: Pool) -> bool:
    return any(target.is_kimi for target in pool.targets)


def _candidates(pools: Iterable[Pool], session: str, turn: int) -> tuple[Candidate, ...]:
    found: dict[object, Candidate] = {}
    for level, pool in enumerate(pools):
        for target in balanced(pool.targets, session, turn):
            found.setdefault(target.key, Candidate(target, level))
    return tuple(found.values())[:MAX_CANDIDATES]


def balanced(targets: tuple[Target, ...], session: str, turn: int = 0) -> tuple[Target, ...]:
    """The targets of a pool in the order for one session: rendezvous hashing.

    A session keeps its order when targets come or go, but for those themselves. Without a session,
    calls take turns.
    """
    if len(targets) < 2:
        return targets
    if not session:
        start = turn % len(targets)
        return targets[start:] + targets[:start]

    def score(target: Target) -> bytes:
        text = f"{session}\n{target.key.text}".encode(errors="surrogatepass")
        return hashlib.blake2b(text, digest_size=8).digest()

    return tuple(sorted(targets, key=score))
