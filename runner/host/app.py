"""The host: builds everything, starts it in order, and ends it in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from runner.channels.secret import webhook_secret
from runner.channels.webhook import Webhook
from runner.errors import (
    NanokimiError,
    OwnedElsewhereError,
)
from runner.gateway.relay import Relay
from runner.host import events
from runner.host.attachments import Attachments
from runner.host.attempt import TurnLimits
from runner.host.command_desk import CommandDesk
from runner.host.credentials import Credentials
from runner.host.disk import DiskWatch
from runner.host.dispatcher import Dispatcher
from runner.host.events import EventLog
from runner.host.files import SentFiles
from runner.host.foreign import Foreign
from runner.host.intake import Intake
from runner.host.janitor import keep_forgetting
from runner.host.lease import Keeper, host_id
from runner.host.logins import GroupLogins
from runner.host.models import Models
from runner.host.opener import Opener
from runner.host.outbox import Deliverer, SendLimits
from runner.host.people import People, check_group_id
from runner.host.pool import Pool
from runner.host.readiness import readiness
from runner.host.reconcile import keep_reconciled
from runner.host.scheduler import Scheduler
from runner.host.shelf import Swept, keep_swept, remove_shelves
from runner.host.tools.desk import ToolDesk
from runner.host.tools.offered import offered
from runner.host.tools.server import PATH as MCP_PATH
from runner.host.tools.server import ToolServer
from runner.host.tools.web import Web
from runner.model import Group, Message, Turn
from runner.sandbox.spawner import Spawner
from runner.settings.layout import Layout
from runner.settings.load import load_settings
from runner.settings.reload import watch_settings
from runner.settings.schema import Settings
from runner.store import Store, groups, place_of
from runner.store.deliveries import Deliveries
from runner.store.hosts import Standing
from runner.store.lease import Lease
from runner.store.outbox import WEBHOOK
from runner.store.task_desk import Tasks, task_limits
from runner.store.turn_desk import Turns
from runner.store.turns import Retried

log = structlog.get_logger()

FLUSH = 5.0


class Host:
    """What channels and the API call. Made by :func:`open_host`.

    ``died`` is set when a part of it has ended that never should: it has to be restarted.
    """

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        store: Store,
        lease: Lease,
        standing: Standing,
        log_: EventLog,
        spawner: Spawner,
        credentials: Credentials,
    ) -> None:
        self.layout = layout
        self.store = store
        self.events = log_
        self.spawner = spawner
        self.credentials = credentials
        self.models = Models(layout, settings, store, credentials)
        self.tasks = Tasks(store, lambda: task_limits(self.settings.tools.schedule_task))
        self.web = Web(lambda: self.settings, credentials)
        self.files = SentFiles(layout, store, spawner)
        self.attachments = Attachments(layout, store, spawner, lease.host)
        desk = ToolDesk(
            store,
            log_,
            lambda: self.settings,
            lambda group: self._dispatcher.current(group),  # noqa: PLW0108  made below
            offered(
                self.tasks,
                self.web,
                self.files,
                lambda turn, after: self._dispatcher.expect(turn, after),  # noqa: PLW0108
            ),
            credentials.secrets,
        )
        self.tools = ToolServer(desk)
        self.relay = Relay(lambda: self.models.gateway, {MCP_PATH: self.tools.serve})
        self._lease = lease
        self._opener = Opener(
            layout, settings, store, lease, spawner, self.relay, credentials, desk.digest
        )
        self._logins = GroupLogins(credentials, self._opener)
        self.pool = Pool(
            self._opener,
            lambda: self.settings.host.max_containers,
            lambda: self.settings.host.idle_timeout,
        )
        self._dispatcher = Dispatcher(
            store,
            lease.host,
            log_,
            self.pool,
            self._limits,
            self._logins,
            lambda group: self.settings.for_group(group).webhook,
            self._before_turn,
        )
        self._disk = DiskWatch(
            spawner, self.pool.warm, lambda group: self.settings.for_group(group).disk
        )
        self._keeper = Keeper(
            store,
            lease,
            standing,
            seat=log_.seat,
            has=self.pool.groups,
            let_go=self.pool.drop,
            wake=self._dispatcher.wake,
        )
        self.deliveries = Deliveries(store)
        self.outbox = Deliverer(
            store,
            lease.host,
            log_,
            {WEBHOOK: Webhook(lambda: webhook_secret(layout))},
            self._send_limits,
        )
        self.people = People(store, lambda: self.settings)
        self.turns = Turns(store)
        self._foreign = Foreign(store, log_, lambda: self._keeper.standing.others)
        log_.before_following = self._foreign.begin
        self.commands = CommandDesk(
            store,
            lease.host,
            log_,
            self.people,
            self.models.books,
            self,
            lambda: self._keeper.standing.others,
        )
        self.intake = Intake(
            store,
            log_,
            lambda: self.settings,
            self.people,
            self.commands,
            self._dispatcher,
            self.tasks,
            self._here,
            self._keep_for_files,
        )
        self.scheduler = Scheduler(store, log_, self.intake.circumstances_of, self._dispatcher.wake)
        self.tasks.changed = self.scheduler.look
        self.died = asyncio.Event()

    @property
    def settings(self) -> Settings:
        """The settings in force; a valid change of the file replaces them."""
        return self._opener.settings

    @property
    def stopping(self) -> bool:
        """It takes nothing more in."""
        return self.intake.closed

    # -- groups ---------------------------------------------------------------------------------

    def trigger(self, group_id: str) -> str:
        """The word that wakes this group's agent; empty answers everything."""
        return self.settings.for_group(group_id).trigger

    async def put_group(self, group_id: str) -> Group:
        """Register a group: it is served whatever the allowlist says.

        Raises:
            PermanentError: an impossible id.
        """
        check_group_id(group_id)
        group = await self.store.register_group(group_id)
        self.people.forget(group_id)
        return group

    async def retry(self, group_id: str, turn_id: str | None) -> Retried:
        """Let the messages of a failed turn, or of all, be answered by a new turn.

        Raises:
            NotFoundError: there is no such group, or no failed message of such a turn.
        """
        done = await self.turns.retry(group_id, turn_id)
        if done.message_ids:
            told = {"turn_ids": list(done.turn_ids), "message_ids": list(done.message_ids)}
            self.events.tell(group_id, events.TURN_RETRIED, told)
            self._dispatcher.wake(group_id)
        return done

    def running(self, group_id: str) -> Turn | None:
        """The turn that the group runs now, or waits to try again."""
        return self._dispatcher.running(group_id)

    def sandbox_state(self, group_id: str) -> str:
        """``none``, or what the group's sandbox is doing."""
        session = self.pool.warm().get(group_id)
        return str(session.state) if session is not None else "none"

    def choose_model(self, group_id: str, alias: str) -> None:
        """The group's next turn is answered by this model; by the configured one if it is empty."""
        self._opener.choose(group_id, alias)

    def working_count(self) -> int:
        """Turns that run now, over all groups."""
        return self._dispatcher.working_count()

    async def _here(self, group_id: str) -> Group:
        """The group, unless another living host has it.

        Raises:
            NotFoundError: there is no such group.
            OwnedElsewhereError: what is to be done has to be asked of another host.
        """
        group = await self.store.group(group_id)
        others = group.owner not in ("", self._lease.host)
        if others and (owner := await self._lease.owner_elsewhere(group_id)):
            raise OwnedElsewhereError(
                f"the group {group_id!r} is with another host of this database, {owner}",
                hint="ask that host, or try again when it has ended",
            )
        return group

    def owner_elsewhere(self, group: Group) -> str:
        """The other host that has the group, or had it last; empty when it is this one, or none."""
        return "" if group.owner == self._lease.host else group.owner

    async def check_attachments(self, group_id: str) -> None:
        """See that files which come for this group now would be found by its turn.

        Raises:
            OwnedElsewhereError: another host runs it, and does not see what this one stores.
        """
        if self._keeper.standing.others:
            self._refuse_files(group_id, await self._lease.owner_elsewhere(group_id))

    async def _keep_for_files(self, group_id: str) -> None:
        """Have the group that files have come for, so that the turn that wants them runs here."""
        if self._keeper.standing.others:
            self._refuse_files(group_id, await self._lease.take(group_id))

    def _refuse_files(self, group_id: str, owner: str) -> None:
        if owner and not self.attachments.shared_with(owner):
            raise OwnedElsewhereError(
                f"the group {group_id!r} is with another host of this database, {owner}, "
                "which does not see the files that come to this one",
                hint="post messages with attachments to that host, or let the hosts share "
                "attachments/ (docs/operations.md)",
            )

    async def cancel(self, group_id: str, turn_id: str | None = None) -> Turn | None:
        """Cancel the running turn (only this one, if it is named); ``None`` when it does not run.

        Raises:
            NotFoundError: there is no such group.
        """
        await self._here(group_id)
        return await self._dispatcher.cancel(group_id, turn_id)

    async def stop_sandbox(self, group_id: str) -> bool:
        """End the group's sandbox, its running turn first. False when it had none."""
        await self._here(group_id)
        await self._dispatcher.cancel(group_id)
        return await self.pool.end(group_id, _nothing)

    async def reset(self, group_id: str) -> None:
        """Forget the conversation; files stay. The running turn is cancelled."""
        await self._here(group_id)
        await self._dispatcher.cancel(group_id)
        await self.pool.end(group_id, lambda: self.store.reset_group(group_id))
        log.info("group.reset", group=group_id)

    async def delete_group(self, group_id: str) -> None:
        """Remove the group with its files and memory, also while a turn is running.

        Raises:
            NotFoundError: there is no such group.
            TemporaryError: its sandbox or files cannot be removed; the group is still there.
        """
        group = await self._here(group_id)

        async def remove() -> None:
            await asyncio.to_thread(self._remove_files, group.folder)
            await self.store.delete_group(group_id)

        with self.intake.shut(group_id):
            await self._dispatcher.cancel(group_id)
            await self.pool.end(group_id, remove)
        self.people.forget(group_id)
        self.events.forget(group_id)
        self.models.forget(group_id)
        log.info("group.deleted", group=group_id)

    async def _before_turn(self, folder: str, messages: Sequence[Message]) -> frozenset[str]:
        await self._disk.check(messages[0].group, folder)
        return await self.attachments.bring(folder, messages)

    def _remove_files(self, folder: str) -> None:
        self.spawner.volume(folder).remove()
        remove_shelves(self.layout, folder)

    # -- life -----------------------------------------------------------------------------------

    async def readiness(self) -> dict[str, str]:
        """What has to work for a message to be answered: ``ok`` or what is wrong, by name."""
        checks = await readiness(self.store, self.spawner, self.credentials, self.settings)
        if self.stopping:
            checks["host"] = "it is stopping"
        if self.died.is_set():
            checks["host"] = "a part of it has died: restart it"
        return checks

    @asynccontextmanager
    async def running_host(self) -> AsyncIterator[None]:
        """Work inside this block. At its end: no new turns, a grace time, then every sandbox goes.

        A turn that is still running after the grace time stays claimed: the next host goes on
        with it where the agent's journal ends.
        """
        for group, alias in (await self.store.read(groups.chosen_models)).items():
            self._opener.choose(group, alias)
        if left := await self._opener.clear_leftovers():
            log.warning("sandbox.leftovers_ended", count=left)
        await self._say_backend()
        if self.settings.store.url:  # there may be other hosts
            await asyncio.to_thread(self.attachments.sign)
        background = [
            asyncio.create_task(self.events.run(), name="write events"),
            asyncio.create_task(self._dispatcher.run(), name="dispatcher"),
            asyncio.create_task(self.outbox.run(), name="deliver"),
            asyncio.create_task(self.commands.run(), name="chat commands"),
            asyncio.create_task(self.tools.run(), name="tool server"),
            asyncio.create_task(self._keeper.keep(), name="keep the lease"),
            asyncio.create_task(self._keeper.look(), name="look for work"),
            asyncio.create_task(self._foreign.run(), name="show other hosts' events"),
            asyncio.create_task(self.scheduler.run(), name="schedule tasks"),
            asyncio.create_task(self.pool.reap(), name="reap idle sandboxes"),
            asyncio.create_task(
                keep_reconciled(self.pool, self._opener, self.spawner), name="reconcile sandboxes"
            ),
            asyncio.create_task(self._keep_swept(), name="sweep files"),
            asyncio.create_task(self._keep_forgetting(), name="forget old messages"),
            asyncio.create_task(self._disk.run(), name="watch the disk"),
            asyncio.create_task(self._watch_settings(), name="watch config.toml"),
            asyncio.create_task(self._logins.keep_projected(self.pool.warm), name="project tokens"),
        ]
        for task in background:
            task.add_done_callback(self._on_end)
        try:
            yield
        finally:
            await self.drain()
            for task in reversed(background):
                task.cancel()
            await asyncio.wait(background)
            await self.pool.close()
            await self.relay.aclose()
            self.web.close()
            with contextlib.suppress(NanokimiError):
                await self._opener.clear_leftovers()
            with contextlib.suppress(NanokimiError):
                await self._lease.leave()

    async def _keep_forgetting(self) -> None:
        await keep_forgetting(self.store, lambda: self.settings.store.keep_messages)

    async def _say_backend(self) -> None:
        """What agents run in, and what an operator should know of it."""
        try:
            found = await self.spawner.check()
        except NanokimiError as e:
            log.error("sandbox.not_ready", code=e.code, error=e.message, hint=e.hint)
            return
        log.info("sandbox.backend", backend=found.backend, isolation=found.isolation)
        if found.warning:
            log.warning("sandbox.weaker", warning=found.warning)
        if found.stale:
            log.warning("image.stale", image=found.image, hint="run `nanokimi build`")

    async def drain(self) -> None:
        """Take no more messages, give running turns ``[host] grace``, then end all streams."""
        if self.stopping:
            return
        self.intake.closed = True
        if count := self._dispatcher.running_count():
            log.info("host.draining", turns=count, grace=self.settings.host.grace)
        await self._dispatcher.drain(time.monotonic() + self.settings.host.grace)
        await self.outbox.drain(time.monotonic() + min(self.settings.host.grace, FLUSH))
        self.events.close()

    def _send_limits(self, group: str) -> SendLimits:
        given = self.settings.delivery
        return SendLimits(given.timeout, given.max_age, self.settings.for_group(group).max_chars)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("host.task_died", task=task.get_name(), exc_info=task.exception())
            self.died.set()

    async def _keep_swept(self) -> None:
        shelves: dict[str, Swept] = {"files": self.files, "attachments": self.attachments}
        await keep_swept(shelves, lambda: self.settings.store.keep_files)

    async def _watch_settings(self) -> None:
        def changed(settings: Settings) -> None:
            try:
                self.models.reload(settings)
            except NanokimiError as e:
                refused(e)
                return
            self._opener.settings = settings
            log.info("settings.reloaded")

        def refused(error: NanokimiError) -> None:
            log.error("settings.refused", error=error.message, hint=error.hint)

        await watch_settings(
            self.layout.config, lambda: load_settings(self.layout, os.environ), changed, refused
        )

    def _limits(self) -> TurnLimits:
        host = self.settings.host
        return TurnLimits(host.turn_timeout, host.max_attempts, host.max_hold, host.steer)

    # -- holds ----------------------------------------------------------------------------------

    def held_for(self, group_id: str) -> str:
        """The code of the failure for which they wait; empty when they do not."""
        return self._dispatcher.held(group_id)

    def held_count(self) -> int:
        """Groups whose messages are held."""
        return self._dispatcher.held_count()


@asynccontextmanager
async def open_host(
    layout: Layout,
    settings: Settings,
    make_spawner: Callable[[str], Awaitable[Spawner]],
    credentials: Credentials,
) -> AsyncIterator[Host]:
    """A host that works inside the block.

    Args:
        make_spawner: coroutine function from the install id to the backend.

    Raises:
        EngineError, ImageMissingError: no backend can be had.
        TemporaryError, PermanentError: the store cannot be opened.
    """
    store = await Store.open(place_of(layout, settings.store))
    try:
        spawner = await make_spawner(await store.install_id())
        try:
            lease = Lease(store, host_id(layout.host_id))
            standing = await lease.enter()
            log_ = await EventLog.open(store, standing.slot)
            host = Host(layout, settings, store, lease, standing, log_, spawner, credentials)
            async with host.models.running(), host.running_host():
                yield host
        finally:
            await spawner.close()
    finally:
        await store.close()


async def _nothing() -> None:
    pass
