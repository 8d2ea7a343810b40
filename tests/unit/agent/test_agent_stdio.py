"""The protocol's descriptors belong to the protocol."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from runner.agent.stdio import StdioChannel
from runner.errors import SandboxGoneError

PRINTS = """
import os, subprocess
from runner.agent import process
read_fd, write_fd = process.claim_protocol()
print("print", flush=True)
os.write(1, b"descriptor\\n")
subprocess.run(["sh", "-c", "echo child; cat"])
os.write(write_fd, b"frame:" + os.read(read_fd, 100))
"""


def test_prints_and_children_reach_stderr_and_only_the_protocol_reads_stdin() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], input=b"in", capture_output=True, check=True
    )
    assert done.stdout == b"frame:in"
    assert done.stderr.split() == [b"print", b"descriptor", b"child"]


async def read_all(fd: int) -> bytes:
    data = b""
    while part := await asyncio.to_thread(os.read, fd, 1 << 20):
        data += part
    return data


async def test_a_cancelled_write_still_goes_out_whole() -> None:
    """Half a line would break the protocol."""
    unused_fd, (read_fd, write_fd) = os.open(os.devnull, os.O_RDONLY), os.pipe()
    channel = StdioChannel(unused_fd, write_fd)
    line = b"x" * 1_000_000 + b"\n"
    writing = asyncio.create_task(channel.write(line))
    await asyncio.sleep(0)  # it has filled the pipe and waits
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    reading = asyncio.create_task(read_all(read_fd))
    await channel.write(b"next\n")
    os.close(write_fd)
    assert await reading == line + b"next\n"
    os.close(read_fd)
    os.close(unused_fd)


async def test_a_client_that_does_not_read_is_given_up() -> None:
    unused_fd, (read_fd, write_fd) = os.open(os.devnull, os.O_RDONLY), os.pipe()
    channel = StdioChannel(unused_fd, write_fd, deadline=0.05)
    with pytest.raises(SandboxGoneError):
        await channel.write(b"x" * 1_000_000)
    with pytest.raises(SandboxGoneError):
        await channel.write(b"more")
    for fd in (unused_fd, read_fd, write_fd):
        os.close(fd)


async def test_a_file_as_input_is_read_to_its_end() -> None:
    read_fd = os.open(__file__, os.O_RDONLY)
    write_fd = os.open(os.devnull, os.O_WRONLY)
    channel = StdioChannel(read_fd, write_fd)
    assert (await channel.read()).startswith(b'"""The protocol')
    assert await channel.read() == b""
    await channel.write(b"into nothing")
    os.close(read_fd)
    os.close(write_fd)
