"""The build contexts of our images: few files, in memory, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import runner
from runner.errors import PermanentError

# What the agent may import of this house; the import contracts hold it to that.
_MODULES = ("__init__.py", "errors.py", "model.py", "settings/__init__.py", "settings/container.py")
_PACKAGES = ("wire", "agent")
_IMAGE_FILES = (
    "container/Dockerfile",
    "container/precompile.py",
    "container/requirements.txt",
    "entrypoint.sh",
)
_ORCHESTRATOR_FILES = ("container/orchestrator.Dockerfile", "pyproject.toml")


def source_files() -> dict[str, Path]:
    """The agent image's files but its libraries: name in the context → path on disk.

    Raises:
        PermanentError: this installation lacks the files of the image.
    """
    package = Path(runner.__file__).parent
    files = {f"runner/{name}": package / name for name in _MODULES}
    for name in _PACKAGES:
        for path in sorted((package / name).rglob("*.py")):
            files[f"runner/{path.relative_to(package)}"] = path
    return files | _image_files(package, _IMAGE_FILES)


def orchestrator_files() -> dict[str, Path]:
    """The same for the orchestrator's image, which can build the agent's image in its turn.

    Raises:
        PermanentError: this is not a source checkout.
    """
    package = Path(runner.__file__).parent
    files = {
        f"runner/{path.relative_to(package)}": path
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", ".toml")
    }
    return files | _image_files(package, (*_IMAGE_FILES, *_ORCHESTRATOR_FILES))


def inputs_hash(files: Mapping[str, Path], *others: str) -> str:
    """Changes when any file or any of ``others`` changes; nothing else does."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    for other in others:
        digest.update(f"\0{other}".encode())
    return digest.hexdigest()


def pack(files: Mapping[str, Path]) -> io.BytesIO:
    """A tar of ``files`` with owners and times taken out, so that the engine's cache holds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in sorted(files.items()):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def library_files(target: Path) -> dict[str, Path]:
    """What pip left in ``target``, without its scripts."""
    return {
        f"container/lib/{path.relative_to(target)}": path
        for path in sorted(target.rglob("*"))
        if path.is_file() and path.relative_to(target).parts[0] != "bin"
    }


def _image_files(package: Path, names: Sequence[str]) -> dict[str, Path]:
    """From the source checkout, or the copy that a wheel carries."""
    for root in (package.parent, package / "sandbox" / "image"):
        if all((root / name).is_file() for name in names):
            return {name: root / name for name in names}
    raise PermanentError(
        f"the image's files ({', '.join(names)}) are not in this installation",
        hint="reinstall nanokimi, or run from a source checkout",
        code="installation_incomplete",
    )
