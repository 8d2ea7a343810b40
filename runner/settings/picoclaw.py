"""A JSON config of the picoclaw family as a ``config.toml``: its model list or older providers.

Pure. Keys leave the text: each becomes a file below ``credentials/``, named from the config. What
has no counterpart is said, not dropped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import tomli_w

from runner.errors import ConfigError
from runner.settings.vendors import Vendor, current_id, split_model

MAX_BYTES = 1024 * 1024
_HEAD = "# Made by `nanokimi import picoclaw`. docs/configuration.md explains every key.\n\n"

# As they are, when they have the right type.
_TEXTS = ("api_base", "proxy", "user_agent", "max_tokens_field")
_TABLES = ("custom_headers", "extra_body")
_KNOWN = {
    *_TEXTS,
    *_TABLES,
    *("model_name", "model", "provider", "enabled", "api_key", "api_keys", "auth", "auth_method"),
    *("fallbacks", "rpm", "request_timeout", "cooldown", "thinking_level", "streaming"),
    *("temperature", "max_tokens"),
}
_DUCK = "duckduckgo"
MAX_RESULTS = 50
_THINKING = {"off": "off", "low": "low", "medium": "medium", "high": "high", "xhigh": "max"}

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Imported:
    """``secrets`` by path below the data directory; ``notes`` are sentences for the operator."""

    text: str
    secrets: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...]


def convert(document: bytes) -> Imported:
    """The whole of a picoclaw config.

    Raises:
        ConfigError: it is not JSON, or names no model.
    """
    if len(document) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES} bytes", hint="is it the right one?")
    try:
        raw = json.loads(document)
    except (ValueError, RecursionError) as e:
        raise ConfigError(
            f"the file is not JSON: {e}", hint="name picoclaw's config.json"
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError("the file is not a JSON object", hint="name picoclaw's config.json")
    return _Conversion(cast("dict[str, object]", raw)).run()


class _Conversion:
    def __init__(self, raw: Json) -> None:
        self._raw = raw
        self._defaults = _table(_table(raw, "agents"), "defaults")
        self._secrets: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._notes: list[str] = []

    def run(self) -> Imported:
        chosen, fallbacks = self._choice()
        entries = [*self._entries(), *self._older_entries(chosen)]
        if not entries:
            raise ConfigError(
                "the file names no model",
                hint="it needs model_list, or providers and agents.defaults.model",
            )
        names = {str(entry["model_name"]) for entry in entries}
        default = self._default(chosen, entries)
        for name in fallbacks:
            if name not in names:
                self._note(f'the fallback "{name}" is defined nowhere and was left out')
        for entry in entries:
            if entry["model_name"] == default and (known := [f for f in fallbacks if f in names]):
                entry["fallbacks"] = known
        text = tomli_w.dumps(self._document(default, entries))
        self._rest()
        return Imported(_HEAD + text, self._secrets, tuple(dict.fromkeys(self._notes)))

    def _note(self, text: str) -> None:
        self._notes.append(text)

    # -- what is there --------------------------------------------------------------------------

    def _choice(self) -> tuple[str, list[str]]:
        """The model that agents use and its fallbacks: an alias, or the older raw id."""
        model = self._defaults.get("model")
        if isinstance(model, dict):
            return _text(model, "primary"), _texts(model.get("fallbacks"))
        name = _text(self._defaults, "model_name") or _text(self._defaults, "model")
        return name, _texts(self._defaults.get("model_fallbacks"))

    def _entries(self) -> Iterator[dict[str, Any]]:
        listed = self._raw.get("model_list")
        for number, entry in enumerate(listed if isinstance(listed, list) else []):
            if not isinstance(entry, dict) or not _text(entry, "model"):
                self._note(f"model_list[{number}] names no model and was left out")
                continue
            name = _text(entry, "model_name") or _text(entry, "model")
            yield self._entry(name, entry)

    def _older_entries(self, chosen: str) -> Iterator[dict[str, Any]]:
        """``providers.NAME`` with ``agents.defaults.{provider, model}``."""
        wanted = _text(self._defaults, "provider")
        for name, provider in _table(self._raw, "providers").items():
            if not isinstance(provider, dict) or not any(provider.values()):
                continue
            vendor, _ = split_model(chosen, name)
            if name != wanted or not chosen:
                self._note(f"providers.{name} is used by no model and was left out")
                continue
            if vendor is None and not _text(provider, "api_base"):
                self._note(f"providers.{name} is no known vendor and has no api_base: left out")
                continue
            model = f"{vendor.name}/{split_model(chosen)[1]}" if vendor else chosen
            yield self._entry(chosen, {**provider, "model": model})

    def _entry(self, name: str, entry: Json) -> dict[str, Any]:
        made: dict[str, Any] = {"model_name": name, "model": _text(entry, "model")}
        if provider := _text(entry, "provider"):
            made["provider"] = provider
        if entry.get("enabled") is False:
            made["enabled"] = False
        keys = [k for k in (_text(entry, "api_key"), *_texts(entry.get("api_keys"))) if k]
        if (_text(entry, "auth") or _text(entry, "auth_method")) == "oauth":
            made["auth"] = "oauth"
        elif keys:
            made["api_key"] = self._secret(name, keys[0])
            if keys[1:]:
                made["api_keys"] = [self._secret(name, key) for key in keys[1:]]
        made |= {key: value for key in _TEXTS if (value := _text(entry, key))}
        made |= {key: value for key in _TABLES if (value := _without_null(_table(entry, key)))}
        if fallbacks := _texts(entry.get("fallbacks")):
            made["fallbacks"] = fallbacks
        if (rpm := _number(entry, "rpm")) is not None and rpm >= 1:
            made["rpm"] = int(rpm)
        for key in ("request_timeout", "cooldown"):
            if seconds := _number(entry, key):
                made[key] = seconds
        if level := _text(entry, "thinking_level"):
            if level in _THINKING:
                made["thinking_level"] = _THINKING[level]
            else:
                self._note(f'{name}: thinking_level "{level}" has no counterpart')
        streaming = entry.get("streaming")
        if streaming is False or (
            isinstance(streaming, dict) and streaming.get("enabled") is False
        ):
            made["streaming"] = False
        for key in ("temperature", "max_tokens"):
            own = _number(entry, key)
            number = _number(self._defaults, key) if own is None else own
            if number is not None:
                made[key] = int(number) if key == "max_tokens" else number
        for key in entry.keys() - _KNOWN:
            self._note(f"{name}: {key} has no counterpart and was left out")
        return made

    def _secret(self, name: str, key: str) -> str:
        """The reference that takes a key's place; the same key is the same file."""
        if key.startswith("file://"):
            return f"file:{key.removeprefix('file://')}"
        if key not in self._files:
            slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "key"
            path = f"credentials/{slug}-{len(self._files) + 1}.key"
            self._files[key] = path
            self._secrets[path] = key
        return f"file:{self._files[key]}"

    # -- what becomes of it ---------------------------------------------------------------------

    def _default(self, chosen: str, entries: list[dict[str, Any]]) -> str:
        names = [str(e["model_name"]) for e in entries if e.get("enabled", True)]
        if chosen in names or not names:
            return chosen
        for entry in entries:
            if chosen and chosen in (entry["model"], str(entry["model"]).partition("/")[2]):
                return str(entry["model_name"])
        if chosen:
            self._note(f'the default model "{chosen}" is defined nowhere; it is now "{names[0]}"')
        return names[0]

    def _document(self, default: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Agents get their model by ``[models]`` and ``[providers]``, everybody by the list."""
        document: dict[str, Any] = {"default_model": default}
        entry = next((e for e in entries if e["model_name"] == default), entries[0])
        vendor, model = split_model(str(entry["model"]), str(entry.get("provider", "")))
        base = str(entry.get("api_base") or (vendor.base if vendor else ""))
        provider = self._provider(entry, vendor, base.rstrip("/"))
        name = vendor.name if vendor else "imported"
        current, _ = current_id(vendor, model, base)
        document["models"] = {default: {"provider": name, "model": current}}
        document["providers"] = {name: provider}
        if steps := _number(self._defaults, "max_tool_iterations"):
            document["loop_control"] = {"max_steps_per_turn": max(1, int(steps))}
        if search := self._search():
            document["tools"] = {"web_search": search}
        document["model_list"] = entries
        return document

    def _provider(self, entry: dict[str, Any], vendor: Vendor | None, base: str) -> dict[str, Any]:
        kind = "kimi" if vendor and vendor.kind == "kimi" else "openai"
        made: dict[str, Any] = {"type": kind, "base_url": base}
        if entry.get("auth") == "oauth":
            made["oauth"] = {"storage": "file", "key": "oauth/kimi-code"}
            self._note("run `nanokimi login` for the login that this config uses")
        else:
            made["api_key"] = entry.get("api_key", "")
        if headers := entry.get("custom_headers"):
            made["custom_headers"] = headers
        return made

    def _search(self) -> dict[str, Any]:
        """``tools.web.duckduckgo`` is the switch of web_search; no other engine has a key here."""
        tools = _table(self._raw, "tools")
        web = _table(tools, "web")
        for path, left in (("tools", tools.keys() - {"web"}), ("tools.web", web.keys() - {_DUCK})):
            for key in sorted(left):
                self._note(f"{path}.{key}: has no counterpart in config.toml and was left out")
        duckduckgo = _table(web, _DUCK)
        made: dict[str, Any] = {}
        if isinstance(enabled := duckduckgo.get("enabled"), bool):
            made = {"engine": _DUCK} if enabled else {"enabled": False}
        most = _number(duckduckgo, "max_results")
        if most is not None and 1 <= most <= MAX_RESULTS:
            made["max_results"] = int(most)
        elif "max_results" in duckduckgo:
            self._note(f"tools.web.{_DUCK}.max_results is no number from 1 to {MAX_RESULTS}")
        return made

    def _rest(self) -> None:
        for key in ("workspace", "restrict_to_workspace"):
            if key in self._defaults:
                self._note(f"agents.defaults.{key}: every group has its own workspace here")
        for key in self._raw.keys() - {"agents", "model_list", "providers", "tools"}:
            self._note(f"{key}: has no counterpart in config.toml and was left out")


def _table(holder: Json, key: str) -> dict[str, object]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _text(holder: Json, key: str) -> str:
    value = holder.get(key)
    return value.strip() if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    return [v for v in value if isinstance(v, str) and v] if isinstance(value, list) else []


def _number(holder: Json, key: str) -> float | None:
    value = holder.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < 1e9 else None


def _without_null(value: Any) -> Any:
    """TOML has no null."""
    match value:
        case dict():
            return {k: _without_null(v) for k, v in value.items() if v is not None}
        case list():
            return [_without_null(v) for v in value if v is not None]
    return value
