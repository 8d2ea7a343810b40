"""Never lost, never doubled: 200 turns while the host, its sandboxes and the engine are killed.

In short form as a test; ``make chaos`` runs the whole of it and prints the table.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from chaos import Chaos, survive
from own_engine import own_engine

from runner.demo.provider import DemoProvider

GROUPS = int(os.environ.get("NANOKIMI_CHAOS_GROUPS", "5"))
TURNS = int(os.environ.get("NANOKIMI_CHAOS_TURNS", "4"))
SEED = int(os.environ.get("NANOKIMI_CHAOS_SEED", "1"))
ENGINE_KILLS = 3 if GROUPS > 5 else 1


@pytest.mark.timeout(900)
@pytest.mark.docker
async def test_nothing_is_lost_or_doubled_whatever_is_killed(
    tmp_path: Path, agent_image: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="nk-") as short:  # the engine's sockets need it
        async with (
            own_engine(Path(short) / "engine", agent_image) as engine,
            DemoProvider() as provider,
        ):
            chaos = Chaos(
                tmp_path, provider, engine, agent_image, groups=GROUPS, turns=TURNS, seed=SEED
            )
            verdict, seconds = await survive(chaos, engine_kills=ENGINE_KILLS)
            print("\n" + chaos.table(verdict, seconds))
            assert verdict.broken == [], chaos.log
            assert verdict.answered == verdict.asked
