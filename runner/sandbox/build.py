"""Builds our images: base, libraries for that base, our files. Skips what is up to date.

The libraries are fetched on the host by pip for the base's Python and put into the build context:
no index setting, CA bundle or proxy of the host enters the build (see
``docs/decisions/0002-image-dependencies.md``).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ImageMissingError, PermanentError
from runner.sandbox.base import Progress, find_base
from runner.sandbox.context import library_files, pack
from runner.sandbox.engine import Engine, Event, RefusedError, as_engine_error
from runner.sandbox.recipe import LABEL_INPUTS, Recipe, agent_recipe, orchestrator_recipe

DEFAULT_TAG = "nanokimi-agent"
ORCHESTRATOR_TAG = "nanokimi"

BUILD_DEADLINE = 600.0
PIP_DEADLINE = 600.0
PROBE_DEADLINE = 60.0
PRUNED_AFTER = "1h"
"""A younger image without a name may be one that another build is just about to name."""

_MIN_PYTHON = (3, 11)
_FROM = re.compile(r"Step \d+/\d+ : FROM ")
_MADE = re.compile(r"---> ([0-9a-f]{12,64})")
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
    ca_bundle = ca_bundle or _default_ca_bundle()
    recipe = agent_recipe()
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
    ca_bundle = ca_bundle or _default_ca_bundle()
    recipe = orchestrator_recipe()
    return asyncio.run(_make(recipe, tag, base_image, offline_base, ca_bundle, progress, force))


async def _make(
    recipe: Recipe,
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
        labels = recipe.labels(base_made.ref if base_made else "")
        present = await engine.image(tag)
        built = force or present is None or not labels.items() <= present.labels.items()
        stages: list[str] = []
        if built:
            stages = await _build(engine, recipe, tag, base, labels, ca_bundle, progress)
        else:
            progress(f"{tag} is up to date")
        made = await engine.image(tag)
        if made is None:
            raise ImageMissingError(f"{tag} is not there after the build", hint="build again")
        if built:
            former = [present.ref] if present is not None and present.ref != made.ref else []
            await _forget(engine, [*former, *stages])
        return BuildResult(tag, made.ref, base, made.size, built)
    finally:
        await engine.close()


async def _build(
    engine: Engine,
    recipe: Recipe,
    tag: str,
    base: str,
    labels: dict[str, str],
    ca_bundle: Path | None,
    progress: Progress,
) -> list[str]:
    """Build; the images in which earlier stages ended."""
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
        labels=labels,
        timeout=int(BUILD_DEADLINE),
    )
    try:
        texts = await engine.run(
            "build", lambda _: _follow(events, progress), deadline=BUILD_DEADLINE
        )
    except RefusedError as e:
        raise as_engine_error(e) from None
    return stages_of(texts)


async def _forget(engine: Engine, images: list[str]) -> None:
    """Remove what this build has replaced, and what earlier ones could not, as it was in use."""
    for image in images:
        await engine.remove_if_unused(image)
    await engine.prune_images(LABEL_INPUTS, older_than=PRUNED_AFTER)


def stages_of(texts: Iterable[str]) -> list[str]:
    """The images in which all stages but the last ended: the builder leaves them without a name.

    ``texts`` are the lines of the classic builder, which is what the engine's API runs.
    """
    stages: list[str] = []
    last = ""
    for text in texts:
        if made := _MADE.fullmatch(text):
            last = made[1]
        elif last and _FROM.match(text):
            stages.append(last)
            last = ""
    return stages


def _follow(events: Iterator[Event], progress: Progress) -> list[str]:
    """Read the engine's progress to its end; its lines of steps and images. Blocking."""
    last: deque[str] = deque(maxlen=20)
    steps: list[str] = []
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
        if event.text.startswith(("Step ", "---> ")):
            steps.append(event.text)
    return steps


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
