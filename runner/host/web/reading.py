"""A page's bytes as text, made by a process of its own.

HTML of strangers can keep a parser busy for minutes, or have it take all memory; in a process it
has a deadline and limits, and the host goes on. This module is both sides: :func:`read_html` starts
the process, and ``python -m runner.host.web.reading`` is it. It gets the page on stdin, and answers
with one JSON object on stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import sys
from dataclasses import dataclass

from runner.errors import NanokimiError, TemporaryError

COMMAND = (sys.executable, "-P", "-m", "runner.host.web.reading")
MAX_CHARS = 1_000_000
_MAX_ANSWER = 12 * MAX_CHARS  # JSON may write a character as two \\uXXXX
_MEMORY = 1 << 30
_CPU_SECONDS = 20
_CHARSETS = re.compile(
    r"(us-)?ascii|utf-?(8|16|16le|16be|32)|iso-?8859-\d{1,2}|latin-?1|windows-125\d|cp125\d"
    r"|gb2312|gbk|gb18030|big5(-hkscs)?|shift[_-]jis|euc-(jp|kr)|iso-2022-jp|koi8-[ru]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Read:
    """The words of a page; both may be empty."""

    title: str
    text: str


async def read_html(page: bytes, url: str, charset: str) -> Read:
    """The main text of an HTML page, as Markdown with absolute links.

    The caller sets the deadline: when it is cancelled, the process is killed.

    Args:
        charset: from the HTTP header; empty when it said nothing.

    Raises:
        TemporaryError: ``page_unreadable``, when its parser gave up or was stopped.
    """
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ},
    )
    try:
        head = json.dumps({"url": url, "charset": charset}).encode() + b"\n"
        answer, _ = await process.communicate(head + page)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _unreadable()
    try:
        told = json.loads(answer)
        return Read(str(told["title"]), str(told["text"]))
    except (ValueError, KeyError, TypeError):
        raise _unreadable() from None


def decode(body: bytes, charset: str) -> str:
    """Text in the charset that the server named, if it is one of the web's; else as UTF-8."""
    if body.startswith(b"\xef\xbb\xbf"):
        charset = "utf-8-sig"
    elif body.startswith((b"\xff\xfe", b"\xfe\xff")):
        charset = "utf-16"
    elif not _CHARSETS.fullmatch(charset):
        charset = "utf-8"
    try:
        return body.decode(charset, "replace")
    except (LookupError, UnicodeError):
        return body.decode("utf-8", "replace")


def extract(page: bytes, url: str, charset: str) -> Read:
    """What :func:`read_html` does, in this process."""
    import trafilatura
    from trafilatura.metadata import extract_metadata

    html = decode(page, charset) if charset else page
    # A fragment without a body is taken for no page at all: then it is given one.
    for tried in (html, _in_body(html)):
        text = trafilatura.extract(
            tried,
            url=url,
            output_format="markdown",
            include_links=True,
            include_formatting=True,
            favor_recall=True,
        )
        if text:
            break
    title = (extract_metadata(html).title or "").strip()
    return Read(title[:500], (text or "").strip()[:MAX_CHARS])


def _in_body(html: str | bytes) -> str | bytes:
    if isinstance(html, str):
        return f"<html><body>{html}</body></html>"
    return b"<html><body>" + html + b"</body></html>"


def _main() -> None:
    """The process: limits first, then the page. The host and its agents have the CPU first."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    head = json.loads(sys.stdin.buffer.readline())
    read = extract(sys.stdin.buffer.read(), head["url"], head["charset"])
    sys.stdout.write(json.dumps({"title": read.title, "text": read.text}))


def _unreadable() -> NanokimiError:
    return TemporaryError(
        "the page could not be read: it is too large or too tangled",
        hint="try another page",
        code="page_unreadable",
    )


if __name__ == "__main__":
    _main()
