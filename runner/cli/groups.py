"""``nanokimi groups``: what there is, and stopping, forgetting, removing it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runner.api.client import group_path
from runner.cli.connection import connect
from runner.cli.context import Context, context_of, run
from runner.cli.output import ago, note, out, show_json, table

app = typer.Typer(help="Groups and their agents.", no_args_is_help=True)

GroupArgument = Annotated[str, typer.Argument(help="The group's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


@app.command("list")
def list_groups(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Every group, its sandbox, and what waits."""
    found = run(lambda: _call(context_of(ctx), "GET", "/api/groups"))["groups"]
    if as_json:
        show_json(found)
        return
    if not found:
        note("no groups yet: a group is made by its first message")
        return
    shown = table("GROUP", "SANDBOX", "WAITING", "SINCE", "FOLDER")
    for g in found:
        shown.add_row(
            g["group"], g["sandbox"], str(g["waiting"]), ago(g["created_at"]), g["folder"]
        )
    out.print(shown)


@app.command("show")
def show(ctx: typer.Context, group: GroupArgument, as_json: JsonOption = False) -> None:
    """One group with its last messages."""
    context = context_of(ctx)

    async def read() -> tuple[Any, Any]:
        async with connect(context) as api:
            return (
                await api.call("GET", group_path(group)),
                await api.call("GET", f"{group_path(group)}/messages", params={"limit": 1000}),
            )

    found, history = run(read)
    if as_json:
        show_json({**found, "messages": history["messages"]})
        return
    facts = table("", "")
    facts.show_header = False
    for name in ("group", "folder", "session_id", "sandbox", "running_turn", "waiting"):
        facts.add_row(f"[bold]{name}[/]", str(found[name] if found[name] is not None else "-"))
    out.print(facts)
    messages = table("WHEN", "SENDER", "STATE", "TEXT")
    for m in history["messages"][-10:]:
        text = m["text"].replace("\n", " ")
        messages.add_row(
            ago(m["created_at"]),
            m["sender"] or "-",
            m["state"],
            (text[:80] + "…" if len(text) > 80 else text).replace("[", "\\["),
        )
    if history["messages"]:
        out.print()
        out.print(messages)


@app.command("stop")
def stop(ctx: typer.Context, group: GroupArgument) -> None:
    """End the group's sandbox; its memory stays."""
    done = run(lambda: _call(context_of(ctx), "POST", f"{group_path(group)}/stop"))
    out.print("stopped" if done["stopped"] else "it had no sandbox")


@app.command("reset")
def reset(ctx: typer.Context, group: GroupArgument) -> None:
    """Forget the group's conversation; its files stay."""
    run(lambda: _call(context_of(ctx), "POST", f"{group_path(group)}/reset"))
    out.print("forgotten: the next message begins a new conversation")


@app.command("rm")
def remove(
    ctx: typer.Context,
    group: GroupArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a group with its messages, memory and files."""
    if not yes:
        typer.confirm(f"Remove {group!r} with all its files?", abort=True)
    run(lambda: _call(context_of(ctx), "DELETE", group_path(group)))
    out.print("removed")


async def _call(context: Context, method: str, path: str) -> Any:
    async with connect(context) as api:
        return await api.call(method, path)
