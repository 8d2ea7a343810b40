"""Vendors that a model may be named after: ``vendor/model``, in any spelling. As of 2026-11.

A vendor lends its base URL and its way of speaking, so that an entry of ``model_list`` needs no
more than a key. Any other API is reached by ``api_base``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runner.settings import catalog

Format = Literal["openai", "anthropic"]
Kind = Literal["kimi", "openai", "anthropic"]

KIMI_CODE = "kimi-code"
MOONSHOT = "moonshot"


@dataclass(frozen=True, slots=True)
class Vendor:
    """``kind`` says whose error texts it uses. An Anthropic base ends before ``/v1/messages``."""

    name: str
    base: str
    format: Format = "openai"
    kind: Kind = "openai"
    needs_key: bool = True


VENDORS = {
    vendor.name: vendor
    for vendor in (
        Vendor(KIMI_CODE, catalog.KIMI_CODE_BASE, kind="kimi"),
        Vendor(MOONSHOT, catalog.OPEN_PLATFORM_BASE, kind="kimi"),
        Vendor("openai", "https://api.openai.com/v1"),
        Vendor("anthropic", "https://api.anthropic.com", "anthropic", "anthropic"),
        Vendor("zenmux", "https://zenmux.ai/api/anthropic", "anthropic", "anthropic"),
        Vendor("openrouter", "https://openrouter.ai/api/v1"),
        Vendor("deepseek", "https://api.deepseek.com/v1"),
        Vendor("groq", "https://api.groq.com/openai/v1"),
        Vendor("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
        Vendor("mistral", "https://api.mistral.ai/v1"),
        Vendor("zhipu", "https://open.bigmodel.cn/api/paas/v4"),
        Vendor("qwen", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
        Vendor("nvidia", "https://integrate.api.nvidia.com/v1"),
        Vendor("cerebras", "https://api.cerebras.ai/v1"),
        Vendor("ollama", "http://127.0.0.1:11434/v1", needs_key=False),
        Vendor("vllm", "http://127.0.0.1:8000/v1", needs_key=False),
    )
}

# Names that older systems gave to models; what has been retired since is `catalog`'s business.
_ALIASES = {
    "kimi-v1": "moonshot-v1-8k",
    "kimi-v1-32k": "moonshot-v1-32k",
    "kimi-v1-128k": "moonshot-v1-128k",
    "kimi-2.5": "kimi-k2.5",
}


@dataclass(frozen=True, slots=True)
class Retired:
    """A name that is no longer served: ``asked`` ``happened``, ``successor`` takes its place."""

    asked: str
    happened: str
    successor: str

    def __str__(self) -> str:
        return f'"{self.asked}" {self.happened}; "{self.successor}" is used instead'


def vendor_named(name: str) -> Vendor | None:
    """``kimi_code``, ``Kimi-Code`` and ``kimi-code`` are one."""
    return VENDORS.get(name.strip().lower().replace("_", "-"))


def split_model(model: str, provider: str = "") -> tuple[Vendor | None, str]:
    """The vendor and its own id of a model, from ``vendor/id``, ``id`` or both fields.

    A first part that is no known vendor belongs to the id, as in ``meta/llama-4``.
    """
    named = vendor_named(provider)
    first, slash, rest = model.partition("/")
    prefix = vendor_named(first) if slash and rest else None
    if named is not None:
        return named, rest if prefix is named else model
    if prefix is not None and not provider:
        return prefix, rest
    return (None if provider else _vendor_of_id(model)), model


def current_id(vendor: Vendor | None, model: str, base: str) -> tuple[str, Retired | None]:
    """The id to ask for today, and what became of the one that was named.

    Only the vendor's own hosts are judged; elsewhere an old name may still be served. The ids of
    Kimi Code are product names, so those follow the product to any host.
    """
    known = _ALIASES.get(model, model)
    official = catalog.service_of(base) is not None
    if vendor is not None and (official or vendor.name == KIMI_CODE):
        found = catalog.gone(known, base)
        if found is not None:
            happened, successor = found
            return successor, Retired(model, happened, successor)
    return known, None


def format_of_base(base: str) -> Format:
    """How an API speaks, by its URL: Anthropic's where the path says so."""
    if base.endswith("/anthropic") or catalog.host_of(base) == "api.anthropic.com":
        return "anthropic"
    kimi_code = catalog.service_of(base) is catalog.Service.KIMI_CODE
    return "anthropic" if kimi_code and base.endswith("/coding") else "openai"


def _vendor_of_id(model: str) -> Vendor | None:
    """Kimi's ids say by themselves which of its two services they belong to."""
    known = _ALIASES.get(model, model)
    if catalog.misfit_of_model(known, catalog.OPEN_PLATFORM_BASE):
        return VENDORS[KIMI_CODE]
    if catalog.misfit_of_model(known, catalog.KIMI_CODE_BASE):
        return VENDORS[MOONSHOT]
    return None
