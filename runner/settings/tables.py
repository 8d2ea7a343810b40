"""The tables of ``config.toml`` as types: pydantic models, frozen, unknown keys refused.

The keys of kimi-cli keep their meaning; the other tables are ours. A model checks what one value
can say about itself; what two keys must agree on is in ``rules``. Defaults here are the defaults:
``template`` and ``docs/configuration.md`` repeat them, and tests hold all three together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from runner.model import MAX_ID_CHARS, Role
from runner.settings import texts
from runner.settings.problem import Wrong, shorten
from runner.settings.secret import Secret
from runner.settings.units import Duration, Size, Wait

MIB = 1 << 20
GIB = 1 << 30
CACHE_HOSTS = ("api.moonshot.cn", "api.moonshot.ai")

Text = Annotated[str, Field(min_length=1, max_length=512)]
Url = Annotated[str, AfterValidator(texts.http_url)]
OptionalUrl = Annotated[str, AfterValidator(texts.optional_http_url)]
Webhook = Annotated[str, AfterValidator(texts.optional_webhook)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
Capability = Annotated[str, AfterValidator(texts.capability)]
Command = Annotated[tuple[str, ...], BeforeValidator(texts.engine)]
Headers = Annotated[dict[str, str], AfterValidator(texts.headers)]
Trigger = Annotated[str, Field(max_length=200)]
Network = Literal["isolated", "open"]
Backend = Literal["auto", "docker", "process"]
ProviderType = Literal["kimi", "openai", "openai_legacy", "anthropic"]
Thinking = Literal["", "off", "low", "medium", "high", "max"]
RoleName = Annotated[Role, Field(strict=False)]
Percent = Annotated[int, Field(ge=0, le=100)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TokenLimit = Annotated[int, Field(ge=1, le=100_000_000)]


class Table(BaseModel):
    """What all tables share. Strict: ``"5"`` is not 5; a list becomes a tuple."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(Table):
    """``[models.ALIAS]``. ``model`` is the upstream id; sizes are tokens."""

    provider: Name
    model: Text
    max_context_size: int = Field(200_000, ge=1024, le=100_000_000)
    capabilities: tuple[Capability, ...] = Field((), strict=False)


class OAuth(Table):
    """``oauth = {storage, key, host}``: the last component of ``key`` names the token file."""

    storage: Annotated[str, AfterValidator(texts.storage)] = "file"
    key: Annotated[str, AfterValidator(texts.oauth_key)]
    host: Url = "https://auth.kimi.com"

    @property
    def credential_file(self) -> str:
        """File name in the credentials directory: ``oauth/kimi-code`` → ``kimi-code.json``."""
        return f"{self.key.rsplit('/', 1)[-1]}.json"


class Provider(Table):
    """``[providers.NAME]``: ``oauth`` or ``api_key``; ``base_url`` has no slash at its end."""

    type: ProviderType = "kimi"
    base_url: Url
    api_key: Secret = Secret("")
    oauth: OAuth | None = None
    custom_headers: Headers = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)

    @property
    def oauth_host(self) -> str:
        """Where its login happens; empty when it uses an API key."""
        return self.oauth.host if self.oauth else ""


class LoopControl(Table):
    """``[loop_control]``. Attempts and retries per step are one setting: attempts = retries + 1."""

    max_steps_per_turn: int = Field(100, ge=1, le=10_000)
    max_retries_per_step: int | None = Field(None, ge=0, le=100)
    max_attempts_per_step: int | None = Field(None, ge=1, le=101)
    max_ralph_iterations: int = Field(0, ge=-1, le=10_000)
    reserved_context_size: int = Field(50_000, ge=0, le=100_000_000)

    @property
    def retries(self) -> int:
        """Tries of one step after the first; 3 unless the config says otherwise."""
        if self.max_attempts_per_step is not None:
            return self.max_attempts_per_step - 1
        return 3 if self.max_retries_per_step is None else self.max_retries_per_step


class Service(Table):
    """A service of kimi-cli: its URL, and the key or login that opens it."""

    base_url: OptionalUrl = ""
    api_key: Secret = Secret("")
    oauth: OAuth | None = None
    custom_headers: Headers = Field(default_factory=dict)


class Services(Table):
    """``[services]``: may be empty. web_search uses ``moonshot_search``; the other is only read."""

    moonshot_search: Service | None = None
    moonshot_fetch: Service | None = None


class Host(Table):
    """``[host]``: how many sandboxes, and how long anything may take. Durations are seconds."""

    max_containers: int = Field(5, ge=1, le=10_000)
    idle_timeout: Wait = 1800.0
    turn_timeout: Wait = 1800.0
    max_attempts: int = Field(5, ge=1, le=100)
    trigger: Trigger = "@kimi"
    max_queue: int = Field(100, ge=1, le=100_000)
    auto_create: bool = True
    grace: Duration = Field(20.0, ge=0, le=600)
    steer: bool = True
    max_hold: Wait = 86_400.0
    allowed_groups: tuple[Name, ...] = Field((), strict=False)


class People(Table):
    """``[people]``: who is what in every group, by the sender's id.

    ``default_role`` is that of people whom nothing names. A group's own roles come first.
    """

    default_role: RoleName = Role.MEMBER
    roles: dict[Name, RoleName] = Field(default_factory=dict)


class Delivery(Table):
    """``[delivery]``: answers that the host sends by itself. Durations are seconds.

    ``max_age`` is how long a delivery is tried, ``timeout`` one try; ``max_chars`` splits longer
    texts, 0 never.
    """

    webhook: Webhook = ""
    max_chars: int = Field(0, ge=0, le=1_000_000)
    timeout: Wait = 10.0
    max_age: Wait = 86_400.0


class Tool(Table):
    """``[tools.NAME]``: a tool of the host. ``role`` is the least that may have it used.

    ``per_turn`` bounds its calls in one turn.
    """

    enabled: bool = True
    per_turn: int = Field(20, ge=1, le=1_000)
    role: RoleName = Role.MEMBER


class Search(Tool):
    """``[tools.web_search]``: ``engine`` "auto" is the service of ``[services]`` if it is set."""

    engine: Literal["auto", "moonshot", "duckduckgo"] = "auto"
    max_results: int = Field(5, ge=1, le=50)


class Fetch(Tool):
    """``[tools.web_fetch]``: ``max_size`` bytes are read; ``allow_private`` is for tests."""

    max_size: Size = Field(5 * MIB, ge=1024, le=GIB)
    timeout: Wait = 30.0
    allow_private: bool = False


class Ask(Tool):
    """``[tools.ask_user]``: ``timeout`` seconds are waited for an answer."""

    timeout: Wait = 600.0


class Files(Tool):
    """``[tools.send_file]``: ``max_size`` bytes for one file, sent or received."""

    max_size: Size = Field(20 * MIB, ge=1024, le=GIB)


class Schedule(Tool):
    """``[tools.schedule_task]``: how many tasks a group may have, and how often one may run.

    ``min_interval`` is seconds; ``timezone`` is for tasks that name none.
    """

    max_tasks: int = Field(20, ge=1, le=10_000)
    min_interval: Wait = 300.0
    timezone: Annotated[str, AfterValidator(texts.timezone)] = "UTC"
    missed: Literal["once", "skip"] = "once"


class Tools(Table):
    """``[tools]``: what the host offers to agents over MCP.

    ``schedule_task`` holds for the other tools that deal with tasks, too.
    """

    send_message: Tool = Tool()
    send_file: Files = Files()
    ask_user: Ask = Ask(per_turn=5)
    schedule_task: Schedule = Schedule()
    web_search: Search = Search()
    web_fetch: Fetch = Fetch()
    register_group: Tool = Tool(role=Role.ADMIN)


class Sandbox(Table):
    """``[sandbox]``: where agents run and what they get. ``memory`` and ``disk`` are bytes."""

    backend: Backend = "auto"
    image: Text = "nanokimi-agent"
    network: Network = "isolated"
    memory: Size = Field(GIB, ge=32 * MIB, le=1 << 50)
    cpus: float = Field(1.0, ge=0.05, le=1024)
    pids: int = Field(256, ge=16, le=1_000_000)
    disk: Size = Field(10 * GIB, ge=MIB, le=1 << 50)
    mounts_allowlist: tuple[Annotated[str, AfterValidator(texts.allowed)], ...] = Field(
        (), strict=False
    )
    start_timeout: Wait = 60.0
    stop_grace: Duration = Field(5.0, ge=0, le=600)


class Server(Table):
    """``[server]``: where the HTTP API listens."""

    listen: Annotated[str, AfterValidator(texts.listen)] = "127.0.0.1:8420"
    public_url: OptionalUrl = ""

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)``; port 0 takes a free one."""
        return texts.address(self.listen)


class Store(Table):
    """``[store]``: ``url`` empty is SQLite in the data directory; it may hold a password.

    What has ended is forgotten after ``keep_messages`` seconds, files after ``keep_files``.
    """

    url: Annotated[Secret, AfterValidator(texts.store_url)] = Secret("")
    keep_messages: Duration = Field(90 * 86_400.0, ge=3600, le=10_000 * 86_400)
    keep_files: Duration = Field(30 * 86_400.0, ge=3600, le=10_000 * 86_400)


class Budget(Table):
    """What may be spent in a calendar day and month of UTC; ``None`` is without bound.

    ``day`` and ``month`` are US dollars, and hold for models with a known price. The tokens are of
    all kinds together, and hold for every model, also those of a subscription.
    """

    day: float | None = Field(None, ge=0, le=1e9)
    month: float | None = Field(None, ge=0, le=1e9)
    day_tokens: int | None = Field(None, ge=0, le=10**15)
    month_tokens: int | None = Field(None, ge=0, le=10**15)


class Budgets(Table):
    """``[gateway.budgets]``: ``group`` and ``key`` are for each of them that has none of its own.

    ``groups`` are by id; a key's own stands beside it in ``keys``.
    """

    group: Budget = Budget()
    key: Budget = Budget()
    groups: dict[Name, Budget] = Field(default_factory=dict)


class GatewayKey(Table):
    """One of ``keys``: a secret, or a table. ``models`` empty allows all; ``name`` is for usage.

    After loading, each has a name of its own.
    """

    key: Secret
    name: Annotated[str, Field(max_length=64)] = ""
    models: tuple[Name, ...] = Field((), strict=False)
    budget: Budget | None = None


def _named(keys: tuple[GatewayKey, ...]) -> tuple[GatewayKey, ...]:
    """Unnamed keys are called by where they come from, literal ones by their place."""
    named: dict[str, GatewayKey] = {}
    for place, key in enumerate(keys, 1):
        origin = key.key.origin
        name = key.name or (f"key-{place}" if origin == "literal" else origin)
        if name in named:
            raise Wrong(f'holds two keys called "{shorten(name, 40)}"', "give each its own name")
        if not key.key:
            raise Wrong(f'holds "{shorten(name, 40)}", which is empty', "write the secret")
        named[name] = key.model_copy(update={"name": name})
    return tuple(named.values())


def _key(value: object) -> object:
    """A bare secret is a key without conditions."""
    if isinstance(value, str | Secret):
        return {"key": value}
    if isinstance(value, dict | GatewayKey):
        return value
    raise Wrong("must be text or a table", 'write the secret, "env:NAME" or "file:PATH"')


class Targets(Table):
    """``[gateway.targets]``: where `nanokimi monitor` warns. Rates from 0 to 1, time in seconds.

    ``cost_per_task`` is US dollars for one answered call.
    """

    success_rate: float = Field(0.9, ge=0, le=1)
    avg_response_time: Wait = 5.0
    cost_per_task: float = Field(0.001, ge=0)
    fallback_rate: float = Field(0.1, ge=0, le=1)
    token_efficiency: float = Field(0.8, ge=0, le=1)


class Roles(Table):
    """``[gateway.roles]``: who does what in the built-in routes, by name.

    ``primary`` empty is ``default_model``; any other role that is empty, or names a model without
    a key, is left out of the chains.
    """

    primary: str = Field("", max_length=MAX_ID_CHARS)
    validation: str = Field("claude", max_length=MAX_ID_CHARS)
    fallback: str = Field("deepseek", max_length=MAX_ID_CHARS)
    fast: str = Field("groq", max_length=MAX_ID_CHARS)


class Gateway(Table):
    """``[gateway]``: the model API for other clients. ``keep_usage``: seconds, a month at least.

    ``deadline``: seconds over all attempts of a call. ``rollout``: percent of the groups.
    ``cache_hosts``: where explicit caching is offered, with or without a port.
    """

    keys: Annotated[
        tuple[Annotated[GatewayKey, BeforeValidator(_key)], ...], AfterValidator(_named)
    ] = Field((), strict=False)
    thinking_repair: bool = True
    cache: Literal["auto", "explicit", "off"] = "auto"
    cache_hosts: tuple[Name, ...] = Field(CACHE_HOSTS, strict=False)
    keep_usage: Duration = Field(400 * 86_400.0, ge=31 * 86_400, le=10_000 * 86_400)
    budgets: Budgets = Budgets()
    targets: Targets = Targets()
    max_retries: int = Field(3, ge=0, le=20)
    backoff_factor: float = Field(2.0, ge=1, le=10)
    deadline: Wait = 600.0
    rollout: Percent = 100
    roles: Roles = Roles()


class ModelEntry(Table):
    """One ``[[model_list]]``. Entries with the same ``model_name`` form a pool.

    ``provider`` is a ``[providers.NAME]`` that lends its URL, credential and headers, or a
    vendor's name. ``request_timeout`` is seconds to the first byte, ``rpm`` requests a minute for
    each key. ``auth = "oauth"`` uses the login of the provider.
    """

    model_name: Name
    model: Text
    provider: str = Field("", max_length=MAX_ID_CHARS)
    enabled: bool = True
    format: Literal["auto", "openai", "anthropic"] = "auto"
    api_base: OptionalUrl = ""
    api_key: Secret = Secret("")
    api_keys: tuple[Secret, ...] = Field((), strict=False)
    auth: Literal["key", "oauth"] = "key"
    proxy: OptionalUrl = ""
    user_agent: Annotated[str, AfterValidator(texts.header_value)] = ""
    custom_headers: Headers = Field(default_factory=dict)
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    fallbacks: tuple[Name, ...] = Field((), strict=False)
    rpm: int | None = Field(None, ge=1, le=10_000_000)
    request_timeout: Wait = 300.0
    cooldown: Duration = Field(60.0, ge=0, le=86_400)
    thinking_level: Thinking = ""
    temperature: Temperature | None = None
    max_tokens: TokenLimit | None = None
    max_tokens_field: Literal["", "max_tokens", "max_completion_tokens"] = ""
    streaming: bool = True


class Route(Table):
    """``[routes.NAME]``: models in order of preference, and what is asked of them.

    For a built-in route, what is left out is as built in; any other needs a ``chain``.
    """

    chain: tuple[Name, ...] = Field((), strict=False)
    temperature: Temperature | None = None
    max_tokens: TokenLimit | None = None
    prompt: str | None = Field(None, max_length=100_000)
    rollout: Percent | None = None


class Agent(Table):
    """``[agent]``. ``engine`` is the command of an ACP agent; empty is the native one."""

    engine: Command = ()


class GroupLimits(Table):
    """``limits`` of a group; what is left out comes from ``[sandbox]``."""

    memory: Size | None = Field(None, ge=32 * MIB, le=1 << 50)
    cpus: float | None = Field(None, ge=0.05, le=1024)
    pids: int | None = Field(None, ge=16, le=1_000_000)
    disk: Size | None = Field(None, ge=MIB, le=1 << 50)


class Mount(Table):
    """One of a group's ``mounts``: the directory ``source`` at ``/mnt/<name>``.

    ``name`` is the last component of ``source`` unless given. After loading, ``source`` is real:
    no symbolic links are left in it.
    """

    source: Annotated[str, AfterValidator(texts.absolute)]
    name: Annotated[str, AfterValidator(texts.mount_name)] = ""
    mode: Literal["ro", "rw"] = "ro"


class GroupTable(Table):
    """``[groups."ID"]``: what differs for one group; ``None`` means as everywhere."""

    trigger: Trigger | None = None
    model: Name | None = None
    engine: Command | None = None
    network: Network | None = None
    admin: bool = False
    mounts: tuple[Mount, ...] = Field((), strict=False)
    limits: GroupLimits = GroupLimits()
    roles: dict[Name, RoleName] = Field(default_factory=dict)
    tools: dict[Name, bool] = Field(default_factory=dict)
    webhook: Webhook | None = None
    max_chars: int | None = Field(None, ge=0, le=1_000_000)
