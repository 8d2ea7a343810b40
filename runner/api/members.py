"""``/api/groups/{id}/members``: what people are in a group."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from runner.api.bodies import ErrorOut
from runner.api.member_bodies import MemberList, MemberOut, RoleIn
from runner.api.routes import GroupIn, HostIn

router = APIRouter(
    prefix="/api",
    responses={code: {"model": ErrorOut} for code in (401, 404, 409, 422, 503)},
    tags=["members"],
)


async def member_of(
    member: Annotated[str, Path(description="The person's `sender_id`, percent-encoded.")],
) -> str:
    """The person's id of the path. A ``%2F`` in it came through routing as NUL (see ``app``)."""
    return member.replace("\0", "/")


MemberIn = Annotated[str, Depends(member_of)]


@router.get("/groups/{id}/members")
async def list_members(host: HostIn, group: GroupIn) -> MemberList:
    """Everybody who has a role in this group by name."""
    found = await host.people.roles(group)
    return MemberList(
        members=[MemberOut.of(m, role, stored=stored) for m, (role, stored) in found.items()],
        default_role=str(host.settings.people.default_role),
    )


@router.put("/groups/{id}/members/{member}")
async def put_member(host: HostIn, group: GroupIn, member: MemberIn, body: RoleIn) -> MemberOut:
    """Give a person a role in this group, from their next message on.

    409 when config.toml says that the person is an owner or blocked: that holds.
    """
    await host.people.give_role(group, member, body.role)
    role, stored = (await host.people.roles(group))[member]
    return MemberOut.of(member, role, stored=stored)


@router.delete("/groups/{id}/members/{member}", status_code=204)
async def delete_member(host: HostIn, group: GroupIn, member: MemberIn) -> None:
    """Take the role away again; the general rules hold then."""
    await host.people.take_role(group, member)
