"""A PostgreSQL server for a measure, where its programs are installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.finding import Skipped

# The server of the tests serves here too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from database_server import NotInstalled, postgres_server


@contextmanager
def database() -> Iterator[str]:
    """URL of an empty database inside the block. Raises: Skipped."""
    try:
        with postgres_server() as server:
            yield server.create()
    except NotInstalled as e:
        raise Skipped(str(e)) from None
