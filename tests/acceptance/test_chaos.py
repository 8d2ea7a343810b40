"""Never lost, never doubled: 200 turns while the host, its sandboxes and the engine are killed.

In short form as a test; ``make chaos`` runs the whole of it and prints the table.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from chaos import Chaos, survive
from killpoints import POINTS
from own_engine import own_engine
from receiver import Receiver

from runner.channels.secret import webhook_secret
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

GROUPS = int(os.environ.get("NANOKIMI_CHAOS_GROUPS", "4"))
TURNS = int(os.environ.get("NANOKIMI_CHAOS_TURNS", "6"))
SEED = int(os.environ.get("NANOKIMI_CHAOS_SEED", "1"))
LONG = GROUPS * TURNS >= 200


@pytest.mark.timeout(2400)
@pytest.mark.docker
async def test_nothing_is_lost_or_doubled_whatever_is_killed(
    tmp_path: Path, agent_image: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="nk-") as short:  # the engine's sockets need it
        async with (
            own_engine(Path(short) / "engine", agent_image) as engine,
            DemoProvider() as provider,
            Receiver(lambda: webhook_secret(Layout(tmp_path / "data"))) as bot,
        ):
            chaos = Chaos(
                tmp_path, provider, engine, bot, agent_image, groups=GROUPS, turns=TURNS, seed=SEED
            )
            verdict, seconds = await survive(
                chaos,
                points=len(POINTS) if LONG else 3,
                engine=5 if LONG else 1,
                others=40 if LONG else 5,
            )
            print("\n" + chaos.table(verdict, seconds))
            assert verdict.broken == [], chaos.log
            assert verdict.answered == verdict.asked
