"""``nanokimi groups deliveries``: what has not reached a group's bot, and trying again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table

from runner.api.client import group_path
from runner.api.delivery_bodies import DeliveryOut, DeliveryPage
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.output import ago, note, plain, show_json, table
from runner.cli.wide import show_wide
from runner.model import DeliveryState
from runner.store.deliveries import COUNTED, Deliveries

SHOWN = 1000


def deliveries(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    state: Annotated[
        DeliveryState | None, typer.Option("--state", help="Those in this state instead.")
    ] = None,
    retry: Annotated[
        list[str] | None, typer.Option("--retry", metavar="ID", help="Try a rejected one again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Answers that have not reached the group's webhook.

    In the order of sending; one that was given up is tried again with --retry.
    """
    context = context_of(ctx)
    states = COUNTED if state is None else (state,)
    found = run(lambda: _deliveries(context, group, states, retry or []))
    if as_json:
        show_json([d.model_dump() for d in found])
        return
    if not found:
        note("there is none" if state else "everything has arrived")
        return
    show_wide(table_of(found), names=0)


async def rejected_of(context: Context, group: str) -> list[DeliveryOut]:
    """Those that could not be delivered."""
    return await _deliveries(context, group, (DeliveryState.REJECTED,), [])


def table_of(found: list[DeliveryOut]) -> Table:
    """For the terminal."""
    shown = table("DELIVERY", "WHEN", "KIND", "STATE", "TRIES", "TO", "ERROR")
    for d in found:
        error = "" if d.state == DeliveryState.DELIVERED else d.error
        when, tries = ago(d.created_at), str(d.attempts)
        shown.add_row(d.delivery_id, when, d.kind, d.state, tries, plain(d.target), plain(error))
    return shown


async def _deliveries(
    context: Context, group: str, states: Sequence[DeliveryState], retry: list[str]
) -> list[DeliveryOut]:
    found: list[DeliveryOut] = []
    async with serving_api(context) as api:
        if api is not None:
            path = f"{group_path(group)}/deliveries"
            for id_ in retry:
                await api.call("POST", f"{path}/{quote(id_, safe='')}/retry")
            for state in states:
                page = await api.call("GET", path, params={"state": str(state), "limit": SHOWN})
                found += DeliveryPage.model_validate(page).deliveries
            return sorted(found, key=lambda d: d.seq)
    async with offline_store(context) as store:
        rows = Deliveries(store)
        for id_ in retry:
            await rows.retry(group, id_)
        for state in states:
            page = await rows.page(group, state, limit=SHOWN)
            found += [DeliveryOut.of(d) for d in page]
    return sorted(found, key=lambda d: d.seq)
