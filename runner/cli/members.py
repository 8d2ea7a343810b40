"""``nanokimi groups members``: who is what in a group, and giving roles."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from runner.api.client import Api, group_path
from runner.api.member_bodies import MemberList, MemberOut
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.output import note, out, plain, show_json, table
from runner.errors import ConfigError
from runner.host.lock import host_lock
from runner.host.people import People
from runner.model import Role
from runner.settings.problem import shorten


def members(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    give: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="ID=ROLE", help="owner, admin, member or blocked."),
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="ID", help="Take a role away that --set gave."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Who is what in a group, and giving and taking roles.

    --set and --unset change it at once, also while a host serves.
    """
    context = context_of(ctx)
    gifts = [_gift(text) for text in give or ()]
    found = run(lambda: _members(context, group, gifts, take or []))
    if as_json:
        show_json(found.model_dump())
        return
    if found.members:
        shown = table("MEMBER", "ROLE", "GIVEN IN")
        for m in found.members:
            where = "config.toml" if m.given_in == "config" else "this group"
            shown.add_row(plain(shorten(m.member)), m.role, where)
        out.print(shown)
    note(f"everybody else: {found.default_role}")


def _gift(text: str) -> tuple[str, Role]:
    person, equals, role = text.rpartition("=")
    if not equals or not person:
        raise ConfigError(
            f"--set {shorten(text)}: that is not ID=ROLE",
            hint=f"for instance --set tg:4711=admin; roles are {', '.join(Role)}",
        )
    if role not in list(Role):
        raise ConfigError(
            f'--set {shorten(text)}: "{shorten(role, 40)}" is no role',
            hint=f"roles are {', '.join(Role)}",
        )
    return person, Role(role)


async def _members(
    context: Context, group: str, gifts: list[tuple[str, Role]], take: list[str]
) -> MemberList:
    async with serving_api(context) as api:
        if api is not None:
            return await _online(api, group, gifts, take)
    settings = context.settings()
    with host_lock(context.layout.host_lock):
        async with offline_store(context) as store:
            people = People(store, lambda: settings)
            for person, role in gifts:
                await people.give_role(group, person, role)
            for person in take:
                await people.take_role(group, person)
            found = await people.roles(group)
    return MemberList(
        members=[MemberOut.of(m, role, stored=stored) for m, (role, stored) in found.items()],
        default_role=str(settings.people.default_role),
    )


async def _online(
    api: Api, group: str, gifts: list[tuple[str, Role]], take: list[str]
) -> MemberList:
    path = f"{group_path(group)}/members"
    for person, role in gifts:
        await api.call("PUT", f"{path}/{_segment(person)}", json={"role": role})
    for person in take:
        await api.call("DELETE", f"{path}/{_segment(person)}")
    return MemberList.model_validate(await api.call("GET", path))


def _segment(person: str) -> str:
    encoded = quote(person, safe="")
    return encoded.replace(".", "%2E") if person in (".", "..") else encoded
