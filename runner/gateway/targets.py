"""Settings as an immutable table of everything that can be called. Pure but for reading secrets.

A target is one model, asked for with one credential at one place. The entries of ``model_list``
and the ``models`` of kimi-cli become targets alike; a key more is a target more.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pydantic import JsonValue

from runner import USER_AGENT
from runner.errors import ConfigError
from runner.gateway.cooldown import Key
from runner.settings import catalog
from runner.settings.schema import Settings
from runner.settings.secret import Secret
from runner.settings.tables import Model, ModelEntry, OAuth, Provider, Thinking
from runner.settings.vendors import (
    KIMI_CODE,
    MOONSHOT,
    VENDORS,
    Format,
    Kind,
    Retired,
    Vendor,
    current_id,
    format_of_base,
    split_model,
)

_LOGIN = OAuth(key="oauth/kimi-code")


@dataclass(frozen=True, slots=True)
class Credential:
    """A key, or a login of the host; neither for an API that asks for none.

    ``fingerprint`` names it without giving it away: the same key is the same, wherever it stands.
    """

    secret: Secret = field(default_factory=lambda: Secret(""))
    oauth: OAuth | None = None
    fingerprint: str = "none"


@dataclass(frozen=True, slots=True)
class Target:
    """One model with one credential.

    ``provider`` is the name that people see, ``vendor`` is empty for an API of one's own,
    ``model`` the id to ask for, ``base_url`` has no slash at its end. ``request_timeout`` is
    seconds to the first byte, ``cooldown`` of the first rest; ``context`` is tokens, 0 for unknown.
    """

    name: str
    provider: str
    vendor: str
    kind: Kind
    format: Format
    model: str
    base_url: str
    credential: Credential
    proxy: str = ""
    user_agent: str = USER_AGENT
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, JsonValue] = field(default_factory=dict)
    rpm: int | None = None
    request_timeout: float = 300.0
    cooldown: float = 60.0
    thinking_level: Thinking = ""
    temperature: float | None = None
    max_tokens: int | None = None
    max_tokens_field: str = ""
    streaming: bool = True
    context: int = 0

    @property
    def url(self) -> str:
        """Where a request is posted."""
        if self.format == "openai":
            return f"{self.base_url}/chat/completions"
        return f"{self.base_url.removesuffix('/v1')}/v1/messages"

    @property
    def key(self) -> Key:
        """What rests when it fails."""
        return Key(self.base_url, self.credential.fingerprint, self.model)

    @property
    def is_kimi(self) -> bool:
        return self.vendor in (KIMI_CODE, MOONSHOT) or self.kind == "kimi"


@dataclass(frozen=True, slots=True)
class Pool:
    """Targets that one name stands for, and the names to try when all of them fail."""

    name: str
    targets: tuple[Target, ...]
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """``disabled`` says of each name that cannot be called why not."""

    pools: Mapping[str, Pool]
    disabled: Mapping[str, str]
    retired: Mapping[str, Retired]

    @property
    def all(self) -> Iterator[Target]:
        for pool in self.pools.values():
            yield from pool.targets


def build_targets(settings: Settings, environ: Mapping[str, str] = os.environ) -> Targets:
    """Everything that the settings let be called. Build it anew when they, or a key, change.

    An entry whose key cannot be read is disabled and not an error: only calls for it fail.
    """
    found: dict[str, list[Target]] = {}
    fallbacks: dict[str, list[str]] = {}
    disabled: dict[str, str] = {}
    retired: dict[str, Retired] = {}
    for made in (*_from_list(settings, environ), *_from_models(settings, environ)):
        name = made.target.name
        if made.retired is not None:
            retired[made.retired.asked] = made.retired
        if made.problem:
            disabled.setdefault(name, made.problem)
            continue
        pool = found.setdefault(name, [])
        same = [n for n, target in enumerate(pool) if target.key == made.target.key]
        if not same:
            pool.append(made.target)
        for n in same:  # the list says more than a table of kimi-cli, but for this
            pool[n] = replace(pool[n], context=pool[n].context or made.target.context)
        fallbacks.setdefault(name, []).extend(made.fallbacks)
    pools = {
        name: Pool(name, tuple(targets), tuple(dict.fromkeys(fallbacks[name])))
        for name, targets in found.items()
    }
    return Targets(
        MappingProxyType(pools),
        MappingProxyType({name: why for name, why in disabled.items() if name not in pools}),
        MappingProxyType(retired),
    )


@dataclass(frozen=True, slots=True)
class _Made:
    target: Target
    fallbacks: tuple[str, ...] = ()
    problem: str = ""
    retired: Retired | None = None


def _from_models(settings: Settings, environ: Mapping[str, str]) -> Iterator[_Made]:
    for alias, model in settings.models.items():
        if (provider := settings.providers.get(model.provider)) is not None:
            yield _from_model(alias, model, provider, environ)


def _from_model(alias: str, model: Model, provider: Provider, environ: Mapping[str, str]) -> _Made:
    vendor = _vendor_of(provider)
    current, retired = current_id(vendor, model.model, provider.base_url)
    target = Target(
        name=alias,
        provider=model.provider,
        vendor=vendor.name if vendor else "",
        kind=_kind_of(provider),
        format="anthropic" if provider.type == "anthropic" else "openai",
        model=current,
        base_url=provider.base_url,
        credential=Credential(),
        headers=MappingProxyType(dict(provider.custom_headers)),
        context=model.max_context_size,
    )
    try:
        credential = _lent(provider, environ)
    except ConfigError as e:
        return _Made(target, problem=e.message)
    if credential is None:
        return _Made(target, problem=f'providers."{model.provider}" has neither oauth nor api_key')
    return _Made(replace(target, credential=credential), retired=retired)


def _from_list(settings: Settings, environ: Mapping[str, str]) -> Iterator[_Made]:
    for entry in settings.model_list:
        provider = settings.providers.get(entry.provider)
        target, retired = _target_of(entry, provider)
        if not entry.enabled:
            yield _Made(target, problem="enabled = false")
            continue
        try:
            credentials = _credentials(entry, provider, environ)
        except ConfigError as e:
            yield _Made(target, problem=e.message)
            continue
        for credential in credentials:
            yield _Made(replace(target, credential=credential), entry.fallbacks, retired=retired)


def _target_of(entry: ModelEntry, provider: Provider | None) -> tuple[Target, Retired | None]:
    named, model = split_model(entry.model, "" if provider else entry.provider)
    vendor = (_vendor_of(provider) or named) if provider else named
    base = entry.api_base or (provider.base_url if provider else vendor.base if vendor else "")
    current, retired = current_id(vendor, model, base)
    spoken: Format
    if entry.format != "auto":
        spoken = entry.format
    elif provider is not None and not entry.api_base:
        spoken = "anthropic" if provider.type == "anthropic" else "openai"
    elif entry.api_base or vendor is None:
        spoken = format_of_base(base)
    else:
        spoken = vendor.format
    kind: Kind = _kind_of(provider) if provider else vendor.kind if vendor else "openai"
    target = Target(
        name=entry.model_name,
        provider=entry.provider if provider else vendor.name if vendor else catalog.host_of(base),
        vendor=vendor.name if vendor else "",
        kind="anthropic" if spoken == "anthropic" and kind == "openai" else kind,
        format=spoken,
        model=current,
        base_url=base,
        credential=Credential(),
        proxy=entry.proxy,
        user_agent=entry.user_agent or USER_AGENT,
        headers=MappingProxyType(
            {**(provider.custom_headers if provider else {}), **entry.custom_headers}
        ),
        extra_body=MappingProxyType(dict(entry.extra_body)),
        rpm=entry.rpm,
        request_timeout=entry.request_timeout,
        cooldown=entry.cooldown,
        thinking_level=entry.thinking_level,
        temperature=entry.temperature,
        max_tokens=entry.max_tokens,
        max_tokens_field=entry.max_tokens_field,
        streaming=entry.streaming,
    )
    return target, retired


def _credentials(
    entry: ModelEntry, provider: Provider | None, environ: Mapping[str, str]
) -> list[Credential]:
    """One for each key.

    Raises:
        ConfigError: not one of them can be had.
    """
    if entry.auth == "oauth":
        return [_login(provider.oauth if provider and provider.oauth else _LOGIN)]
    found: list[Credential] = []
    failure: ConfigError | None = None
    for secret in (entry.api_key, *entry.api_keys):
        if not secret:
            continue
        try:
            found.append(_key(secret, environ))
        except ConfigError as e:  # the others still work
            failure = e
    if found:
        return found
    if failure is not None:
        raise failure
    lent = _lent(provider, environ) if provider is not None else None
    return [lent or Credential()]


def _lent(provider: Provider, environ: Mapping[str, str]) -> Credential | None:
    if provider.oauth is not None:
        return _login(provider.oauth)
    return _key(provider.api_key, environ) if provider.api_key else None


def _key(secret: Secret, environ: Mapping[str, str]) -> Credential:
    value = secret.reveal(environ)
    return Credential(secret, None, hashlib.sha256(value.encode()).hexdigest()[:16])


def _login(oauth: OAuth) -> Credential:
    name = f"{oauth.host} {oauth.key}"
    return Credential(oauth=oauth, fingerprint=hashlib.sha256(name.encode()).hexdigest()[:16])


def _vendor_of(provider: Provider) -> Vendor | None:
    match catalog.service_of(provider.base_url):
        case catalog.Service.KIMI_CODE:
            return VENDORS[KIMI_CODE]
        case catalog.Service.OPEN_PLATFORM:
            return VENDORS[MOONSHOT]
    if provider.type == "kimi":
        return VENDORS[KIMI_CODE if provider.oauth else MOONSHOT]
    return None


def _kind_of(provider: Provider) -> Kind:
    if provider.type == "kimi" or catalog.service_of(provider.base_url) is not None:
        return "kimi"
    return "anthropic" if provider.type == "anthropic" else "openai"
