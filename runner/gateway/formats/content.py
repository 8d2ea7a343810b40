"""Content, one block or part at a time: text, images, documents; both ways. Pure.

What the other side has no word for becomes a short note in the text, so that neither the model
nor a reader is left to guess that something was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from runner.gateway.formats import Json
from runner.gateway.formats.fields import (
    BadField,
    an_object,
    maybe_list,
    maybe_object,
    maybe_text,
    text,
)

PDF = "application/pdf"
_DATA = "data:"
_BASE64 = ";base64,"
# Kimi's own files: https://platform.moonshot.ai/docs/api/files
_FILE = "ms://"


def to_chat(parts: list[Json]) -> str | list[Json] | None:
    """A chat message's ``content``: a string where one text says it all, else the parts."""
    if not parts:
        return None
    if len(parts) == 1 and parts[0]["type"] == "text":
        plain: str = parts[0]["text"]
        return plain
    return parts


def blocks_to_parts(content: Any, field: str = "content") -> list[Json]:
    """Anthropic content (a string or blocks) as chat parts; empty texts are left out.

    Raises:
        BadField: a block is malformed.
    """
    return _each(content, field, "blocks", block_to_parts)


def block_to_parts(block: Json) -> list[Json]:
    """One block of a user's message or a tool's result as chat parts."""
    match text(block, "type"):
        case "text":
            return _text_parts(text(block, "text"))
        case "image":
            return [_image_part(block)]
        case "document":
            return _document_parts(block)
        case "search_result":
            return _search_result_parts(block)
        case "tool_reference":
            return _text_parts(text(block, "tool_name"))
        case kind:
            return _text_parts(f"[content of type {kind} was left out]")


def parts_to_blocks(content: Any, field: str = "content") -> list[Json]:
    """Chat content (a string or parts) as Anthropic blocks; empty texts are left out.

    Raises:
        BadField: a part is malformed.
    """
    return _each(content, field, "parts", _part_to_blocks)


def _each(content: Any, field: str, kind: str, said: Callable[[Json], list[Json]]) -> list[Json]:
    """What each block or part of a content says; a string is one text."""
    if content is None:
        return []
    if isinstance(content, str):
        return _text_parts(content)
    if not isinstance(content, list):
        raise BadField(field, f"must be a string or a list of {kind}")
    found: list[Json] = []
    for index, item in enumerate(content):
        try:
            found += said(an_object(item, "type"))
        except BadField as e:
            raise e.inside(field, index) from None
    return found


def joined(parts: Iterable[Json]) -> str:
    """The texts among parts or blocks, as one."""
    return "".join(p["text"] for p in parts if p["type"] == "text")


def _text_parts(value: str) -> list[Json]:
    return [{"type": "text", "text": value}] if value else []


def _image_part(block: Json) -> Json:
    source = an_object(block.get("source"), "source")
    try:
        return {"type": "image_url", "image_url": {"url": _source_url(source)}}
    except BadField as e:
        raise e.inside("source") from None


def _source_url(source: Json) -> str:
    match text(source, "type"):
        case "base64":
            return _DATA + text(source, "media_type") + _BASE64 + text(source, "data")
        case "url":
            return text(source, "url")
        case "file":
            return _FILE + text(source, "file_id")
        case kind:
            raise BadField("type", f"{kind} is no source of content")


def _document_parts(block: Json) -> list[Json]:
    source = an_object(block.get("source"), "source")
    title = maybe_text(block, "title")
    try:
        match text(source, "type"):
            case "text":
                return _text_parts(_framed(title, text(source, "data")))
            case "content":
                return blocks_to_parts(source.get("content"))
            case "base64":
                file: Json = {"file_data": _source_url(source)}
                return [{"type": "file", "file": {"filename": title or "document.pdf"} | file}]
            case "file":
                return [{"type": "file", "file": {"file_id": text(source, "file_id")}}]
            case _:
                return _text_parts(_framed(title, _source_url(source)))
    except BadField as e:
        raise e.inside("source") from None


def _framed(title: str | None, body: str) -> str:
    return f"# {title}\n\n{body}" if title else body


def _search_result_parts(block: Json) -> list[Json]:
    head = f"{maybe_text(block, 'title') or ''} ({maybe_text(block, 'source') or ''})\n"
    return _text_parts(head + joined(blocks_to_parts(maybe_list(block, "content"))))


def _part_to_blocks(part: Json) -> list[Json]:
    match text(part, "type"):
        case "text":
            return _text_parts(text(part, "text"))
        case "refusal":
            return _text_parts(text(part, "refusal"))
        case "image_url":
            image = part.get("image_url")
            try:
                # Some clients give the bare URL.
                url = image if isinstance(image, str) else text(an_object(image, "url"), "url")
            except BadField as e:
                raise e.inside("image_url") from None
            return [{"type": "image", "source": _source_of(url)}]
        case "file":
            return _file_blocks(maybe_object(part, "file") or {})
        case kind:
            return _text_parts(f"[content of type {kind} was left out]")


def _source_of(url: str) -> Json:
    if url.startswith(_FILE):
        return {"type": "file", "file_id": url.removeprefix(_FILE)}
    head, mark, data = url.partition(_BASE64)
    if mark and head.startswith(_DATA):
        return {"type": "base64", "media_type": head.removeprefix(_DATA), "data": data}
    return {"type": "url", "url": url}


def _file_blocks(file: Json) -> list[Json]:
    name = maybe_text(file, "filename")
    if file_id := maybe_text(file, "file_id"):
        return [{"type": "document", "source": {"type": "file", "file_id": file_id}}]
    source = _source_of(maybe_text(file, "file_data") or "")
    if source["type"] != "base64":
        return _text_parts(f"[the file {name or ''} was left out]")
    block: Json = {"type": "document", "source": source}
    return [block | {"title": name} if name else block]
