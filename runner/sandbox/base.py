"""The image that the agent's image is built on: local, pulled, or made from Debian packages."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from runner.errors import EngineError, ImageMissingError, PermanentError
from runner.sandbox.engine import Engine, RefusedError

DEFAULT_BASE = "python:3.13-slim"
OFFLINE_REPOSITORY, OFFLINE_TAG = "nanokimi-base", "trixie"
OFFLINE_BASE = f"{OFFLINE_REPOSITORY}:{OFFLINE_TAG}"

BOOTSTRAP_DEADLINE = 900.0
PULL_DEADLINE = 900.0
_PACKAGES = "python3,ca-certificates"
_LEFT_OUT = ("doc", "man", "info", "locale", "lintian", "bug")

Progress = Callable[[str], None]


async def find_base(
    engine: Engine,
    *,
    base_image: str | None,
    offline: bool | None,
    ca_bundle: Path | None,
    progress: Progress,
) -> str:
    """Make sure of a base image and return its name.

    ``base_image`` is taken as it is, pulled when missing. Else ``offline`` decides: ``True`` makes
    (or reuses) the Debian base, ``False`` wants the usual image, ``None`` takes what is local,
    then tries to pull, then makes the Debian base.

    Raises:
        ImageMissingError: no way led to a base; says each.
        EngineError: the engine does not answer.
    """
    if offline and base_image is None:
        return await _offline_base(engine, ca_bundle, progress)
    wanted = base_image or DEFAULT_BASE
    if await engine.image(wanted) is not None:
        return wanted
    automatic = base_image is None and offline is None
    if automatic and await engine.image(OFFLINE_BASE) is not None:
        return OFFLINE_BASE
    problem = await _pull(engine, wanted, progress)
    if not problem:
        return wanted
    if automatic and shutil.which("mmdebstrap"):
        progress(f"{wanted} cannot be pulled ({problem}); making a base from Debian packages")
        return await _offline_base(engine, ca_bundle, progress)
    raise ImageMissingError(
        f"the base image {wanted} is not there and cannot be pulled: {problem}",
        hint="install mmdebstrap and use `nanokimi build --offline-base`, "
        "or load the image into the engine (`docker load`)",
    )


async def _pull(engine: Engine, image: str, progress: Progress) -> str:
    """Pull; returns why it failed, or ``""``. A registry that is silent for 30 s has failed."""
    repository, _, tag = image.partition(":")
    progress(f"pulling {image}")

    def pull() -> str:
        for event in engine.stream_pull(repository, tag or "latest"):
            if event.error:
                return event.error
        return ""

    try:
        return await engine.run("pull", lambda _: pull(), deadline=PULL_DEADLINE)
    except (RefusedError, EngineError) as e:
        return str(e)


async def _offline_base(engine: Engine, ca_bundle: Path | None, progress: Progress) -> str:
    if await engine.image(OFFLINE_BASE) is not None:
        return OFFLINE_BASE
    if shutil.which("mmdebstrap") is None:
        raise ImageMissingError(
            "mmdebstrap is not installed", hint="apt install mmdebstrap, then build again"
        )
    with tempfile.TemporaryDirectory(prefix="nanokimi-base-") as directory:
        tar = Path(directory) / "base.tar"
        await _bootstrap(tar, ca_bundle, progress)
        progress(f"importing {OFFLINE_BASE}")
        await engine.import_image(tar, OFFLINE_REPOSITORY, OFFLINE_TAG)
    return OFFLINE_BASE


async def _bootstrap(tar: Path, ca_bundle: Path | None, progress: Progress) -> None:
    line = ["mmdebstrap", "--variant=essential", f"--include={_PACKAGES}"]
    line += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    if ca_bundle is not None:
        line += [f'--aptopt=Acquire::https::CAInfo "{ca_bundle}"']
    line += [OFFLINE_TAG, str(tar)]
    if mirror := host_mirror(_apt_sources()):
        line += [mirror]
    progress(f"making a base from Debian {OFFLINE_TAG} packages (half a minute)")
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(BOOTSTRAP_DEADLINE):
            _, words = await process.communicate()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        raise PermanentError(
            f"mmdebstrap failed: {words.decode('utf-8', 'replace').strip()[-800:]}",
            hint="is the Debian mirror of this machine reachable? `apt-get update`",
            code="base_failed",
        )


def _apt_sources() -> str:
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]
    return "\n".join(f.read_text("utf-8", "replace") for f in files if f.is_file())


def host_mirror(sources: str) -> str | None:
    """The Debian mirror in the host's apt sources (either format), ``None`` to take the usual."""
    for line in sources.splitlines():
        if line.lstrip().startswith("#"):
            continue
        if found := re.search(r"(?:^deb\s.*?|^URIs:.*?)(https?://\S+/debian/?)(?:\s|$)", line):
            return found[1]
    return None
