"""What the keys of a config must agree on. Pure; each rule yields problems that say the fix."""

from __future__ import annotations

from collections.abc import Iterator

from runner.settings import catalog, model_rules
from runner.settings.group import nearest, unknown_alias
from runner.settings.problem import Problem, shorten
from runner.settings.schema import Settings
from runner.settings.tables import Provider


def problems(settings: Settings) -> list[Problem]:
    """Everything that must be corrected before a group can be served."""
    return [
        *_aliases(settings),
        *_loop(settings),
        *_providers(settings),
        *_models(settings),
        *_used_providers(settings),
        *_open_to_anthropic(settings),
        *_tools(settings),
        *model_rules.problems(settings),
    ]


def warnings(settings: Settings) -> list[str]:
    """What works and should be changed all the same."""
    return [
        *_gone_models(settings),
        *model_rules.warnings(settings),
        *(
            f"services.{name} is set, but nanokimi does not use it"
            for name in ("moonshot_fetch",)
            if getattr(settings.services, name) is not None
        ),
        *(
            f'providers."{name}".env is set, but agents get no variables from it'
            for name, provider in settings.providers.items()
            if provider.env
        ),
    ]


def _aliases(settings: Settings) -> Iterator[Problem]:
    if settings.default_model not in settings.models:
        yield unknown_alias(settings.models, ("default_model",), settings.default_model)
    for group_id, group in settings.groups.items():
        if group.model is not None and group.model not in settings.models:
            yield unknown_alias(settings.models, ("groups", group_id, "model"), group.model)


def _open_to_anthropic(settings: Settings) -> Iterator[Problem]:
    """The agent speaks OpenAI; only the gateway translates, and an open sandbox goes past it."""
    fix = 'set network = "isolated", so that the gateway translates, or take another provider'

    def speaks_anthropic(alias: str) -> bool:
        model = settings.models.get(alias)
        provider = settings.providers.get(model.provider) if model is not None else None
        return provider is not None and provider.type == "anthropic"

    if settings.sandbox.network == "open" and speaks_anthropic(settings.default_model):
        text = "is open, but the agent cannot call an Anthropic API by itself"
        yield Problem(("sandbox", "network"), text, fix)
    for group_id, group in settings.groups.items():
        alias = group.model or settings.default_model
        if group.network == "open" and speaks_anthropic(alias):
            text = "is open, but the agent cannot call an Anthropic API by itself"
            yield Problem(("groups", group_id, "network"), text, fix)


def _tools(settings: Settings) -> Iterator[Problem]:
    known = set(type(settings.tools).model_fields)
    for group_id, group in settings.groups.items():
        for name in group.tools:
            if name not in known:
                yield Problem(
                    ("groups", group_id, "tools", name),
                    "is not a tool of the host",
                    nearest(name, known, "[tools.NAME]"),
                )
    search = settings.tools.web_search
    if search.engine == "moonshot" and settings.services.moonshot_search is None:
        yield Problem(
            ("tools", "web_search", "engine"),
            'is "moonshot", but there is no [services.moonshot_search]',
            'add the table, or set engine = "auto"',
        )


def _loop(settings: Settings) -> Iterator[Problem]:
    loop = settings.loop_control
    retries, attempts = loop.max_retries_per_step, loop.max_attempts_per_step
    if retries is not None and attempts is not None and attempts != retries + 1:
        yield Problem(
            ("loop_control", "max_attempts_per_step"),
            f"is {attempts}, but max_retries_per_step = {retries} means {retries + 1} attempts",
            "keep one of the two",
        )
    for alias, model in settings.models.items():
        if model.max_context_size <= loop.reserved_context_size:
            yield Problem(
                ("models", alias, "max_context_size"),
                f"is {model.max_context_size}, which leaves nothing beside "
                f"loop_control.reserved_context_size = {loop.reserved_context_size}",
                "lower reserved_context_size",
            )


def _providers(settings: Settings) -> Iterator[Problem]:
    files: dict[str, str] = {}
    for name, provider in settings.providers.items():
        here = ("providers", name)
        if provider.oauth and provider.api_key:
            yield Problem(
                (*here, "api_key"),
                "is set, and oauth too: it is one or the other",
                'write api_key = "" for the login, or remove the oauth entry for the key',
            )
        if provider.oauth:
            key = provider.oauth.key
            first = files.setdefault(provider.oauth.credential_file, key)
            if first != key:
                yield Problem(
                    (*here, "oauth", "key"),
                    f'is "{key}", which shares the file {provider.oauth.credential_file} '
                    f'with "{first}"',
                    "give it another last component",
                )
        base = provider.base_url
        for misfit in catalog.misfits_of_base(
            base, wire=_wire(provider), oauth=provider.oauth is not None
        ):
            yield Problem((*here, misfit.key), misfit.text, misfit.fix)
        open_platform = catalog.service_of(base) is catalog.Service.OPEN_PLATFORM
        if name == "managed:kimi-code" and open_platform:
            yield Problem(
                here,
                "is the name of Kimi Code, but base_url is that of the open platform",
                "make a table of its own, [providers.moonshot], and name it in the model",
            )


def _models(settings: Settings) -> Iterator[Problem]:
    for alias, model in settings.models.items():
        provider = settings.providers.get(model.provider)
        if provider is None:
            yield Problem(
                ("models", alias, "provider"),
                f'is "{shorten(model.provider)}", but there is no '
                f'[providers."{shorten(model.provider)}"]',
                nearest(model.provider, settings.providers, "[providers.NAME]"),
            )
        elif misfit := catalog.misfit_of_model(model.model, provider.base_url):
            yield Problem(("models", alias, misfit.key), misfit.text, misfit.fix)


def _used_providers(settings: Settings) -> Iterator[Problem]:
    """Only providers that an agent would call must have a credential."""
    asked = {settings.default_model, *(g.model for g in settings.groups.values() if g.model)}
    used = {settings.models[a].provider: a for a in sorted(asked) if a in settings.models}
    for name, alias in used.items():
        provider = settings.providers.get(name)
        if provider is None:
            continue
        if not provider.oauth and not provider.api_key:
            yield Problem(
                ("providers", name),
                f'has neither oauth nor api_key, and the model "{alias}" needs it',
                'add oauth = { storage = "file", key = "oauth/kimi-code" } and run '
                '`nanokimi login`, or api_key = "env:MOONSHOT_API_KEY"',
            )


def _gone_models(settings: Settings) -> Iterator[str]:
    for alias, model in settings.models.items():
        provider = settings.providers.get(model.provider)
        if provider is None or provider.type != "kimi":
            continue
        if found := catalog.gone(model.model, provider.base_url):
            happened, successor = found
            yield (
                f'models."{alias}".model is "{model.model}", which {happened}; '
                f'its successor is "{successor}"'
            )


def _wire(provider: Provider) -> str:
    return "anthropic" if provider.type == "anthropic" else "openai"
