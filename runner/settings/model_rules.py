"""What ``model_list`` and ``routes`` must agree on. Pure; each rule yields problems."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.settings import catalog
from runner.settings.group import nearest
from runner.settings.problem import Problem, Where, shorten
from runner.settings.routes import BUILT_IN, canonical, chosen_roles
from runner.settings.tables import ModelEntry
from runner.settings.vendors import (
    KIMI_CODE,
    VENDORS,
    current_id,
    split_model,
    vendor_named,
)

if TYPE_CHECKING:
    from runner.settings.schema import Settings

# What the gateway itself writes into a request.
_OURS = frozenset({"model", "messages", "stream", "tools"})


def problems(settings: Settings) -> Iterator[Problem]:
    """Everything that must be corrected before a model can be called."""
    known = {entry.model_name for entry in settings.model_list} | set(settings.models)
    for index, entry in enumerate(settings.model_list):
        here: Where = ("model_list", index)
        if entry.enabled:
            yield from _credential(settings, entry, here)
            yield from _base(settings, entry, here)
        for name in entry.fallbacks:
            yield from _known(name, known, (*here, "fallbacks"))
        for key in sorted(_OURS & entry.extra_body.keys()):
            yield Problem(
                (*here, "extra_body"), f"holds {key}, which belongs to the request", "remove it"
            )
    yield from _routes(settings, known)
    for role, name in chosen_roles(settings.gateway.roles).items():
        yield from _known(name, known, ("gateway", "roles", role))


def warnings(settings: Settings) -> Iterator[str]:
    """Entries that ask for a model which is gone."""
    for index, entry in enumerate(settings.model_list):
        table = settings.providers.get(entry.provider)
        vendor, model = split_model(entry.model, "" if table else entry.provider)
        base = entry.api_base or (table.base_url if table else vendor.base if vendor else "")
        _, retired = current_id(vendor, model, base)
        if entry.enabled and retired is not None:
            yield f"model_list[{index}].model: {retired}"


def _credential(settings: Settings, entry: ModelEntry, here: Where) -> Iterator[Problem]:
    table = settings.providers.get(entry.provider)
    vendor, _ = split_model(entry.model, "" if table else entry.provider)
    keyed = bool(entry.api_key) or any(entry.api_keys)
    if entry.auth == "key":
        lent = table is not None and bool(table.api_key or table.oauth)
        free = vendor is not None and not vendor.needs_key
        if not keyed and not lent and not free:
            yield Problem(
                (*here, "api_key"), "is empty", 'write the key, "env:NAME" or "file:PATH"'
            )
        elif table is not None and table.oauth and not keyed:
            yield from _login_stays_home(entry, table.base_url, here)
        return
    if keyed:
        yield Problem(
            (*here, "api_key"), 'is set, and auth = "oauth" too: it is one or the other', "drop one"
        )
    if table is not None and table.oauth:
        yield from _login_stays_home(entry, table.base_url, here)
    elif table is not None or vendor is None or vendor.name != KIMI_CODE:
        yield Problem(
            (*here, "auth"),
            'is "oauth", but its provider has no login',
            'set provider to a [providers.NAME] with oauth, or write the model as "kimi-code/…"',
        )
    else:
        yield from _login_stays_home(entry, vendor.base, here)


def _login_stays_home(entry: ModelEntry, home: str, here: Where) -> Iterator[Problem]:
    if entry.api_base and catalog.host_of(entry.api_base) != catalog.host_of(home):
        yield Problem(
            (*here, "api_base"),
            f"is not at {catalog.host_of(home)}, and a login is sent nowhere else",
            "remove it, or use an api_key",
        )


def _base(settings: Settings, entry: ModelEntry, here: Where) -> Iterator[Problem]:
    table = settings.providers.get(entry.provider)
    if entry.provider and table is None and vendor_named(entry.provider) is None:
        yield Problem(
            (*here, "provider"),
            f'is "{shorten(entry.provider)}", which is no vendor and no [providers.NAME]',
            nearest(entry.provider, {*VENDORS, *settings.providers}, "[providers.NAME]"),
        )
        return
    vendor, model = split_model(entry.model, "" if table else entry.provider)
    base = entry.api_base or (table.base_url if table else vendor.base if vendor else "")
    if not base:
        first = model.partition("/")[0]
        near = difflib.get_close_matches(first.lower(), VENDORS, 1, 0.6)
        said = f'did you mean "{near[0]}/…"? Otherwise ' if near else ""
        yield Problem(
            (*here, "api_base"),
            f'is empty, and "{shorten(entry.model)}" names no vendor that is known',
            f"{said}write where the API is; known vendors are {', '.join(VENDORS)}",
        )
        return
    current, _ = current_id(vendor, model, base)
    if misfit := catalog.misfit_of_model(current, base):
        yield Problem((*here, "model"), misfit.text, misfit.fix)


def _routes(settings: Settings, known: set[str]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for route, table in settings.routes.items():
        name = canonical(route)
        if (first := seen.setdefault(name, route)) != route:
            yield Problem(
                ("routes", route), f'is the same route as "{first}"', "merge the two tables"
            )
        if not table.chain and name not in BUILT_IN:
            yield Problem(
                ("routes", route, "chain"),
                "is missing, and no built-in route has this name",
                f"add one, or use one of {', '.join(BUILT_IN)}",
            )
        for member in table.chain:
            yield from _known(member, known, ("routes", route, "chain"))


def _known(name: str, known: set[str], where: Where) -> Iterator[Problem]:
    if name in known or "/" in name:
        return
    yield Problem(
        where,
        f'names "{shorten(name)}", which no model_list entry defines',
        nearest(name, known, "[[model_list]]"),
    )
