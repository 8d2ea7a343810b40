"""The settings of one group: its own where it has some, else the general ones. Pure."""

from __future__ import annotations

import difflib
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import ConfigError
from runner.model import MAX_ID_CHARS, ExtraMount, Limits, Role
from runner.settings.problem import Problem, Where, dotted, shorten
from runner.settings.tables import GroupTable, Model, Network, Provider

if TYPE_CHECKING:  # the schema offers this file's work as a method
    from runner.settings.schema import Settings


_NOTHING = GroupTable()


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Everything that is decided for one group.

    ``trigger`` empty answers everything. ``alias`` is the name in ``[models.*]``, ``model.model``
    the upstream id. ``engine`` is the command of an ACP agent, empty for the native one. ``disk``
    is what workspace and sessions may take, in bytes. ``tools`` are the host tools that are
    switched on; ``roles`` are the group's own and everywhere's.
    """

    group: str
    trigger: str
    alias: str
    model: Model
    provider_name: str
    provider: Provider
    engine: tuple[str, ...]
    network: Network
    admin: bool
    limits: Limits
    disk: int
    extra_mounts: tuple[ExtraMount, ...]
    roles: Mapping[str, Role]
    default_role: Role
    tools: frozenset[str]
    webhook: str
    max_chars: int


def for_group(settings: Settings, group_id: str, chosen: str = "") -> GroupSettings:
    """See :meth:`runner.settings.schema.Settings.for_group`."""
    if not 0 < len(group_id) <= MAX_ID_CHARS:
        raise ConfigError(
            f"a group id of {len(group_id)} characters",
            hint=f"use an id of 1 to {MAX_ID_CHARS} characters",
        )
    own = settings.groups.get(group_id, _NOTHING)
    alias = settings.default_model if own.model is None else own.model
    if chosen and chosen in models_for(settings, group_id):
        alias = chosen
    model = settings.models.get(alias)
    if model is None:
        problem = unknown_alias(settings.models, ("groups", group_id, "model"), alias)
        raise ConfigError(f"{dotted(problem.where)} {problem.text}", hint=problem.fix)
    provider = settings.providers.get(model.provider)
    if provider is None:
        raise ConfigError(
            f'models."{alias}".provider is "{model.provider}", which is not there',
            hint="add the provider's table",
        )
    sandbox, limits = settings.sandbox, own.limits
    return GroupSettings(
        group=group_id,
        trigger=settings.host.trigger if own.trigger is None else own.trigger,
        alias=alias,
        model=model,
        provider_name=model.provider,
        provider=provider,
        engine=settings.agent.engine if own.engine is None else own.engine,
        network=own.network or sandbox.network,
        admin=own.admin,
        limits=Limits(
            memory=sandbox.memory if limits.memory is None else limits.memory,
            cpus=sandbox.cpus if limits.cpus is None else limits.cpus,
            pids=sandbox.pids if limits.pids is None else limits.pids,
        ),
        disk=sandbox.disk if limits.disk is None else limits.disk,
        extra_mounts=tuple(ExtraMount(m.name, m.source, m.mode == "ro") for m in own.mounts),
        roles=ChainMap(own.roles, settings.people.roles),
        default_role=settings.people.default_role,
        tools=frozenset(name for name, tool in settings.tools if own.tools.get(name, tool.enabled)),
        webhook=settings.delivery.webhook if own.webhook is None else own.webhook,
        max_chars=settings.delivery.max_chars if own.max_chars is None else own.max_chars,
    )


def models_for(settings: Settings, group_id: str) -> list[str]:
    """Aliases that may answer in this group: an open sandbox calls no Anthropic API. Pure."""
    own = settings.groups.get(group_id, _NOTHING)
    is_open = (own.network or settings.sandbox.network) == "open"
    return sorted(
        alias
        for alias, model in settings.models.items()
        if (provider := settings.providers.get(model.provider)) is not None
        and not (is_open and provider.type == "anthropic")
    )


def configured_role(settings: Settings, group_id: str, person: str) -> Role | None:
    """What the config says of a person in a group; ``None``: it does not name them. Pure."""
    if (own := settings.groups.get(group_id)) is not None and person in own.roles:
        return own.roles[person]
    return settings.people.roles.get(person)


def unknown_alias(models: Mapping[str, Model], where: Where, asked: str) -> Problem:
    """A model that no ``[models.*]`` defines; names the alias when an upstream id was asked for."""
    for alias, model in models.items():
        if model.model == asked:
            return Problem(
                where,
                f'is "{shorten(asked)}", which is an upstream id; its alias is "{alias}"',
                f'write "{alias}"',
            )
    return Problem(
        where,
        f'is "{shorten(asked)}", but there is no [models.{shorten(asked)}]',
        nearest(asked, models, "[models.NAME]"),
    )


def nearest(asked: str, known: Iterable[str], table: str) -> str:
    """A fix: the name that was probably meant, or those that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(asked, names, 1, 0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    listed = ", ".join(f'"{shorten(n)}"' for n in names[:10])
    return f"use one of {listed}" if names else f"add a {table} table"
