from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from runner.gateway.routing import Router, build_router
from runner.settings.load import parse_settings, parse_toml
from runner.settings.schema import Settings

TOP = """
default_model = "kimi"
[models.kimi]
provider = "managed:kimi-code"
model = "kimi-for-coding"
[providers."managed:kimi-code"]
type = "kimi"
base_url = "https://api.kimi.com/coding/v1"
oauth = { storage = "file", key = "oauth/kimi-code" }
"""

Route = Callable[..., Router]


def settings_of(text: str, environ: Mapping[str, str] | None = None, top: str = TOP) -> Settings:
    """What loading a config file with this text gives."""
    path = Path("/config.toml")
    return parse_settings(parse_toml((top + text).encode(), path), environ or {}, path=path)


def entry(name: str, model: str, **fields: object) -> str:
    """One ``[[model_list]]``; TOML text is given as it is."""
    fields = {"api_key": f'"sk-{name}"', **fields}
    lines = [f"{key} = {value}" for key, value in fields.items()]
    return f'[[model_list]]\nmodel_name = "{name}"\nmodel = "{model}"\n' + "\n".join(lines) + "\n"


@pytest.fixture
def route() -> Route:
    def make(text: str = "", environ: Mapping[str, str] | None = None, top: str = TOP) -> Router:
        return build_router(settings_of(text, environ, top), environ or {})

    return make
