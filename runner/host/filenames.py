"""What files are called outside, whatever a stranger or an agent called them. Pure."""

from __future__ import annotations

import mimetypes
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath

MAX_NAME_BYTES = 150
_UNSAFE = frozenset('<>:"/\\|?*`$')
_OCTETS = "application/octet-stream"
# What a browser would run, were it ever to open it: shown as bytes, whatever the name says.
_ACTIVE = ("html", "xml", "svg", "javascript", "ecmascript", "x-shockwave-flash")

# Not the machine's own table: the same name has the same type everywhere.
_TYPES = mimetypes.MimeTypes()
_TYPES.add_type("text/markdown", ".md")
_TYPES.add_type("image/webp", ".webp")


def safe_name(name: str, taken: Collection[str] = ()) -> str:
    """A plain file name that is close to ``name``, and none of ``taken`` in any case of letters.

    It has no separators, no controls or marks that turn writing around, no leading dot or dash,
    and at most 150 bytes; its suffix stays.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(
        "_" if c in _UNSAFE else c if unicodedata.category(c)[0] not in "CZ" else " " for c in last
    )
    plain = " ".join(shown.split()).lstrip(".-~ ").rstrip(". ") or "file"
    used = {t.casefold() for t in taken}
    count, candidate = 1, _fit(plain, "")
    while candidate.casefold() in used:
        count += 1
        candidate = _fit(plain, f"-{count}")
    return candidate


def media_type(name: str) -> str:
    """The type that the suffix of ``name`` stands for; nobody looks into the file."""
    guessed, packed = _TYPES.guess_type(f"x{PurePosixPath(name).suffix}", strict=True)
    return guessed if guessed and not packed else _OCTETS


def harmless(type_: str) -> str:
    """A media type that no browser runs: another one for what it would."""
    return _OCTETS if any(word in type_.lower() for word in _ACTIVE) else type_


def _fit(name: str, mark: str) -> str:
    """``name`` with ``mark`` before its suffix, cut to its bytes."""
    suffix = PurePosixPath(name).suffix
    if len(suffix.encode()) > 20:
        suffix = ""
    stem = name[: len(name) - len(suffix)] if suffix else name
    room = MAX_NAME_BYTES - len(mark) - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + mark + suffix
