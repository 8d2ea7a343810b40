"""Which model ids and base URLs belong together, and which ids are gone. Hosts as of 2026-11.

Kimi Code (a subscription, OAuth) and the open platform (a balance, API keys) are two services with
their own model ids, which ``models.toml`` lists. Only their own hosts are judged: any other base
URL may serve what it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from runner.settings.models import ServiceId, shipped

KIMI_CODE_BASE = "https://api.kimi.com/coding/v1"
OPEN_PLATFORM_BASE = "https://api.moonshot.cn/v1"


class Service(StrEnum):
    KIMI_CODE = "Kimi Code"
    OPEN_PLATFORM = "the open platform"


_HOSTS = {
    "api.kimi.com": Service.KIMI_CODE,
    "api.moonshot.cn": Service.OPEN_PLATFORM,
    "api.moonshot.ai": Service.OPEN_PLATFORM,
}
_VENDOR_DOMAINS = ("kimi.com", "moonshot.cn", "moonshot.ai")
_PATHS = {
    Service.KIMI_CODE: {"openai": "/coding/v1", "anthropic": "/coding"},
    Service.OPEN_PLATFORM: {"openai": "/v1", "anthropic": "/anthropic"},
}
_IDS: dict[Service, ServiceId] = {
    Service.KIMI_CODE: "kimi-code",
    Service.OPEN_PLATFORM: "open-platform",
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """``key`` (``model``, ``base_url`` or ``oauth``) is the one to change."""

    key: str
    text: str
    fix: str


def host_of(base_url: str) -> str:
    """Lower-case host name, empty when there is none."""
    return (urlsplit(base_url).hostname or "").rstrip(".")


def service_of(base_url: str) -> Service | None:
    """The vendor's service behind a base URL; ``None`` for everybody else's."""
    return _HOSTS.get(host_of(base_url))


def misfits_of_base(base_url: str, *, wire: str, oauth: bool) -> Iterator[Misfit]:
    """What is wrong with a provider's base URL. ``wire`` is ``openai`` or ``anthropic``."""
    service = service_of(base_url)
    host = host_of(base_url)
    if service is None:
        if any(host == d or host.endswith("." + d) for d in _VENDOR_DOMAINS):
            yield Misfit(
                "base_url",
                f"names {host}, which is not an API host",
                f'write "{KIMI_CODE_BASE}" (Kimi Code) or "{OPEN_PLATFORM_BASE}" (API key)',
            )
        return
    parts = urlsplit(base_url)
    path = _PATHS[service][wire]
    if parts.scheme != "https" or parts.path.rstrip("/") != path:
        yield Misfit(
            "base_url", f"is not the base URL of {service}", f'write "https://{host}{path}"'
        )
    if oauth and service is Service.OPEN_PLATFORM:
        yield Misfit(
            "oauth",
            f"is a Kimi Code login, but base_url is that of {service}",
            f'set base_url = "{KIMI_CODE_BASE}", or use an api_key of the open platform instead',
        )


def misfit_of_model(model: str, base_url: str) -> Misfit | None:
    """Why this upstream id cannot be asked for at that base URL."""
    asked = service_of(base_url)
    owner = shipped().service_of(model)
    if asked is Service.KIMI_CODE and owner == "open-platform":
        return Misfit(
            "model",
            f'is "{model}", a model of {Service.OPEN_PLATFORM}, but its provider calls {asked}',
            f'write "{_default(asked)}", or a provider with base_url = "{OPEN_PLATFORM_BASE}"',
        )
    if asked is Service.OPEN_PLATFORM and owner == "kimi-code":
        return Misfit(
            "model",
            f'is "{model}", a model of {Service.KIMI_CODE}, but its provider calls {asked}',
            f'write "{_default(asked)}", or a provider with base_url = "{KIMI_CODE_BASE}"',
        )
    return None


def gone(model: str, base_url: str) -> tuple[str, str] | None:
    """``(what happened, successor)`` of an id that is no longer served."""
    found = shipped().retired(model)
    if found is None:
        return None
    if service_of(base_url) is Service.KIMI_CODE:
        return found.sentence, _default(Service.KIMI_CODE)
    return found.sentence, found.successor


def _default(service: Service) -> str:
    return shipped().services[_IDS[service]].default
