"""``nanokimi groups retry``, and the failed turns that ``groups show`` lists."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from runner.api.client import Api, group_path
from runner.api.turn_bodies import RetriedOut, TurnList, TurnOut
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.output import ago, out, plain, table
from runner.model import TurnState
from runner.store import Store
from runner.store.turn_desk import Turns

SHOWN = 10


def retry(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    turn: Annotated[
        str | None, typer.Argument(help="A failed turn; all of them without it.")
    ] = None,
) -> None:
    """Have the messages of failed turns answered after all."""
    context = context_of(ctx)
    count = run(lambda: _retry(context, group, turn))
    told = "1 message waits" if count == 1 else f"{count} messages wait"
    out.print(f"{told} for a new turn" if count else "no failed messages")


async def _retry(context: Context, group: str, turn: str | None) -> int:
    async with serving_api(context) as api:
        if api is not None:
            of_turn = f"/turns/{turn}" if turn else ""
            told = await api.call("POST", f"{group_path(group)}{of_turn}/retry")
            return len(RetriedOut.model_validate(told).message_ids)
    async with offline_store(context) as store:
        return len((await Turns(store).retry(group, turn)).message_ids)


async def failed_at(api: Api, group: str) -> list[TurnOut]:
    """The last failed turns, from a host that serves."""
    asked = {"state": str(TurnState.FAILED), "limit": SHOWN}
    told = await api.call("GET", f"{group_path(group)}/turns", params=asked)
    return TurnList.model_validate(told).turns


async def failed_in(store: Store, group: str) -> list[TurnOut]:
    """The last failed turns, from the store."""
    return [TurnOut.of(t) for t in await Turns(store).page(group, TurnState.FAILED, SHOWN)]


def failed_turns(failed: list[TurnOut]) -> Table:
    """For people."""
    shown = table("FAILED TURN", "WHEN", "ATTEMPTS", "WHY")
    for t in failed:
        error = t.error or {}
        why = f"{error.get('code', '')}: {error.get('message', '')}"[:100]
        shown.add_row(t.turn_id, ago(t.finished_at or t.started_at), str(t.attempt), plain(why))
    return shown
