"""Environment variables over the file: ``NANOKIMI_<TABLE>__<KEY>``, and names of older systems.

Pure: a raw table and a mapping in, a new raw table out. Our own names win over the older ones.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_origin

from runner.settings import catalog
from runner.settings.explain import is_table, plain, step, unknown_key
from runner.settings.problem import Problem, Where, Wrong
from runner.settings.schema import Settings
from runner.settings.tables import Server
from runner.settings.texts import address
from runner.settings.vendors import KIMI_CODE, split_model

PREFIX = "NANOKIMI_"
MAX_VALUE = 64 * 1024
_KIMI_CODE_NAMES = ("managed:kimi-code", "kimi-code", "kimi_code")


@dataclass(frozen=True, slots=True)
class Overlaid:
    """The file with the environment over it; ``origins`` says which variable set a key path."""

    raw: dict[str, Any]
    origins: dict[Where, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def overlay(raw: Mapping[str, Any], environ: Mapping[str, str]) -> Overlaid:
    """Apply every variable that is ours to a copy of ``raw``."""
    result = Overlaid(copy.deepcopy(dict(raw)))
    for name, where, value in _older_names(result.raw, environ):
        _put(result, where, value, name)
    for name in sorted(environ):
        path = name.removeprefix(PREFIX)
        if path == name or "__" not in path:
            continue  # NANOKIMI_DATA, NANOKIMI_LOG_LEVEL and so on are no part of the config
        found = _find(result.raw, path.split("__"), name)
        if isinstance(found, Problem):
            result.problems.append(found)
        else:
            where, kind = found
            _put(result, where, parse_value(environ[name], text=not _is_literal(kind)), name)
    return result


def parse_value(value: str, *, text: bool) -> object:
    """A TOML literal where it is one, else the text as it is; ``text`` takes only quoted ones."""
    if len(value) <= MAX_VALUE and "\n" not in value:
        try:
            parsed = tomllib.loads(f"value = {value}")
        except (ValueError, RecursionError):
            return value
        if list(parsed) == ["value"] and (not text or isinstance(parsed["value"], str)):
            literal: object = parsed["value"]
            return literal
    return value


def _is_literal(kind: Any) -> bool:
    return kind in (int, float, bool) or is_table(kind) or hasattr(kind, "__args__")


def _find(raw: dict[str, Any], parts: list[str], variable: str) -> tuple[Where, Any] | Problem:
    """Key path and type that ``PART__PART`` means, or the problem that says what is nearest."""
    where: tuple[str, ...] = ()
    kind: Any = Settings
    node: Any = raw
    for part in parts:
        if is_table(kind):
            known = {_spelled(key): key for key in kind.model_fields}
        elif isinstance(node, dict) and get_origin(kind) is dict:
            known = {_spelled(key): key for key in node}
        else:
            known = {}
        name = known.get(part.upper())
        if name is None:
            problem = unknown_key((*where, part.lower()), known.values())
            return Problem(
                (),
                f"the environment variable {variable} names no key: {_said(problem)}",
                problem.fix,
            )
        where = (*where, name)
        kind = step(kind, name)
        node = node.get(name) if isinstance(node, dict) else None
    return where, plain(kind)


def _said(problem: Problem) -> str:
    name = str(problem.where[-1])
    return f'"{name}" {problem.text}'


def _spelled(key: str) -> str:
    """How a key is written in a variable: ``managed:kimi-code`` is ``MANAGED_KIMI_CODE``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", key).strip("_").upper()


def _put(result: Overlaid, where: Where, value: object, variable: str) -> None:
    node: Any = result.raw
    for part in where[:-1]:
        node = node[part] if isinstance(part, int) else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            return  # the file is wrong there, and validation will say so
    node[where[-1]] = value
    result.origins[where] = variable


def _older_names(
    raw: dict[str, Any], environ: Mapping[str, str]
) -> Iterator[tuple[str, Where, object]]:
    """``(variable, key path, value)`` for the names that other systems have given."""
    yield from _listen(raw, environ)
    yield from _kimi_code_entries(raw, environ)
    providers = raw.get("providers")
    tables = providers if isinstance(providers, dict) else {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            continue
        base_url = table.get("base_url")
        base = base_url if isinstance(base_url, str) else ""
        here: Where = ("providers", name)
        if name in _KIMI_CODE_NAMES or _serves(base, catalog.Service.KIMI_CODE):
            if value := environ.get("PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE"):
                yield "PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE", (*here, "base_url"), value
            if value := environ.get("PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY"):
                # It asks for a key instead of the login that the file names.
                table.pop("oauth", None)
                yield "PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY", (*here, "api_key"), value
        elif _serves(base, catalog.Service.OPEN_PLATFORM):
            if value := environ.get("MOONSHOT_BASE_URL"):
                yield "MOONSHOT_BASE_URL", (*here, "base_url"), value
        elif _host(base) == "zenmux.ai" and (value := environ.get("ZENMUX_API_KEY")):
            yield "ZENMUX_API_KEY", (*here, "api_key"), value
        if isinstance(table.get("oauth"), dict):
            for variable in ("KIMI_OAUTH_HOST", "KIMI_CODE_OAUTH_HOST"):  # the second one wins
                if value := environ.get(variable):
                    yield variable, (*here, "oauth", "host"), value


def _kimi_code_entries(
    raw: dict[str, Any], environ: Mapping[str, str]
) -> Iterator[tuple[str, Where, object]]:
    """Entries of ``model_list`` for Kimi Code take what they leave open; a pool keeps its keys."""
    entries = raw.get("model_list")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        model = entry.get("model") if isinstance(entry, dict) else None
        if not isinstance(model, str):
            continue
        vendor, _ = split_model(model, str(entry.get("provider", "")))
        if vendor is None or vendor.name != KIMI_CODE:
            continue
        base = environ.get("PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE")
        if base and "api_base" not in entry:
            yield "PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE", ("model_list", index, "api_base"), base
        key = environ.get("PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY")
        if key and not entry.keys() & {"api_key", "api_keys", "auth"}:
            yield "PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY", ("model_list", index, "api_key"), key


def _listen(raw: dict[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[str, Where, object]]:
    server = raw.get("server")
    listen = server.get("listen") if isinstance(server, dict) else None
    try:
        host, port = address(listen if isinstance(listen, str) else Server().listen)
    except Wrong:
        return  # the file is wrong there, and validation will say so
    new_host, new_port = environ.get("PROXY_HOST") or host, environ.get("PROXY_PORT") or str(port)
    if (new_host, new_port) != (host, str(port)):
        variable = "PROXY_HOST" if new_host != host else "PROXY_PORT"
        shown = f"[{new_host}]" if ":" in new_host else new_host
        yield variable, ("server", "listen"), f"{shown}:{new_port}"


def _serves(base_url: str, service: catalog.Service) -> bool:
    try:
        return catalog.service_of(base_url) is service
    except ValueError:
        return False


def _host(base_url: str) -> str:
    try:
        return catalog.host_of(base_url)
    except ValueError:
        return ""
