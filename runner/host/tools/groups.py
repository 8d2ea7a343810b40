"""``register_group`` and ``list_groups``: for groups that manage the others."""

from __future__ import annotations

from pydantic import Field

from runner.host.tools.tool import Arguments, Connection, Context, Effect, Tool
from runner.model import MAX_ID_CHARS
from runner.store import groups

MAX_LISTED = 500


class NewGroup(Arguments):
    group: str = Field(
        min_length=1, max_length=MAX_ID_CHARS, description="Id of the chat group, as its chat has."
    )


class Nothing(Arguments):
    pass


class RegisterGroup(Tool[NewGroup]):
    """A registered group is served also where only allowed groups are."""

    name = "register_group"
    description = "Have another chat group served from now on, with an agent of its own."
    arguments = NewGroup
    table = "register_group"
    admin = True

    async def call(self, context: Context, arguments: NewGroup) -> str:
        def work(c: Connection, event_id: int) -> Effect:
            del event_id  # the group's log begins with its first message
            groups.register(c, arguments.group)
            return Effect(f"the group {arguments.group!r} is registered")

        return await context.once(work)


class ListGroups(Tool[Nothing]):
    """Ids only: what is said in other groups stays there."""

    name = "list_groups"
    description = "List the ids of the chat groups that are served here."
    arguments = Nothing
    table = "register_group"
    admin = True
    looks = True

    async def call(self, context: Context, arguments: Nothing) -> str:
        found = await context.read(groups.find_all)
        lines = [
            f"{group.id!r}{' (registered)' if group.registered else ''}"
            for group in found[:MAX_LISTED]
        ]
        if len(found) > MAX_LISTED:
            lines.append(f"[and {len(found) - MAX_LISTED} more]")
        return "\n".join(lines)
