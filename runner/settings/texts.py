"""What a text value of the config must look like. Each function returns it or says the fix."""

from __future__ import annotations

import difflib
import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from runner.settings.problem import Wrong, shorten
from runner.settings.secret import Secret

CAPABILITIES = ("image_in", "video_in", "thinking", "always_thinking")
RW = ":rw"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s/@]+)):(\d{1,5})", re.ASCII)
_URL_FIX = 'write it like "https://api.kimi.com/coding/v1"'


def http_url(value: str, fix: str = _URL_FIX) -> str:
    """An http(s) URL without user, query and fragment; a slash at its end is dropped."""
    try:
        parts = urlsplit(value)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise Wrong("is not a URL", fix) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise Wrong("must be an http:// or https:// URL", fix)
    if not value.isascii() or not value.isprintable() or " " in value or len(value) > 2048:
        raise Wrong("holds characters that no URL has", fix)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Wrong("must not hold a user name, a ? or a #", fix)
    return value.rstrip("/")


def optional_http_url(value: str) -> str:
    return http_url(value) if value else ""


def optional_webhook(value: str) -> str:
    return http_url(value, 'write it like "https://bot.example.com/answers"') if value else ""


def capability(value: str) -> str:
    if value in CAPABILITIES:
        return value
    known = ", ".join(CAPABILITIES)
    if value == "tool_call":
        raise Wrong(
            'is "tool_call", which is no capability: tools always work',
            f"remove it; valid are {known}",
        )
    near = difflib.get_close_matches(value, CAPABILITIES, 1, 0.5)
    raise Wrong(
        f'is "{shorten(value, 40)}", which is no capability',
        f'did you mean "{near[0]}"? Valid are {known}' if near else f"valid are {known}",
    )


def storage(value: str) -> str:
    if value != "file":
        raise Wrong(f'is "{shorten(value, 40)}", but tokens are kept in files', 'write "file"')
    return value


def oauth_key(value: str) -> str:
    """A relative name like ``oauth/kimi-code``; its last component becomes a file name."""
    parts = value.split("/")
    if value.startswith(("/", "~")) or "\\" in value or re.match(r"[A-Za-z]:", value):
        raise Wrong("is a path, not the name of a login", f'write "oauth/{_stem(value)}"')
    if value.endswith(".json"):
        raise Wrong("is a file name, not the name of a login", f'write "oauth/{_stem(value)}"')
    if not all(_SAFE.fullmatch(p) for p in parts) or len(parts) > 4:
        raise Wrong(
            "must be a relative name of letters, digits, '.', '-' and '_'",
            'write "oauth/kimi-code"',
        )
    return value


def _stem(path: str) -> str:
    stem = re.split(r"[/\\]", path)[-1].removesuffix(".json")
    return stem if _SAFE.fullmatch(stem) else "kimi-code"


def headers(value: dict[str, str]) -> dict[str, str]:
    for name, content in value.items():
        if not _HEADER.fullmatch(name):
            raise Wrong(f'holds "{shorten(name, 40)}", which is no header name', "correct the name")
        if not content.isascii() or not (content.isprintable() or not content):
            raise Wrong(
                f"holds a value for {name} that HTTP cannot carry", "use printable ASCII only"
            )
    return value


def header_value(value: str) -> str:
    if value and not (value.isascii() and value.isprintable() and len(value) <= 512):
        raise Wrong("holds what HTTP cannot carry", "use printable ASCII only, at most 512")
    return value


def engine(value: object) -> object:
    """``"native"`` to ``()``; a command stays; the rest is for pydantic to refuse."""
    if value == "native":
        return ()
    fix = 'write "native", or the command of an ACP agent as a list: ["kimi", "acp"]'
    if isinstance(value, list | tuple):
        if not value or not all(isinstance(part, str) and part for part in value):
            raise Wrong("must be a list of at least one word", fix)
        return tuple(value)
    raise Wrong("must be a list of words", fix)


def listen(value: str) -> str:
    address(value)
    return value


def address(value: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT`` taken apart."""
    match = _LISTEN.fullmatch(value)
    if match is None or int(match[3]) > 65535:
        raise Wrong(
            f'is "{shorten(value, 60)}", not an address', 'write HOST:PORT, like "127.0.0.1:8420"'
        )
    return match[1] or match[2], int(match[3])


def timezone(value: str) -> str:
    """An IANA name of a time zone that this machine knows."""
    if value not in available_timezones():
        raise Wrong(
            f'must be a time zone, not "{shorten(value, 40)}"', 'write it like "Asia/Tokyo"'
        )
    return value


def store_url(value: Secret) -> Secret:
    """Only a literal can be judged now."""
    if value and value.origin == "literal":
        scheme = value.reveal().split("://")[0].split("+")[0]
        if scheme == "postgres":
            raise Wrong("begins with postgres://", "write postgresql:// instead")
        if scheme != "postgresql":
            raise Wrong(
                "must begin with postgresql://", 'write "" for SQLite in the data directory'
            )
    return value


def absolute(value: str) -> str:
    """An absolute path without ``..``."""
    if not value.startswith("/") or "\x00" in value or ".." in PurePosixPath(value).parts:
        raise Wrong("must be an absolute path without ..", 'write it like "/srv/shared"')
    return value


def allowed(value: str) -> str:
    absolute(value.removesuffix(RW))
    return value


def mount_name(value: str) -> str:
    if value and not _SAFE.fullmatch(value):
        raise Wrong(
            f'is "{shorten(value, 40)}", which is not a safe folder name',
            "use letters, digits, '.', '-' and '_', at most 64",
        )
    return value
