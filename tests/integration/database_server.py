"""A PostgreSQL server for tests, from Debian's programs: real, with fsync, and gone afterwards.

And a process that keeps SQLite's write lock, and a way to the server that breaks in a commit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql
from sqlalchemy import make_url

DEBIAN = Path("/usr/lib/postgresql")
DEADLINE = 30.0
USER = "nanokimi"
_PR_SET_PDEATHSIG = 1
_HOLD = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


class NotInstalled(Exception):
    """There is no PostgreSQL on this machine."""


def binaries() -> Path:
    """The directory of the newest server's programs. Raises: NotInstalled."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise NotInstalled("PostgreSQL is not installed (apt-get install postgresql)")


class PostgresServer:
    """One server with its socket in a directory of its own, nothing on the network.

    It asks for a password, so tests can hold that nobody prints it.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.password = f"pw-{secrets.token_hex(8)}"
        self._account = _account()
        self.directory = Path(tempfile.mkdtemp(prefix="nanokimi-pg-", dir="/tmp"))
        if self._account:
            entry = pwd.getpwnam(self._account)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the cluster."""
        secret = self.directory / "password"
        secret.write_text(self.password)
        if self._account:
            os.chown(secret, pwd.getpwnam(self._account).pw_uid, -1)
        command = [
            str(self._programs / "initdb"), "--pgdata", str(self._data), "--username", USER,
            "--auth", "scram-sha-256", "--pwfile", str(secret), "--encoding", "UTF8",
            "--locale", "C", "--no-sync",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as())
        secret.unlink()
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start, and wait until it answers. It ends with its thread: the main one."""
        assert self._process is None
        assert threading.current_thread() is threading.main_thread()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "shared_buffers": "16MB",
            "max_connections": "60",
            "logging_collector": "off",
        }
        options = [part for k, v in settings.items() for part in ("-c", f"{k}={v}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one C call, and no threads of ours
                **self._as(),
            )
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it at once and in order; SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(DEADLINE)
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def url(self, database: str, *, user: str = USER, password: str = "") -> str:
        """A URL as operators write it."""
        return f"postgresql://{user}:{password or self.password}@/{database}?host={self.directory}"

    def create(self, *, encoding: str = "UTF8") -> str:
        """A new empty database; its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(
            sql.SQL("CREATE DATABASE {} ENCODING {} TEMPLATE template0").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
        return self.url(name)

    def drop(self, url: str) -> None:
        name = url.partition("@/")[2].partition("?")[0]
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: sql.Composed | sql.SQL) -> None:
        """One statement as the administrator."""
        with contextlib.closing(self._admin()) as connection:
            connection.execute(statement)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            self._admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5)

    def _as(self) -> dict[str, object]:
        return {"cwd": self.directory} | ({"user": self._account} if self._account else {})


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs inside the block. Raises: NotInstalled."""
    server = PostgresServer(binaries())
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process writes to a SQLite file for as long as the block, or until its stdin ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.communicate()


def _account() -> str:
    """Whom it runs as: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return ""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


class Wire:
    """A way to a server that breaks at the next commit, when it is told to.

    ``cut``: ``answer`` breaks it when the server has committed, ``request`` before it hears of it.
    """

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        self.cut: Literal["", "answer", "request"] = ""
        self.cuts = 0
        self._to = str(server.directory / ".s.PGSQL.5432")
        self._from = directory / ".s.PGSQL.5432"
        self._directory = directory
        self._listening = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Wire:
        self._listening.bind(str(self._from))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def url(self, url: str) -> str:
        """The URL of the same database, by this way."""
        return (
            make_url(url)
            .update_query_dict({"host": str(self._directory)})
            .render_as_string(hide_password=False)
        )

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._to)
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT\0" in data and self.cut:
                    how, self.cut = self.cut, ""
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    if how == "answer":
                        server.sendall(data)
                    break
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        for end in (client, server):
            end.close()
