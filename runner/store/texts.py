"""What people and models write, as every database can hold it."""

from __future__ import annotations

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

_MARK = "\N{REPLACEMENT CHARACTER}"


class FreeText(TypeDecorator[str]):
    """Text from outside. PostgreSQL holds no NUL, and nothing holds half a surrogate pair.

    Both become a replacement character: a model that writes one must not make its answer
    impossible to keep.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


def storable(value: str) -> str:
    """The text without what no database holds. Most texts are themselves."""
    if "\0" in value:
        value = value.replace("\0", _MARK)
    try:
        value.encode()
    except UnicodeEncodeError:
        return "".join(_MARK if "\ud800" <= ch <= "\udfff" else ch for ch in value)
    return value
