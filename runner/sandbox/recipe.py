"""What our images are made of, and whether one is of this release.

Both are labels of the image: what it was built from, with and without its base.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import PermanentError
from runner.sandbox.context import inputs_hash, orchestrator_files, source_files

LABEL_INPUTS = "nanokimi.inputs"
LABEL_RELEASE = "nanokimi.release"

_AGENT_LIBRARIES = ("h11", "msgspec")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OF_EXTRA = re.compile(r";.*\bextra\b")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into an image: ``files`` by their names in the context, pip's ``requirements``."""

    dockerfile: str
    files: dict[str, Path]
    requirements: tuple[str, ...]

    @property
    def release(self) -> str:
        """Changes with our files and the libraries, not with the base."""
        return inputs_hash(self.files, *self.requirements)

    def labels(self, base: str) -> dict[str, str]:
        """What the image is labelled with; ``base`` is the id of the image below it."""
        inputs = inputs_hash(self.files, base, *self.requirements)
        return {LABEL_INPUTS: inputs, LABEL_RELEASE: self.release}


def agent_recipe() -> Recipe:
    """The agent's image. Raises: PermanentError: this installation lacks its files."""
    libraries = tuple(_pinned(name) for name in _AGENT_LIBRARIES)
    return Recipe("container/Dockerfile", source_files(), libraries)


def orchestrator_recipe() -> Recipe:
    """The image that ``compose.yaml`` runs. Raises: PermanentError: no source checkout."""
    files = orchestrator_files()
    # pip: with it the orchestrator builds the agent's image.
    requirements = (*_pinned_with_dependencies(_declared(files["pyproject.toml"])), "pip")
    return Recipe("container/orchestrator.Dockerfile", files, requirements)


def is_stale(labels: Mapping[str, str]) -> bool:
    """Whether an agent's image is of another release than this host: it may lack what the host
    offers, or speak otherwise. One that we have not built is not judged.
    """
    if LABEL_INPUTS not in labels:
        return False
    try:
        return labels.get(LABEL_RELEASE) != _our_release()
    except PermanentError:  # without the files there is nothing to build from, either
        return False


@functools.cache
def _our_release() -> str:
    return agent_recipe().release


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
