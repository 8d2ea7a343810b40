"""What a sandbox sees of the settings: one model, one provider, no secrets. Pure, byte-stable.

The text has kimi-cli's keys, so that a foreign engine can read it too; ``container`` reads it back.
"""

from __future__ import annotations

import json
from typing import Any

import tomli_w

from runner.settings.group import GroupSettings
from runner.settings.layout import HOST_SOCKET as HOST_SOCKET
from runner.settings.schema import Settings
from runner.settings.tables import Provider

ISOLATED_BASE_URL = "http://nanokimi.internal/v1"
TOOLS_KEY = "nanokimi-host"
_KEY_CREDENTIAL = "oauth/api-key"  # names the file that an API key travels in


def project_config(settings: Settings, of_group: GroupSettings, *, isolated: bool) -> str:
    """The ``config.toml`` of one group's sandbox.

    Isolated, the base URL leads nowhere: the model is reached through the Unix socket
    :data:`HOST_SOCKET` in the run directory, and the relay behind it adds the provider's headers.
    Otherwise the agent calls the provider itself. The credential is always the projected file that
    ``oauth.key`` names, also for an API key: the config holds no secret. The host's tools are at
    the socket either way, for its scoped token: :func:`project_tools_key` where that is another.
    """
    model, provider, loop = of_group.model, of_group.provider, settings.loop_control
    provider_table: dict[str, Any] = {
        "type": provider.type,
        "base_url": ISOLATED_BASE_URL if isolated else provider.base_url,
        "api_key": "",
        "oauth": {"storage": "file", "key": _credential_key(provider)},
    }
    if provider.custom_headers and not isolated:
        provider_table["custom_headers"] = dict(sorted(provider.custom_headers.items()))
    table: dict[str, Any] = {
        "default_model": of_group.alias,
        "default_thinking": settings.default_thinking,
        "default_yolo": settings.default_yolo,
        "models": {
            of_group.alias: {
                "provider": of_group.provider_name,
                "model": model.model,
                "max_context_size": model.max_context_size,
                "capabilities": list(model.capabilities),
            }
        },
        "providers": {of_group.provider_name: provider_table},
        # Both names of one setting: older and newer engines each read their own.
        "loop_control": {
            "max_steps_per_turn": loop.max_steps_per_turn,
            "max_retries_per_step": loop.retries,
            "max_attempts_per_step": loop.retries + 1,
            "max_ralph_iterations": loop.max_ralph_iterations,
            "reserved_context_size": loop.reserved_context_size,
        },
        "services": {},
    }
    if isolated:
        table["nanokimi"] = {"model_socket": HOST_SOCKET, "tools_socket": HOST_SOCKET}
    else:
        table["nanokimi"] = {"tools_socket": HOST_SOCKET, "tools_key": TOOLS_KEY}
    return tomli_w.dumps(table)


def project_credentials(provider: Provider, token: str, expires_at: float) -> dict[str, str]:
    """The credential files of a sandbox, by name: an access token and never a refresh token.

    Args:
        token: the access token, the API key, or a token that only the host's relay accepts.
        expires_at: Unix seconds.
    """
    content = {
        "access_token": token,
        "refresh_token": "",
        "expires_at": expires_at,
        "scope": "kimi-code",
        "token_type": "Bearer",
    }
    return {f"{_credential_key(provider).rsplit('/', 1)[-1]}.json": json.dumps(content) + "\n"}


def project_tools_key(token: str) -> dict[str, str]:
    """The credential file by which a sandbox that calls its provider itself uses the host's tools.

    Args:
        token: what only the host's relay accepts.
    """
    return {f"{TOOLS_KEY}.json": json.dumps({"access_token": token}) + "\n"}


def _credential_key(provider: Provider) -> str:
    return provider.oauth.key if provider.oauth else _KEY_CREDENTIAL
