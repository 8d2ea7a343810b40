"""All that a model may call: the built-in tools first, then the host's, in a stable order."""

from __future__ import annotations

from runner.agent import tools
from runner.agent.chat import MALFORMED, Call
from runner.agent.tools.host import HostTools, Offer, schemas_of
from runner.agent.tools.tool import Outcome, Room


class Toolbox:
    """The tools of one agent. A built-in one is never replaced by one of the host."""

    def __init__(self, host: HostTools) -> None:
        self._host = host
        self._merged: tuple[tuple[Offer, ...], bytes] = ((), tools.SCHEMAS)

    def warm(self) -> None:
        """Begin to ask the host what it offers."""
        self._host.warm()

    async def ready(self, digest: str | None) -> None:
        """Have the host's offers that ``digest`` names; see :meth:`HostTools.ready`."""
        await self._host.ready(digest)

    @property
    def schemas(self) -> bytes:
        """The ``tools`` field of a request: the same bytes until the host offers others."""
        offers = self._host.offers
        if self._merged[0] is not offers:
            own = [o for o in offers if not tools.is_built_in(o.name)]
            merged = b",".join([tools.SCHEMAS[:-1], *schemas_of(own)]) + b"]"
            self._merged = (offers, merged)
        return self._merged[1]

    def repeats(self, call: Call) -> bool:
        """May this call be made again when nobody knows whether it was?"""
        return self._is_hosts(call)

    async def run(self, call: Call, room: Room, key: str) -> Outcome:
        """Run one call; ``key`` is the same whenever it is made again. Failures are outcomes."""
        if not self._is_hosts(call) or call.function.arguments.startswith(f'{{"{MALFORMED}":'):
            return await tools.run(call, room)
        return await self._host.call(call.function.name, call.function.arguments, key)

    def _is_hosts(self, call: Call) -> bool:
        name = call.function.name
        return not tools.is_built_in(name) and any(o.name == name for o in self._host.offers)
