"""Makes a group's sandbox, from settings to a session that answers, and takes it down again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from runner.errors import NanokimiError
from runner.gateway.relay import Door, Relay, new_scoped_token
from runner.host.credentials import Credentials
from runner.host.session import AgentSession, HostOffers
from runner.sandbox.spawner import (
    HOST_SOCKET,
    Sandbox,
    SandboxInfo,
    SandboxSpec,
    Spawner,
)
from runner.settings.group import GroupSettings
from runner.settings.layout import Layout
from runner.settings.projection import (
    project_config,
    project_credentials,
    project_tools_key,
)
from runner.settings.schema import Settings
from runner.settings.tables import Provider
from runner.store import Store
from runner.store.lease import Lease

log = structlog.get_logger()

# A scoped token dies with its socket, not by the clock.
NEVER = 4_102_444_800.0


@dataclass
class _Made:
    """What a sandbox was made from, and the credential files it has now."""

    spec: SandboxSpec
    provider: Provider
    scoped: str = field(repr=False)
    credentials: dict[str, str] = field(repr=False)
    projecting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Opener:
    """The :class:`~runner.host.pool.SessionMaker` of the product. ``settings`` may be replaced.

    ``digest`` names the tools that the host offers a group's running turn.
    """

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        store: Store,
        lease: Lease,
        spawner: Spawner,
        relay: Relay,
        credentials: Credentials,
        digest: Callable[[str], str],
    ) -> None:
        self.settings = settings
        self._layout = layout
        self._store = store
        self._lease = lease
        self._spawner = spawner
        self._relay = relay
        self._credentials = credentials
        self._digest = digest
        self._made: dict[str, _Made] = {}
        self._chosen: dict[str, str] = {}

    def of_group(self, group: str) -> GroupSettings:
        """The settings of now, with the model that the chat has chosen."""
        return self.settings.for_group(group, self._chosen.get(group, ""))

    def choose(self, group: str, alias: str) -> None:
        """From its next turn on the group has this model; the configured one if it is empty."""
        if alias:
            self._chosen[group] = alias
        else:
            self._chosen.pop(group, None)

    async def open(self, group: str) -> AgentSession:
        """Raises: ConfigError, LoginRequiredError, EngineError, SandboxGoneError, ProtocolError."""
        known = await self._store.group(group)
        self.choose(group, known.model)
        of_group = self.of_group(group)
        spec = self._spec(of_group, known.folder)
        socket = self._layout.socket_dir(known.folder) / HOST_SOCKET
        scoped = new_scoped_token()
        if of_group.network == "isolated":
            credentials = project_credentials(of_group.provider, scoped, NEVER)
        else:
            credentials = await self._own_credentials(of_group.provider, scoped)
        door = Door(group, of_group.alias, of_group.model.model, scoped)
        await self._relay.open(socket, door)
        try:
            generation = await self._store.next_generation(group, self._lease.host)
            sandbox = await self._spawner.ensure(replace(spec, credentials=credentials), generation)
        except BaseException:
            await self._relay.close(socket)
            raise
        try:
            # Asked after the generation was raised: what a reset forgot until then stays forgotten,
            # and one that comes later makes this sandbox outdated.
            known = await self._store.group(group)
            session = await AgentSession.open(
                sandbox,
                known.session_id,
                self.settings.sandbox.start_timeout,
                lambda: (scoped, *self._credentials.secrets()),
                HostOffers(() if not spec.command else (sandbox.bridge,), self._digest),
            )
            if session.session_id != known.session_id:
                await self._store.set_session(group, session.session_id, generation)
        except BaseException:
            with contextlib.suppress(NanokimiError):  # the host's reconciling ends what stays
                await self._take_down(sandbox)
            raise
        self._made[group] = _Made(spec, of_group.provider, scoped, credentials)
        log.info("sandbox.ready", group=group, generation=generation)
        return session

    def outdated(self, session: AgentSession, generation: int) -> bool:
        """Would the settings of now make another sandbox, or is it older than ``generation``?"""
        info = session.sandbox.info
        of_group = self.of_group(info.group)
        made = self._made.get(info.group)
        return (
            made is None
            or info.generation < generation
            or made.spec != self._spec(of_group, info.folder)
            or made.provider != of_group.provider
        )

    async def close(self, session: AgentSession) -> None:
        """Raises: EngineError when the engine does not confirm the removal."""
        await session.close()
        await self._take_down(session.sandbox)
        self._made.pop(session.sandbox.info.group, None)

    async def project(self, session: AgentSession) -> None:
        """Give a sandbox that calls its provider itself the access token of now.

        Raises:
            LoginRequiredError, ConfigError: there is none.
            TemporaryError: it has expired and cannot be renewed now, or it cannot be written.
        """
        info = session.sandbox.info
        made = self._made.get(info.group)
        if made is None:
            return  # it is being taken down
        async with made.projecting:  # or an older token could be written last
            credentials = await self._own_credentials(made.provider, made.scoped)
            if credentials != made.credentials:
                await self._spawner.project(info.folder, credentials)
                made.credentials = credentials

    async def _own_credentials(self, provider: Provider, scoped: str) -> dict[str, str]:
        """Of a sandbox that calls its provider itself; what is the host's it still asks us for."""
        return await self._credentials.projected(provider) | project_tools_key(scoped)

    async def clear_leftovers(self) -> int:
        """End the sandboxes that nobody has; says how many.

        An earlier host of this install left them behind, or a start or stop that failed.
        """
        listed: list[SandboxInfo] = await self._spawner.list()
        elsewhere = await self.elsewhere()
        left = [i for i in listed if i.group not in elsewhere]
        for info in left:
            await self.end(info)
        return len(left)

    async def elsewhere(self) -> set[str]:
        """Groups that another living host has."""
        return await self._lease.elsewhere()

    async def end(self, info: SandboxInfo) -> None:
        """End a sandbox that no session of ours is in. Raises: EngineError."""
        await self._spawner.stop(info, grace=self.settings.sandbox.stop_grace)

    async def _take_down(self, sandbox: Sandbox) -> None:
        sandbox.streams.abort()
        await self._relay.close(self._layout.socket_dir(sandbox.info.folder) / HOST_SOCKET)
        await self._spawner.stop(sandbox.info, grace=self.settings.sandbox.stop_grace)

    def _spec(self, of_group: GroupSettings, folder: str) -> SandboxSpec:
        return SandboxSpec(
            group=of_group.group,
            folder=folder,
            config=project_config(self.settings, of_group, isolated=of_group.network == "isolated"),
            credentials={},
            limits=of_group.limits,
            network=of_group.network,
            image=self.settings.sandbox.image,
            command=of_group.engine,
            extra_mounts=of_group.extra_mounts,
        )
