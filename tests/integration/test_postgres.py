"""A whole host on PostgreSQL."""

from pathlib import Path

from rig import rig


async def test_a_host_answers_from_postgresql_and_remembers(
    tmp_path: Path, postgres_url: str
) -> None:
    async with rig(tmp_path, store_url=postgres_url) as r:
        assert await r.ask("birds", "remember the word heron") == "I will remember it."
        assert await r.ask("birds", "which word?") == "The word was heron."
        assert not r.layout.database.exists()
