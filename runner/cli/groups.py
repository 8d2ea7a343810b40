"""``nanokimi groups``: what there is, and stopping, forgetting, removing it."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

import typer

from runner.api.bodies import GroupList, GroupOut, MessageOut, MessagePage
from runner.api.client import group_path
from runner.api.turn_bodies import TurnList, TurnOut
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.deliveries import deliveries, rejected_of, table_of
from runner.cli.group_settings import set_settings
from runner.cli.members import members
from runner.cli.output import ago, note, out, plain, show_json, table
from runner.cli.retry import failed_at, failed_in, failed_turns, retry
from runner.cli.wide import show_wide
from runner.errors import ENGINE_SILENT, ImageMissingError, LoginRequiredError
from runner.host.lock import host_lock, serving
from runner.host.shelf import remove_shelves
from runner.model import DeliveryState, Group, TurnState
from runner.sandbox.volume import remove_volume
from runner.store import Store
from runner.store.deliveries import Deliveries
from runner.store.turn_desk import Turns

app = typer.Typer(help="Groups and their agents.", no_args_is_help=True)
app.command("members")(members)
app.command("set")(set_settings)
app.command("retry")(retry)
app.command("deliveries")(deliveries)

GroupArgument = Annotated[str, typer.Argument(help="The group's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


@app.command("list")
def list_groups(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Every group, its sandbox, and what waits."""
    context = context_of(ctx)
    found = run(lambda: _list(context))
    if as_json:
        show_json([g.model_dump() for g in found])
        return
    if not found:
        note("no groups yet: a group is made by its first message")
        return
    shown = table("GROUP", "SANDBOX", "WAITING", "FAILED", "REJECTED", "SINCE")
    for g in found:
        counted = str(g.waiting), str(g.failed), str(g.rejected)
        state = "held" if g.held else g.sandbox
        shown.add_row(plain(g.group), state, *counted, ago(g.created_at))
    show_wide(shown)
    if any(g.held or g.failed or g.rejected for g in found):
        note("`nanokimi groups show GROUP` says what is held, failed or rejected, and what helps")
    if any(g.waiting or g.running_turn for g in found):
        _note_that_none_serves(context)


@app.command("show")
def show(ctx: typer.Context, group: GroupArgument, as_json: JsonOption = False) -> None:
    """One group with its last messages."""
    context = context_of(ctx)
    found, messages, failed, answered = run(lambda: _show(context, group))
    rejected = run(lambda: rejected_of(context, group))
    if as_json:
        told = {
            "messages": [m.model_dump() for m in messages],
            "failed_turns": [t.model_dump() for t in failed],
            "rejected_deliveries": [d.model_dump() for d in rejected],
        }
        show_json(found.model_dump() | told)
        return
    facts = table("", "")
    facts.show_header = False
    names = ("group", "folder", "session_id", "sandbox", "model", "running_turn", "waiting")
    if found.owner:
        facts.add_row("[bold]host[/]", plain(found.owner))
    for name in names:
        facts.add_row(f"[bold]{name}[/]", plain(_shown(getattr(found, name))))
    if found.held:
        facts.add_row("[bold]held[/]", plain(held_as_told(found)))
    out.print(facts)
    if found.waiting or found.running_turn:
        _note_that_none_serves(context)
    if messages:
        shown = table("WHEN", "SENDER", "STATE", "TEXT")
        for m in messages[-10:]:
            text = m.text.replace("\n", " ")
            text = text[:80] + "…" if len(text) > 80 else text
            shown.add_row(ago(m.created_at), plain(m.sender or "-"), m.state, plain(text))
        out.print()
        out.print(shown)
    for turn in answered:
        if turn.text.strip():
            out.print(f"\n[bold]last answer[/], {ago(turn.finished_at or turn.started_at)}:")
            out.print(plain(_beginning(turn.text)))
    if found.failed:
        out.print()
        show_wide(failed_turns(failed), names=0)
        word = shlex.quote(group)
        note(f"`nanokimi groups retry {word} [TURN]` has their messages answered after all")
    if rejected:
        out.print()
        show_wide(table_of(rejected[-10:]), names=0)
        word = shlex.quote(group)
        note(f"`nanokimi groups deliveries {word} --retry DELIVERY` has one sent again")


@app.command("stop")
def stop(ctx: typer.Context, group: GroupArgument) -> None:
    """End the group's sandbox; its memory stays."""
    context = context_of(ctx)
    done = run(lambda: _change(context, group, "stop"))
    out.print("stopped" if done else "it had no sandbox")


@app.command("reset")
def reset(ctx: typer.Context, group: GroupArgument) -> None:
    """Forget the group's conversation; its files stay."""
    context = context_of(ctx)
    run(lambda: _change(context, group, "reset"))
    out.print("forgotten: the next message begins a new conversation")


@app.command("rm")
def remove(
    ctx: typer.Context,
    group: GroupArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a group with its messages, memory and files."""
    context = context_of(ctx)
    if not yes:
        typer.confirm(f"Remove {group!r} with all its files?", abort=True)
    run(lambda: _change(context, group, "rm"))
    out.print("removed")


# Where a host serves, it is asked; where none does, the store is read, and nothing is started.


async def _list(context: Context) -> list[GroupOut]:
    async with serving_api(context) as api:
        if api is not None:
            return GroupList.model_validate(await api.call("GET", "/api/groups")).groups
    async with offline_store(context) as store:
        return [await _offline(context, store, g) for g in await store.groups()]


async def _show(
    context: Context, group: str
) -> tuple[GroupOut, list[MessageOut], list[TurnOut], list[TurnOut]]:
    """The group, its messages, its failed turns, and the last one that was answered."""
    async with serving_api(context) as api:
        if api is not None:
            path, page = group_path(group), {"limit": 1000}
            found = GroupOut.model_validate(await api.call("GET", path))
            told = await api.call("GET", f"{path}/messages", params=page)
            messages = MessagePage.model_validate(told).messages
            last = await api.call("GET", f"{path}/turns", params={"state": "done", "limit": 1})
            answered = TurnList.model_validate(last).turns
            return found, messages, await failed_at(api, group), answered
    async with offline_store(context) as store:
        found = await _offline(context, store, await store.group(group))
        messages = [MessageOut.of(m) for m in await store.messages(group, limit=1000)]
        done = await Turns(store).page(group, TurnState.DONE, 1)
        return found, messages, await failed_in(store, group), [TurnOut.of(t) for t in done]


async def _change(context: Context, group: str, what: Literal["stop", "reset", "rm"]) -> bool:
    """False only for ``stop`` when there was no sandbox."""
    async with serving_api(context) as api:
        if api is not None:
            if what == "rm":
                await api.call("DELETE", group_path(group))
                return True
            told = await api.call("POST", f"{group_path(group)}/{what}")
            return what == "reset" or bool(told["stopped"])
    with host_lock(context.layout.host_lock):
        async with offline_store(context) as store:
            known = await store.group(group)
            if what == "reset":
                await store.reset_group(group)
            elif what == "rm":
                await store.delete_group(group)
                remove_volume(context.layout, known.folder)
                remove_shelves(context.layout, known.folder)
            return what != "stop"


async def _offline(context: Context, store: Store, group: Group) -> GroupOut:
    turns = Turns(store)
    known = context.layout.host_id
    ours = known.read_text().strip() if known.exists() else ""
    unfinished = await turns.page(group.id, TurnState.RUNNING, 1)
    return GroupOut.of(
        group,
        "none",
        unfinished[0] if unfinished else None,
        await store.count_waiting(group.id),
        owner="" if group.owner == ours else group.owner,
        failed=await turns.count_dead(group.id),
        rejected=(await Deliveries(store).counts(group.id))[DeliveryState.REJECTED],
    )


def held_as_told(group: GroupOut) -> str:
    """What a group waits for, and what helps."""
    if not group.held:
        return "no"
    if group.held_for == LoginRequiredError.code:
        return "until there is a login: run `nanokimi login`"
    if group.held_for == ImageMissingError.code:
        return "until the agent's image is there: run `nanokimi build`"
    if group.held_for == ENGINE_SILENT:
        return "until the sandbox engine answers again: see `nanokimi doctor`"
    return f"until the model answers again ({group.held_for}): see `nanokimi doctor`"


def _note_that_none_serves(context: Context) -> None:
    if serving(context.layout.host_lock) is None:
        note("no host serves this: it is answered once `nanokimi serve` runs")


def _beginning(text: str) -> str:
    """The first two lines, as far as they fit."""
    lines = [line for line in text.splitlines() if line.strip()]
    shown = [line[:160] + "…" if len(line) > 160 else line for line in lines[:2]]
    return "\n".join(shown) + ("\n…" if len(lines) > 2 else "")


def _shown(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
