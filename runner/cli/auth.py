"""``nanokimi login``, ``logout`` and ``auth status``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer

from runner.cli.context import Context, context_of, run
from runner.cli.output import ago, err, note, out, plain, show_json, table
from runner.errors import ConfigError, LoginRequiredError, PermanentError
from runner.host.credentials import LOGIN_DEADLINE, Credentials
from runner.oauth import device
from runner.oauth.headers import client_headers
from runner.oauth.private_files import read_given
from runner.oauth.refresher import TokenSource
from runner.oauth.status import LoginState, LoginStatus
from runner.oauth.store import TokenStore, parse_login
from runner.oauth.tokens import TokenSet, is_usable

if TYPE_CHECKING:
    from runner.settings.tables import OAuth

BROKEN = "broken"
"""State of a login whose file cannot be used, beside those of :class:`LoginState`."""

app = typer.Typer(help="Logins.", no_args_is_help=True)

ProviderArgument = Annotated[
    str | None, typer.Argument(help="A name in [providers.*]; without one, the default model's.")
]


def login(
    ctx: typer.Context,
    provider: ProviderArgument = None,
    file: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="Take over a login that kimi has made."),
    ] = None,
) -> None:
    """Log in to a provider: shows a code and a URL, and waits until you have approved it."""
    context = context_of(ctx)
    if file is None:
        run(lambda: _login(context, provider))
    else:
        run(lambda: _import(context, provider, file))


async def _login(context: Context, provider: str | None) -> None:
    name, oauth = _oauth(context, provider)
    store = TokenStore(context.layout.credentials, oauth.key)
    async with httpx.AsyncClient(timeout=LOGIN_DEADLINE, follow_redirects=False) as client:
        with err.status(f"asking {oauth.host} for a code") as status:

            def show(prompt: device.DevicePrompt) -> None:
                err.print(f"Open   [bold]{prompt.verification_uri_complete}[/]")
                err.print(f"Code   [bold]{prompt.user_code}[/]")
                minutes = round(prompt.expires_in / 60)
                status.update(f"waiting for your approval (at most {minutes} min)")

            tokens = await device.login(
                oauth.host,
                on_prompt=show,
                client=client,
                headers=client_headers(context.layout.credentials),
            )
    await store.replace(tokens)
    out.print(f"logged in to {plain(name)}")
    note(_terms(tokens))


async def _import(context: Context, provider: str | None, file: Path) -> None:
    name, oauth = _oauth(context, provider)
    tokens = parse_login(read_given(file), file)
    if not (tokens.refresh_token.get_secret_value() or is_usable(tokens, time.time())):
        raise PermanentError(
            f"the login in {file} has expired and cannot be renewed: it has no refresh token",
            hint="run `nanokimi login`",
            code="login_expired",
        )
    await TokenStore(context.layout.credentials, oauth.key).replace(tokens)
    out.print(f"logged in to {plain(name)} with {plain(str(file))}")
    note(_terms(tokens))
    if tokens.refresh_token.get_secret_value():
        note(
            f"{file} is as it was, but use it no more: each renewal makes a new refresh token, "
            "and of two users of one login the second is logged out"
        )


def _terms(tokens: TokenSet) -> str:
    """Scope and time, for a person."""
    minutes = max(0.0, tokens.expires_at - time.time()) / 60
    renewed = (
        "and renewed by itself" if tokens.refresh_token.get_secret_value() else "not renewable"
    )
    return f"scope {tokens.scope or '-'}, good for {minutes:.0f} min {renewed}"


def logout(ctx: typer.Context, provider: ProviderArgument = None) -> None:
    """Forget the login of a provider on this machine."""
    context = context_of(ctx)
    name, oauth = _oauth(context, provider)
    store = TokenStore(context.layout.credentials, oauth.key)
    if run(store.delete):
        out.print(f"logged out of {name}")
    else:
        note(f"there was no login for {name}")


@app.command("status")
def status(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Every provider, how we are known there, and for how long. Never prints a token."""
    context = context_of(ctx)
    rows = run(lambda: _status(context))
    if as_json:
        show_json(rows)
    else:
        shown = table(
            "PROVIDER", "BY", "STATE", "SCOPE", "TOKEN FOR", "LAST REFRESH", "LAST FAILURE"
        )
        for r in rows:
            left = r["expires_at"] - time.time() if r["expires_at"] else None
            shown.add_row(
                plain(r["provider"]),
                r["by"],
                r["state"],
                plain(r["scope"]) or "-",
                "-" if left is None else f"{max(0, left) / 60:.0f} min",
                ago(r["last_refresh"]) if r["last_refresh"] else "-",
                plain(r["last_failure"]) or "-",
            )
        out.print(shown)
    for r in rows:
        if r["used"] and r["state"] in (LoginState.LOST, LoginState.ABSENT, BROKEN):
            raise LoginRequiredError(
                f"the default model's login is {r['state']}", hint="run `nanokimi login`"
            )


async def _status(context: Context) -> list[dict[str, Any]]:
    settings = context.settings()
    used = settings.for_group("status").provider_name
    credentials = Credentials(context.layout.credentials)
    rows: list[dict[str, Any]] = []
    try:
        for name, provider in settings.providers.items():
            row: dict[str, Any] = {"provider": name, "used": name == used}
            if provider.oauth is not None:
                login = _login_status(credentials.login(provider.oauth))
                rows.append({**row, "by": "login", **login})
            else:
                state = "ok"
                try:
                    provider.api_key.reveal()
                except ConfigError:
                    state = "absent"
                row |= {"by": "api key", "state": state, "scope": "", "expires_at": None}
                rows.append({**row, "last_refresh": None, "last_failure": ""})
    finally:
        await credentials.aclose()
    return rows


def _login_status(source: TokenSource) -> dict[str, Any]:
    try:
        status = asdict(source.status())
    except PermanentError as e:  # one broken file does not hide the other logins
        empty = asdict(LoginStatus(LoginState.LOST))
        return empty | {"state": BROKEN, "last_failure": f"{e.message}. {e.hint}"}
    return status | {"state": str(status["state"])}


def _oauth(context: Context, provider: str | None) -> tuple[str, OAuth]:
    settings = context.settings()
    name = provider or settings.for_group("login").provider_name
    if name not in settings.providers:
        raise ConfigError(
            f'there is no [providers."{name}"]',
            hint=f"known: {', '.join(sorted(settings.providers)) or 'none'}",
        )
    oauth = settings.providers[name].oauth
    if oauth is None:
        raise ConfigError(
            f'[providers."{name}"] uses an API key, there is nothing to log in to',
            hint='for a login, give it oauth = {storage = "file", key = "oauth/kimi-code"}',
        )
    return name, oauth
