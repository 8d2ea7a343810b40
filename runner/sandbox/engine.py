"""The one door to the Docker engine: blocking calls in threads, deadlines, our own errors.

Also serves Podman's Docker API. ``DOCKER_HOST`` and its TLS variables are honoured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import docker
import docker.errors
import docker.utils
import requests

from runner.errors import ENGINE_SILENT, EngineError
from runner.sandbox.attach import EngineAddress

_T = TypeVar("_T")

CALL_DEADLINE = 30.0
CONNECT_DEADLINE = 10
DEFAULT_HOST = "unix:///var/run/docker.sock"
_THREADS = 16


class RefusedError(Exception):
    """The engine answered with an HTTP error; ``status`` is its code."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What ``inspect`` says of a container's life."""

    ref: str
    running: bool
    status: str
    exit_code: int
    out_of_memory: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerMount:
    """One mount of a container: ``source`` on the engine's machine, ``destination`` inside."""

    source: str
    destination: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its id; ``size`` in bytes."""

    ref: str
    size: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a build's or pull's progress; ``error`` is empty until it fails."""

    text: str
    error: str


class Engine:
    """A connection to one engine. Make it with :meth:`connect`, end it with :meth:`close`."""

    def __init__(self, api: docker.APIClient, address: EngineAddress) -> None:
        self._api = api
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="engine")
        self.address = address

    @classmethod
    async def connect(cls) -> Engine:
        """Reach the engine.

        Raises:
            EngineError: no engine, or no permission; says the fix.
        """
        return await asyncio.to_thread(cls._connect)

    @classmethod
    def _connect(cls) -> Engine:
        options = docker.utils.kwargs_from_env()
        host = options.pop("base_url", None) or DEFAULT_HOST
        address = _address(host)
        if address.socket:
            _check_socket(Path(address.socket))
        try:
            api = docker.APIClient(
                base_url=host,
                version="auto",
                timeout=CONNECT_DEADLINE,
                max_pool_size=_THREADS,
                **options,
            )
        except (docker.errors.DockerException, requests.RequestException, OSError) as e:
            raise EngineError(
                f"no Docker engine answers at {host}: {e}",
                hint="start it (`sudo systemctl start docker`), or set DOCKER_HOST",
                code=ENGINE_SILENT,
            ) from None
        api.timeout = CALL_DEADLINE
        return cls(api, address)

    @property
    def api_version(self) -> str:
        return str(self._api.api_version)

    async def run(
        self, what: str, call: Callable[[docker.APIClient], _T], *, deadline: float = CALL_DEADLINE
    ) -> _T:
        """Run one blocking call in a thread, at most ``deadline`` seconds.

        Raises:
            RefusedError: the engine answered with an HTTP error.
            EngineError: no answer in time, or none at all.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline):
                return await loop.run_in_executor(self._threads, call, self._api)
        except docker.errors.APIError as e:
            status = e.response.status_code if e.response is not None else 0
            raise RefusedError(int(status), str(e.explanation or e)) from None
        except TimeoutError:
            raise EngineError(
                f"the engine did not {what} in {deadline:g} seconds",
                hint="look at the engine: `docker info`, its log, the disk",
                code=ENGINE_SILENT,
            ) from None
        except (docker.errors.DockerException, requests.RequestException, OSError) as e:
            raise EngineError(
                f"the engine did not {what}: {e}",
                hint="is it still running? `docker info`",
                code=ENGINE_SILENT,
            ) from None

    async def version(self) -> str:
        answer = await self.run("say its version", lambda api: api.version())
        return str(answer.get("Version", "?"))

    async def image(self, image: str) -> Image | None:
        """The image of that name, or ``None`` when the engine does not have it."""
        try:
            answer = await self.run("inspect an image", lambda api: api.inspect_image(image))
        except RefusedError as e:
            if e.status == 404:
                return None
            raise as_engine_error(e) from None
        labels = answer["Config"].get("Labels") or {}
        return Image(str(answer["Id"]), int(answer["Size"]), dict(labels))

    async def remove_if_unused(self, ref: str) -> None:
        """Remove an image that has no name, unless something is made of it."""

        def remove(api: docker.APIClient) -> None:
            if not api.inspect_image(ref).get("RepoTags"):  # else its only name would go as well
                api.remove_image(ref)

        with _tolerated(404, 409):
            await self.run("remove an image", remove)

    async def prune_images(self, label: str, *, older_than: str) -> None:
        """Remove every image with ``label`` that has no name and of which nothing is made."""
        filters = {"dangling": True, "label": [label], "until": older_than}
        with _tolerated(404, 409):  # 409: somebody else is at it
            await self.run("prune images", lambda api: api.prune_images(filters))

    async def create(self, name: str, body: dict[str, object]) -> str:
        """Create a container and return its id; ``RefusedError`` 404 no image, 409 name taken."""
        answer = await self.run(
            "create a container", lambda api: api.create_container_from_config(body, name)
        )
        return str(answer["Id"])

    async def start(self, ref: str) -> None:
        await self.run("start a container", lambda api: api.start(ref))

    async def stop(self, ref: str, grace: int) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds. A container that is gone is fine."""
        with _tolerated(304, 404):
            await self.run(
                "stop a container",
                lambda api: api.stop(ref, timeout=grace),
                deadline=grace + CALL_DEADLINE,
            )

    async def remove(self, ref: str) -> None:
        """Ask for removal, by force. Gone, or being removed already, is fine."""
        with _tolerated(404, 409):
            await self.run("remove a container", lambda api: api.remove_container(ref, force=True))

    async def state(self, ref: str, *, deadline: float = CALL_DEADLINE) -> ContainerState | None:
        """The container's state by id or name; ``None`` when there is none."""
        try:
            answer = await self.run(
                "inspect a container", lambda api: api.inspect_container(ref), deadline=deadline
            )
        except RefusedError as e:
            if e.status == 404:
                return None
            raise as_engine_error(e) from None
        state = answer["State"]
        return ContainerState(
            ref=str(answer["Id"]),
            running=bool(state["Running"]),
            status=str(state["Status"]),
            exit_code=int(state["ExitCode"]),
            out_of_memory=bool(state.get("OOMKilled")),
            labels=dict(answer["Config"].get("Labels") or {}),
        )

    async def mounts_of(self, ref: str) -> tuple[ContainerMount, ...] | None:
        """The mounts of a container, ``None`` when this engine has no such container."""
        try:
            answer = await self.run("inspect a container", lambda api: api.inspect_container(ref))
        except RefusedError as e:
            if e.status == 404:
                return None
            raise as_engine_error(e) from None
        return tuple(
            ContainerMount(str(m["Source"]), str(m["Destination"]), bool(m.get("RW", True)))
            for m in answer.get("Mounts", [])
            if m.get("Source")
        )

    async def containers(self, label: str) -> list[tuple[str, bool, Mapping[str, str]]]:
        """``(id, running, labels)`` of every container with ``label`` (``key=value``)."""
        answer = await self.run(
            "list containers", lambda api: api.containers(all=True, filters={"label": [label]})
        )
        return [
            (str(c["Id"]), c["State"] == "running", dict(c.get("Labels") or {})) for c in answer
        ]

    async def ensure_network(self, name: str, options: Mapping[str, str], **more: object) -> None:
        """Make a bridge network unless there is one of that name."""

        def make(api: docker.APIClient) -> None:
            if not any(n["Name"] == name for n in api.networks(names=[name])):
                api.create_network(
                    name, driver="bridge", options=dict(options), check_duplicate=True, **more
                )

        with _tolerated(409):
            await self.run("make a network", make)

    async def remove_network(self, name: str) -> None:
        """Remove a network; one that is gone or still in use is fine."""
        with _tolerated(403, 404):
            await self.run("remove a network", lambda api: api.remove_network(name))

    async def join_network(self, ref: str, network: str) -> None:
        await self.run("join a network", lambda api: api.connect_container_to_network(ref, network))

    async def run_once(self, image: str, command: list[str], *, deadline: float) -> str:
        """Run a command in a fresh container without a network and return its stdout.

        Raises:
            RefusedError: it could not start, or ended with another exit code than 0 (status 0).
        """
        body: dict[str, object] = {
            "Image": image,
            "Entrypoint": command,
            "Cmd": [],
            "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "local"}},
        }
        answer = await self.run("create", lambda api: api.create_container_from_config(body))
        ref = str(answer["Id"])
        try:
            await self.start(ref)
            code = await self.run(
                "wait",
                lambda api: int(api.wait(ref, timeout=deadline)["StatusCode"]),
                deadline=deadline,
            )
            out = await self.run(
                "read a log", lambda api: bytes(api.logs(ref, stdout=True, stderr=code != 0))
            )
        finally:
            await self.remove(ref)
        text = out.decode("utf-8", "replace").strip()
        if code != 0:
            raise RefusedError(0, f"{command[0]} in {image} ended with {code}: {text[-500:]}")
        return text

    async def import_image(self, tar: Path, repository: str, tag: str) -> None:
        try:
            await self.run(
                "import an image",
                lambda api: api.import_image_from_file(str(tar), repository=repository, tag=tag),
                deadline=300,
            )
        except RefusedError as e:
            raise as_engine_error(e) from None

    def stream_build(self, context: BinaryIO, **options: object) -> Iterator[Event]:
        """Build from a tar context, line by line. Blocking."""
        yield from map(
            _event,
            self._api.build(
                fileobj=context, custom_context=True, decode=True, rm=True, forcerm=True, **options
            ),
        )

    def stream_pull(self, repository: str, tag: str) -> Iterator[Event]:
        """Pull an image, line by line. Blocking."""
        yield from map(_event, self._api.pull(repository, tag=tag, stream=True, decode=True))

    async def close(self) -> None:
        """Let go of the engine; calls that still run end by their own deadline."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._api.close)


def _event(raw: Mapping[str, object]) -> Event:
    text = raw.get("stream") or raw.get("status") or ""
    return Event(str(text).strip(), str(raw.get("error") or ""))


def as_engine_error(e: RefusedError) -> EngineError:
    """A refusal nobody has a plan for."""
    return EngineError(f"the engine refused ({e.status}): {e}", hint="look at the engine's log")


@contextlib.contextmanager
def _tolerated(*statuses: int) -> Iterator[None]:
    try:
        yield
    except RefusedError as e:
        if e.status not in statuses:
            raise as_engine_error(e) from None


def _address(host: str) -> EngineAddress:
    url = urlsplit(host)
    if url.scheme in ("unix", "http+unix"):
        return EngineAddress(socket=url.path or url.netloc)
    if url.scheme in ("tcp", "http", "https") and url.hostname:
        tls = _tls() if url.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY") else None
        return EngineAddress(host=url.hostname, port=url.port or 2375, tls=tls)
    raise EngineError(
        f"DOCKER_HOST={host} is not supported",
        hint="use unix:///path or tcp://host:port",
    )


def _tls() -> ssl.SSLContext:
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except OSError as e:
        raise EngineError(
            f"the engine's certificates in {directory} cannot be read: {e}",
            hint="set DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem",
        ) from None
    return context


def _check_socket(path: Path) -> None:
    """Tell "no engine" from "no permission" before a library blurs them."""
    try:
        allowed = path.stat() and os.access(path, os.R_OK | os.W_OK)
    except PermissionError:
        allowed = False
    except OSError as e:
        raise EngineError(
            f"no Docker engine: {path}: {e.strerror}",
            hint="install Docker and start it, set DOCKER_HOST, "
            'or set [sandbox] backend = "process"',
            code=ENGINE_SILENT,
        ) from None
    if not allowed:
        raise EngineError(
            f"no permission on {path}",
            hint="add yourself to its group (`sudo usermod -aG docker $USER`, log in again), "
            "or run with sudo",
            code="engine_permission",
        )
