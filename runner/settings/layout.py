"""Every path below the data directory, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HOST_SOCKET = "host.sock"
"""Name of the Unix socket in a sandbox's run directory that leads to its host."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one data directory; ``root`` is absolute. Nothing is created here."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def api_token(self) -> Path:
        return self.credentials / "api-token"

    @property
    def webhook_secret(self) -> Path:
        """What webhooks are signed with."""
        return self.credentials / "webhook-secret"

    @property
    def database(self) -> Path:
        return self.root / "nanokimi.db"

    @property
    def host_id(self) -> Path:
        """The name by which the hosts of one database know the host of this directory."""
        return self.root / "host-id"

    @property
    def models(self) -> Path:
        """The operator's corrections to the facts about models, if there are any."""
        return self.root / "models.toml"

    @property
    def reasoning(self) -> Path:
        """What models thought before their tool calls; a cache, safe to delete when stopped."""
        return self.root / "reasoning.db"

    @property
    def gateway_state(self) -> Path:
        """Who rests after a failure; a cache too."""
        return self.root / "gateway.db"

    @property
    def caches_lock(self) -> Path:
        """Held by all that may keep caches at a provider."""
        return self.run / "caches.lock"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def host_lock(self) -> Path:
        """Held by the one host that serves this directory; holds its pid and URL as JSON."""
        return self.run / "host.lock"

    def workspace(self, folder: str) -> Path:
        return self.root / "groups" / folder

    def sessions(self, folder: str) -> Path:
        return self.root / "sessions" / folder

    def files(self, folder: str) -> Path:
        """The host's copies of files that the group's agent sent."""
        return self.root / "files" / folder

    def attachments(self, folder: str) -> Path:
        """Files that came with messages, a directory each, until the agent has them."""
        return self.root / "attachments" / folder

    def group_run(self, folder: str) -> Path:
        return self.run / folder

    def config_projection(self, folder: str) -> Path:
        return self.group_run(folder) / "config"

    def credentials_projection(self, folder: str) -> Path:
        return self.group_run(folder) / "credentials"

    def socket_dir(self, folder: str) -> Path:
        """Holds the group's socket; made by the host, mounted read-only."""
        return self.group_run(folder) / "socket"

    def agent_log(self, folder: str) -> Path:
        """What the agent wrote to stderr, kept over containers."""
        return self.root / "logs" / f"{folder}.log"
