"""The whole of ``config.toml`` as one value."""

from __future__ import annotations

from pydantic import Field, PrivateAttr

from runner.settings.group import GroupSettings as GroupSettings
from runner.settings.group import for_group
from runner.settings.tables import (
    Agent,
    Delivery,
    Gateway,
    GroupTable,
    Host,
    LoopControl,
    Model,
    ModelEntry,
    Name,
    People,
    Route,
    Sandbox,
    Server,
    Services,
    Store,
    Table,
    Tools,
)
from runner.settings.tables import OAuth as OAuth
from runner.settings.tables import Provider as Provider


class Settings(Table):
    """The whole ``config.toml``. Made by :func:`runner.settings.load.load_settings`."""

    default_model: Name = "kimi-code"
    default_thinking: bool = False
    default_yolo: bool = True
    models: dict[Name, Model] = Field(default_factory=dict)
    providers: dict[Name, Provider] = Field(default_factory=dict)
    loop_control: LoopControl = LoopControl()
    services: Services = Services()
    host: Host = Host()
    sandbox: Sandbox = Sandbox()
    server: Server = Server()
    store: Store = Store()
    gateway: Gateway = Gateway()
    people: People = People()
    delivery: Delivery = Delivery()
    tools: Tools = Tools()
    model_list: tuple[ModelEntry, ...] = Field((), strict=False)
    routes: dict[Name, Route] = Field(default_factory=dict)
    agent: Agent = Agent()
    groups: dict[Name, GroupTable] = Field(default_factory=dict)

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the operator: what works today and will not for ever."""
        return self._warnings

    def with_warnings(self, warnings: tuple[str, ...]) -> Settings:
        """The same settings with these warnings."""
        copy = self.model_copy()
        copy._warnings = warnings
        return copy

    def for_group(self, group_id: str, chosen: str = "") -> GroupSettings:
        """What holds for this group, whether or not the config names it. Pure.

        Args:
            chosen: the alias that the chat has taken instead of the configured one. One that there
                is no more, or that the group cannot use, counts for nothing.

        Raises:
            ConfigError: the id is empty or too long, or (in settings that were never loaded, so
                never checked) its model or provider does not exist.
        """
        return for_group(self, group_id, chosen)
