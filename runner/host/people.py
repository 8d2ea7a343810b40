"""Who may talk to which agent: the allowlist of groups, and what each person is in a group.

``config.toml`` and the store both name roles. What the operator's file says of an owner or of a
blocked person holds whatever is stored; below that, a role given in the group comes first, then
the file's, then ``default_role``. See ``docs/people.md``.
"""

from __future__ import annotations

import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from runner.errors import ConflictError, NotFoundError, PermanentError
from runner.model import MAX_ID_CHARS, Role
from runner.settings.group import configured_role
from runner.settings.schema import Settings
from runner.store import Store, members
from runner.store.members import Standing

CACHED = 2_000
FRESH = 1.0
"""Seconds after which another host's changes are seen; our own are seen at once."""

_FIRM = (Role.OWNER, Role.BLOCKED)


def decide_role(person: str, configured: Role | None, stored: Role | None, default: Role) -> Role:
    """What somebody is in a group. Pure.

    A message of nobody (``person`` is empty) is at most an ordinary member's.
    """
    if not person:
        return default if Role.MEMBER.covers(default) else Role.MEMBER
    if configured in _FIRM:
        return configured
    return stored or configured or default


def is_allowed(group_id: str, patterns: Iterable[str], *, registered: bool) -> bool:
    """Is this group served? Without patterns every group is; a pattern is an id or a glob. Pure."""
    patterns = tuple(patterns)
    return (
        registered
        or not patterns
        or any(group_id == p or fnmatchcase(group_id, p) for p in patterns)
    )


def check_group_id(group_id: str) -> None:
    """Raises: PermanentError unless it has 1 to 256 characters and none that cannot be stored."""
    if not group_id or len(group_id) > MAX_ID_CHARS:
        raise PermanentError(
            f"a group id of {len(group_id)} characters",
            hint=f"use 1 to {MAX_ID_CHARS} characters",
            code="bad_group_id",
        )
    if "\0" in group_id or any("\ud800" <= c <= "\udfff" for c in group_id):
        raise PermanentError(
            "the group id holds a character that cannot be stored",
            hint="leave out NUL and lone surrogates",
            code="bad_group_id",
        )


def check_person_id(person: str) -> None:
    """Raises: PermanentError (``bad_member_id``) unless it can be told from every other one.

    Control and format characters (zero width, direction marks) and blanks around it are refused:
    no platform has them in its ids, and they make two people look like one.
    """
    check_member_id(person)
    wrong = ""
    if person != person.strip():
        wrong = "begins or ends with a blank"
    elif any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in person):
        wrong = "holds a character that cannot be seen"
    if wrong:
        raise PermanentError(
            f"a person's id {wrong}",
            hint="send the id that the chat platform has for the person, not the shown name",
            code="bad_member_id",
        )


def check_member_id(person: str) -> None:
    """What may be given a role: also a shown name, as it counts where no id is sent.

    Raises:
        PermanentError: ``bad_member_id``; it is empty, too long or cannot be stored.
    """
    unstorable = "\0" in person or any("\ud800" <= c <= "\udfff" for c in person)
    if unstorable or not 0 < len(person) <= MAX_ID_CHARS:
        raise PermanentError(
            f"a person's id of {len(person)} characters" + ", not all of them text" * unstorable,
            hint=f"use 1 to {MAX_ID_CHARS} characters, without NUL and lone surrogates",
            code="bad_member_id",
        )


class People:
    """The desk for roles and for who is let in; ``settings`` is asked for at each use."""

    def __init__(self, store: Store, settings: Callable[[], Settings]) -> None:
        self._store = store
        self._settings = settings
        self._seen: OrderedDict[tuple[str, str], tuple[float, Standing]] = OrderedDict()
        self._changes = 0

    async def admit(self, group_id: str, person: str, *, operator: bool = False) -> Role:
        """What the sender of a message is in this group. Writes nothing.

        Args:
            person: the sender's id, empty when nobody is named.
            operator: it comes from whoever runs this host, who owns every group.

        Raises:
            PermanentError: ``group_not_allowed`` or ``sender_blocked``.
            NotFoundError: the group does not exist, and ``[host] auto_create`` is off.
        """
        settings = self._settings()
        configured = configured_role(settings, group_id, person)
        if configured is Role.BLOCKED and not operator:
            raise _blocked(person)  # without a look at the store: a flood costs nothing
        standing = await self._standing(group_id, person)
        if not is_allowed(group_id, settings.host.allowed_groups, registered=standing.registered):
            raise PermanentError(
                f"the group {group_id!r} is not one of those that are served",
                hint="add it to [host] allowed_groups, or register it: PUT /api/groups/{id}",
                code="group_not_allowed",
            )
        if not settings.host.auto_create and not standing.known:
            raise NotFoundError(
                f"there is no group {group_id!r}",
                hint="make it with PUT /api/groups/{id}, or set auto_create = true",
            )
        if operator:
            return Role.OWNER
        role = decide_role(person, configured, standing.role, settings.people.default_role)
        if role is Role.BLOCKED:
            raise _blocked(person)
        return role

    async def roles(self, group_id: str) -> dict[str, tuple[Role, bool]]:
        """Everybody who is named for this group: the role that holds, and whether it is stored.

        Raises:
            NotFoundError: there is no such group.
        """
        stored = await self._store.read(lambda c: members.of_group(c, group_id))
        settings = self._settings()
        named = sorted({*stored, *settings.for_group(group_id).roles})
        found = {}
        for person in named:
            configured = configured_role(settings, group_id, person)
            given = stored.get(person)
            role = decide_role(person, configured, given, settings.people.default_role)
            found[person] = (role, given is not None and configured not in _FIRM)
        return found

    async def give_role(self, group_id: str, person: str, role: Role) -> None:
        """It holds from the next message on.

        Raises:
            NotFoundError: there is no such group.
            PermanentError: ``bad_member_id``.
            ConflictError: ``config.toml`` has the last word on this person, or there are too many.
        """
        check_member_id(person)
        configured = configured_role(self._settings(), group_id, person)
        if configured in _FIRM and configured is not role:
            raise ConflictError(
                f'config.toml says that {person!r} is "{configured}", and that holds',
                hint="change it in [people] roles or in the roles of the group",
                code="role_from_config",
            )
        await self._store.transact(lambda c: members.put(c, group_id, person, role))
        self.forget(group_id)

    async def take_role(self, group_id: str, person: str) -> None:
        """The general rules hold for this person again. Raises: NotFoundError."""
        await self._store.transact(lambda c: members.remove(c, group_id, person))
        self.forget(group_id)

    def may_manage(self, group_id: str, target: str) -> bool:
        """May what is said in ``group_id`` change ``target``? Itself, and if it is an admin group
        any other."""
        return group_id == target or self._settings().for_group(group_id).admin

    def check_may_manage(self, group_id: str, target: str) -> None:
        """For host tools and commands. Raises: PermanentError (``not_admin_group``)."""
        if not self.may_manage(group_id, target):
            raise PermanentError(
                f"{group_id!r} may not manage other groups",
                hint=f'the operator may set admin = true in [groups."{group_id}"]',
                code="not_admin_group",
            )

    def forget(self, group_id: str) -> None:
        """The group or its people have changed."""
        self._changes += 1
        for key in [k for k in self._seen if k[0] == group_id]:
            del self._seen[key]

    async def _standing(self, group_id: str, person: str) -> Standing:
        key, now = (group_id, person), time.monotonic()
        if (seen := self._seen.get(key)) is not None and now - seen[0] < FRESH:
            return seen[1]
        changes = self._changes
        found = await self._store.read(lambda c: members.standing(c, group_id, person))
        if changes == self._changes:  # else it may be older than the change
            self._seen[key] = (now, found)
            self._seen.move_to_end(key)
            while len(self._seen) > CACHED:
                self._seen.popitem(last=False)
        return found


def _blocked(person: str) -> PermanentError:
    who = repr(person) if person else "a sender without an id"
    return PermanentError(
        f"{who} may not talk to this agent",
        hint="an operator decides that: [people] in config.toml, or `nanokimi groups members`",
        code="sender_blocked",
    )
