from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from runner.errors import ConfigError
from runner.settings.load import load_settings
from runner.settings.schema import Settings

MODELS = """
[models.kimi-code]
provider = "managed:kimi-code"
model = "kimi-for-coding"
max_context_size = 200000
capabilities = ["thinking"]
"""
PROVIDERS = """
[providers."managed:kimi-code"]
type = "kimi"
base_url = "https://api.kimi.com/coding/v1"
api_key = ""
oauth = { storage = "file", key = "oauth/kimi-code" }
"""
TOP = 'default_model = "kimi-code"\n'
WORKING = TOP + MODELS + PROVIDERS

Load = Callable[..., Settings]
Refused = Callable[..., ConfigError]


class Data:
    """A data directory that takes a config text and loads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "config.toml"

    def load(
        self,
        extra: str = "",
        *,
        top: str = TOP,
        models: str = MODELS,
        providers: str = PROVIDERS,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        self.path.write_text(top + models + providers + extra, "utf-8")
        return load_settings(self.root, environ or {})

    def refused(self, extra: str = "", **parts: object) -> ConfigError:
        """The error of a config that must not load; its file is named."""
        with pytest.raises(ConfigError) as caught:
            self.load(extra, **parts)  # type: ignore[arg-type]  # passed through as they are
        assert str(self.path) in caught.value.message
        return caught.value


@pytest.fixture
def data(tmp_path: Path) -> Data:
    root = tmp_path / "data"
    root.mkdir()
    return Data(root)
