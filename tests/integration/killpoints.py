"""A host that dies at a chosen point of a turn, as a process that is really killed."""

from __future__ import annotations

from pathlib import Path

POINTS = tuple(
    f"{when}-{what}-commit"
    for what in ("accept", "claim", "join", "finish")
    for when in ("before", "after")
)
"""Around the commit of each transaction that a message goes through. ``join`` is a steer's."""

# Runs the product. A file with a point's name in the folder of orders makes the host kill itself
# there, once: before a commit all statements of the transaction have been executed.
_PROGRAM = """
import functools, os, signal, sys
from pathlib import Path

orders = Path(sys.argv[1])
del sys.argv[1]

def die_if(point):
    try:
        (orders / point).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

def inside(module, name, what):
    real = getattr(module, name)
    @functools.wraps(real)
    def wrapped(*args, **named):
        done = real(*args, **named)
        if done is not None:
            die_if(f"before-{what}-commit")
        return done
    setattr(module, name, wrapped)

def outside(owner, name, what):
    real = getattr(owner, name)
    @functools.wraps(real)
    async def wrapped(*args, **named):
        done = await real(*args, **named)
        if done is not None:
            die_if(f"after-{what}-commit")
        return done
    setattr(owner, name, wrapped)

from runner.store import Store, queue, turns
from runner.store.turn_desk import Turns

for name in ("accept", "claim", "finish"):
    inside(queue, name, name)
    outside(Store, name, name)
inside(turns, "join", "join")
outside(Turns, "join", "join")
from runner.cli.main import main
main(sys.argv[1:])
"""


class KillPoints:
    """``program`` is what Python runs in the product's place."""

    def __init__(self, folder: Path) -> None:
        self._orders = folder / "kill-orders"
        self._orders.mkdir()
        self._file = folder / "killable.py"
        self._file.write_text(_PROGRAM)

    @property
    def program(self) -> tuple[str, ...]:
        return (str(self._file), str(self._orders))

    def arm(self, point: str) -> None:
        """The host is killed the next time that it comes to this point."""
        assert point in POINTS
        (self._orders / point).touch()

    def disarm(self, point: str) -> None:
        """It lives, whether or not it comes there."""
        (self._orders / point).unlink(missing_ok=True)

    def armed(self, point: str) -> bool:
        """It has not come there yet."""
        return (self._orders / point).exists()
