"""Builds our images: base, libraries for that base, our files. Skips what is up to date.

The libraries are fetched on the host by pip for the base's Python and put into the build context:
no index setting, CA bundle or proxy of the host enters the build (see
``docs/decisions/0002-image-dependencies.md``).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import sys
import tempfile
import tomllib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ImageMissingError, PermanentError
from runner.sandbox.base import Progress, find_base
from runner.sandbox.context import (
    inputs_hash,
    library_files,
    orchestrator_files,
    pack,
    source_files,
)
from runner.sandbox.engine import Engine, Event, RefusedError, as_engine_error

LABEL_INPUTS = "nanokimi.inputs"
DEFAULT_TAG = "nanokimi-agent"
ORCHESTRATOR_TAG = "nanokimi"

BUILD_DEADLINE = 600.0
PIP_DEADLINE = 600.0
PROBE_DEADLINE = 60.0
_MIN_PYTHON = (3, 11)
_AGENT_LIBRARIES = ("h11", "msgspec")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OF_EXTRA = re.compile(r";.*\bextra\b")
_PROBE = (
    "import platform, sys; v = sys.version_info; libc, n = platform.libc_ver(); "
    "print(v[0], v[1], platform.machine(), libc or 'musl', n or '1.2')"
)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """``built`` is false when the image was up to date; ``size`` in bytes."""

    tag: str
    image_id: str
    base: str
    size: int
    built: bool


@dataclass(frozen=True, slots=True)
class BasePython:
    """What the base's Python is, in the words of wheel tags."""

    major: int
    minor: int
    machine: str
    libc: str
    libc_version: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> BasePython:
        major, minor, machine, libc, version = text.split()
        first, second = (int(n) for n in version.split(".")[:2])
        return cls(int(major), int(minor), machine, libc, (first, second))

    def platforms(self) -> list[str]:
        """Wheel platforms that run there, newest first (PEP 600, PEP 656)."""
        name = "manylinux" if self.libc == "glibc" else "musllinux"
        oldest = 5 if self.libc == "glibc" else 1
        first, second = self.libc_version
        tags = [f"{name}_{first}_{n}_{self.machine}" for n in range(second, oldest - 1, -1)]
        return [*tags, f"manylinux2014_{self.machine}"] if self.libc == "glibc" else tags


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What goes into an image: ``files`` by their names in the context, pip's ``requirements``."""

    dockerfile: str
    files: dict[str, Path]
    requirements: tuple[str, ...]


def build_image(
    *,
    tag: str = DEFAULT_TAG,
    base_image: str | None = None,
    offline_base: bool | None = None,
    ca_bundle: Path | None = None,
    progress: Progress = lambda _: None,
    force: bool = False,
) -> BuildResult:
    """Build the agent's image unless it is up to date.

    Blocking: call it in a thread where an event loop runs.

    Args:
        base_image, offline_base: which base, see :func:`runner.sandbox.base.find_base`.
        ca_bundle: certificates for pip and the Debian mirror on this host; default
            ``$SSL_CERT_FILE``, then ``$PIP_CERT``. Never enters the image.
        progress: gets one line per step.
        force: build even when nothing changed.

    Raises:
        EngineError: no engine, or it failed. ImageMissingError: no base image.
        PermanentError: pip or the build failed; quotes it.
    """
    recipe = _Recipe(
        "container/Dockerfile", source_files(), tuple(_pinned(name) for name in _AGENT_LIBRARIES)
    )
    ca_bundle = ca_bundle or _default_ca_bundle()
    return asyncio.run(_make(recipe, tag, base_image, offline_base, ca_bundle, progress, force))


def build_orchestrator(
    *,
    tag: str = ORCHESTRATOR_TAG,
    base_image: str | None = None,
    offline_base: bool | None = None,
    ca_bundle: Path | None = None,
    progress: Progress = lambda _: None,
    force: bool = False,
) -> BuildResult:
    """Build the image that ``compose.yaml`` runs; everything else as in :func:`build_image`."""
    files = orchestrator_files()
    # pip: with it the orchestrator builds the agent's image.
    requirements = (*_pinned_with_dependencies(_declared(files["pyproject.toml"])), "pip")
    recipe = _Recipe("container/orchestrator.Dockerfile", files, requirements)
    ca_bundle = ca_bundle or _default_ca_bundle()
    return asyncio.run(_make(recipe, tag, base_image, offline_base, ca_bundle, progress, force))


async def _make(
    recipe: _Recipe,
    tag: str,
    base_image: str | None,
    offline_base: bool | None,
    ca_bundle: Path | None,
    progress: Progress,
    force: bool,
) -> BuildResult:
    engine = await Engine.connect()
    try:
        base = await find_base(
            engine,
            base_image=base_image,
            offline=offline_base,
            ca_bundle=ca_bundle,
            progress=progress,
        )
        base_made = await engine.image(base)
        inputs = inputs_hash(recipe.files, base_made.ref if base_made else "", *recipe.requirements)
        present = await engine.image(tag)
        built = force or present is None or present.labels.get(LABEL_INPUTS) != inputs
        if built:
            await _build(engine, recipe, tag, base, inputs, ca_bundle, progress)
        else:
            progress(f"{tag} is up to date")
        made = await engine.image(tag)
        if made is None:
            raise ImageMissingError(f"{tag} is not there after the build", hint="build again")
        return BuildResult(tag, made.ref, base, made.size, built)
    finally:
        await engine.close()


async def _build(
    engine: Engine,
    recipe: _Recipe,
    tag: str,
    base: str,
    inputs: str,
    ca_bundle: Path | None,
    progress: Progress,
) -> None:
    python = await _probe(engine, base)
    progress(f"fetching libraries for Python {python.major}.{python.minor} on {python.machine}")
    with tempfile.TemporaryDirectory(prefix="nanokimi-build-") as directory:
        target = Path(directory)
        await _fetch_libraries(target, recipe.requirements, python, ca_bundle)
        context = await asyncio.to_thread(pack, recipe.files | library_files(target))
    progress(f"building {tag} on {base}")
    events = engine.stream_build(
        context,
        tag=tag,
        dockerfile=recipe.dockerfile,
        buildargs={"BASE_IMAGE": base},
        labels={LABEL_INPUTS: inputs},
        timeout=int(BUILD_DEADLINE),
    )
    try:
        await engine.run("build", lambda _: _follow(events, progress), deadline=BUILD_DEADLINE)
    except RefusedError as e:
        raise as_engine_error(e) from None


def _follow(events: Iterator[Event], progress: Progress) -> None:
    """Read the engine's progress to its end. Blocking."""
    last: deque[str] = deque(maxlen=20)
    for event in events:
        if event.error:
            raise PermanentError(
                f"the image did not build: {event.error}",
                hint="its last words: " + " ".join(last)[-800:],
                code="build_failed",
            )
        if event.text:
            last.append(event.text)
        if event.text.startswith("Step "):
            progress(event.text.partition("   ")[0][:100])


async def _probe(engine: Engine, base: str) -> BasePython:
    try:
        text = await engine.run_once(base, ["python3", "-c", _PROBE], deadline=PROBE_DEADLINE)
        python = BasePython.parse(text)
    except (RefusedError, ValueError) as e:
        raise PermanentError(
            f"{base} cannot be a base: it does not run python3 ({e})",
            hint="use an image with Python >= 3.11 as python3",
            code="base_unusable",
        ) from None
    if (python.major, python.minor) < _MIN_PYTHON:
        raise PermanentError(
            f"{base} has Python {python.major}.{python.minor}",
            hint="use an image with Python >= 3.11 as python3",
            code="base_unusable",
        )
    return python


def _pinned(name: str) -> str:
    """The version that runs here, so that what is in the images is what was tested."""
    return f"{name}=={importlib.metadata.version(name)}"


def _declared(pyproject: Path) -> list[str]:
    return [str(line) for line in tomllib.loads(pyproject.read_text())["project"]["dependencies"]]


def _pinned_with_dependencies(requirements: Sequence[str]) -> list[str]:
    """These and all that they need, at the versions that run here.

    What is not installed here was ruled out by its condition; pip judges that again for the base.
    """
    wanted, pinned = list(requirements), dict[str, str]()
    while wanted:
        line = wanted.pop()
        name = _canonical(line)
        if name in pinned or _OF_EXTRA.search(line):
            continue
        try:
            pinned[name] = _pinned(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted += importlib.metadata.requires(name) or []
    return sorted(pinned.values())


def _canonical(requirement: str) -> str:
    """``Typing_Extensions>=4; …`` → ``typing-extensions`` (PEP 503)."""
    found = _NAME.match(requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


async def _fetch_libraries(
    target: Path, requirements: Sequence[str], python: BasePython, ca_bundle: Path | None
) -> None:
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-input"]
    line += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp"]
    line += [f"--python-version={python.major}.{python.minor}", f"--target={target}"]
    line += [f"--platform={platform}" for platform in python.platforms()]
    if ca_bundle is not None:
        line += [f"--cert={ca_bundle}"]
    line += requirements
    if (python.major, python.minor) < (3, 13):
        line += ["typing-extensions"]  # pip judges that condition by the host's own Python
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PIP_DEADLINE):
            _, words = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise PermanentError(
            f"pip could not fetch the image's libraries: "
            f"{words.decode('utf-8', 'replace').strip()[-800:]}",
            hint="check pip's index settings and its CA bundle (--ca-bundle); "
            "`python -m ensurepip` when pip itself is missing",
            code="build_failed",
        )


def _default_ca_bundle() -> Path | None:
    for name in ("SSL_CERT_FILE", "PIP_CERT"):
        if (value := os.environ.get(name)) and Path(value).is_file():
            return Path(value)
    return None
