"""A Docker engine that a test may kill: beside the machine's, with its own data and network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

START_DEADLINE = 60.0


class OwnEngine:
    """One ``dockerd`` after another on one directory, each in a network namespace of its own.

    In the machine's namespace a second one would take the bridge of the first away.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.address = f"unix://{folder}/docker.sock"

    async def start(self) -> None:
        """Start, and wait until it answers."""
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        # Pids of a killed engine may be somebody else's by now.
        for left in (folder / "pid", folder / "exec" / "containerd" / "containerd.pid"):
            left.unlink(missing_ok=True)
        with (folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("unshare", "--net", "--", "dockerd", "--host", self.address),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--pidfile", str(folder / "pid"), "--bridge", "none"),
                *("--iptables=false", "--ip6tables=false"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(START_DEADLINE):
            while await self._docker("info") != 0:
                assert self._process.returncode is None, self.log
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """SIGKILL: its containers live on without it until the next one starts."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> None:
        """Remove every container, then end it."""
        if self._process is None or self._process.returncode is not None:
            await self.start()  # only an engine can tidy up after a killed one
        assert self._process is not None
        for ref in (await self.docker("ps", "--all", "--quiet")).split():
            await self._docker("rm", "--force", ref)
        self._process.terminate()
        async with asyncio.timeout(START_DEADLINE):
            await self._process.wait()

    async def load(self, image: str) -> None:
        """Bring an image over from the machine's engine."""
        read, write = os.pipe()
        saving = await asyncio.create_subprocess_exec("docker", "save", image, stdout=write)
        os.close(write)
        loading = await asyncio.create_subprocess_exec(
            *("docker", "--host", self.address, "load", "--quiet"),
            stdin=read,
            stdout=subprocess.DEVNULL,
        )
        os.close(read)
        assert (await saving.wait(), await loading.wait()) == (0, 0)

    async def docker(self, *line: str) -> str:
        """What ``docker LINE`` says on this engine."""
        process = await asyncio.create_subprocess_exec(
            *("docker", "--host", self.address, *line),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def _docker(self, *line: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *("docker", "--host", self.address, *line),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return await process.wait()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()[-4_000:]


@asynccontextmanager
async def own_engine(folder: Path, image: str) -> AsyncIterator[OwnEngine]:
    """An engine with ``image`` inside the block; a skip where this machine cannot have one."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("an engine that may be killed needs root and dockerd")
    engine = OwnEngine(folder)
    try:
        await engine.start()
        await engine.load(image)
        yield engine
    finally:
        with contextlib.suppress(TimeoutError):
            await engine.stop()
        left = subprocess.run(
            ["findmnt", "--raw", "--noheadings", "--output", "TARGET"],
            capture_output=True, text=True, check=False,
        ).stdout.split()  # fmt: skip
        for mount in sorted((m for m in left if m.startswith(f"{folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)
