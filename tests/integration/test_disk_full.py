"""A full disk, really full: small file systems of our own below the data directory."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from rig import TOKEN, Rig, log_in, running, write_config

from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> Path:
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as f:
        try:
            while True:
                f.write(b"x" * 65_536)
        except OSError:
            pass
    with ballast.open("ab", buffering=0) as f:
        try:
            while True:
                f.write(b"x")
        except OSError:
            return ballast


async def post(r: Rig, text: str) -> httpx.Response:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        return await client.post(
            f"{r.url}/api/groups/birds/messages", json={"text": text, "direct": True}
        )


async def test_a_message_that_cannot_be_written_is_refused_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "data", "6m") as root:
        layout = Layout(root)
        async with DemoProvider() as provider:
            write_config(layout, provider)
            log_in(layout, provider)
            async with running(layout, provider) as r:
                assert await r.ask("birds", "!say before") == "before"
                ballast = fill(root)
                answers = [await post(r, "x" * 200_000) for _ in range(3)]
                refused = [a for a in answers if a.status_code != 202]
                assert refused
                for answer in refused:
                    assert answer.status_code == 503
                    assert answer.json()["error"]["code"] == "disk_full"
                    assert answer.json()["error"]["hint"]
                ballast.unlink()
                assert "after" in await r.ask("birds", "!say after")


async def test_an_agent_that_cannot_write_its_journal_says_so_and_goes_on_later(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    with small_disk(layout.root / "sessions", "1m") as sessions:
        async with DemoProvider() as provider:
            write_config(layout, provider)
            log_in(layout, provider)
            async with running(layout, provider) as r:
                assert await r.ask("birds", "remember the word heron") == "I will remember it."
                ballast = fill(sessions)
                last = (await r.say("birds", "x" * 5_000))[-1]
                assert (last.kind, last.data["code"]) == ("turn.failed", "disk_full")
                assert last.data["hint"]
                ballast.unlink()
                assert await r.ask("birds", "which word?") == "The word was heron."
