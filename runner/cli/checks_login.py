"""What doctor looks at to say whether a login works, and whether it will stay."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path

from runner.cli.check import Check, Grade, failed
from runner.errors import NanokimiError
from runner.oauth.status import LoginState, LoginStatus
from runner.oauth.store import TokenStore
from runner.settings.catalog import service_of
from runner.settings.group import GroupSettings

SKEW_WARN = 60.0
SKEW_FAIL = 300.0
_LOGIN = "run `nanokimi login`"


def check_files(directory: Path, names: list[str]) -> Iterator[Check]:
    """Who may read the credentials. To be asked first: whoever reads them corrects their mode."""
    found = [
        *_misfits(directory, 0o700),
        *(m for name in names for m in _misfits(directory / name, 0o600)),
    ]
    if not found:
        yield Check("login files", Grade.PASS, f"{directory} is for its owner alone")
    for what, fix in found:
        yield Check("login files", Grade.WARN, what, fix)


def _misfits(path: Path, mode: int) -> Iterator[tuple[str, str]]:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode) and mode == 0o600:
        yield f"{path} is a symbolic link", "put the file itself there"
        return
    if found.st_uid != os.geteuid():
        yield f"{path} belongs to uid {found.st_uid}", f"chown {os.geteuid()} {path}"
    if stat.S_IMODE(found.st_mode) & 0o077 and not stat.S_ISLNK(found.st_mode):
        was = stat.S_IMODE(found.st_mode)
        yield f"{path} has mode {was:04o}: others may use it", f"chmod {mode:o} {path}"


def check_login(store: TokenStore, status: LoginStatus, now: float) -> Iterator[Check]:
    """How long the login lasts, how its last renewal went, and whether the next one can."""
    if status.state is LoginState.ABSENT:
        return  # the check of the credential itself says it
    if status.expires_at is not None:
        yield _expiry(status, now)
    if status.last_failure:
        fix = _LOGIN if status.state is LoginState.LOST else "look at it if it stays"
        yield Check("login renewal", Grade.WARN, f"failed last: {status.last_failure}", fix)
    yield _refresh(store, status)


def _expiry(status: LoginStatus, now: float) -> Check:
    assert status.expires_at is not None
    left = status.expires_at - now
    found = f"the access token is good for {left / 60:.0f} min"
    if left <= 0:
        found = f"the access token expired {-left / 60:.0f} min ago"
    if status.state is LoginState.LOST:
        return Check("login expiry", Grade.FAIL, f"{found}, the login is lost", _LOGIN)
    return Check("login expiry", Grade.PASS, found)


def _refresh(store: TokenStore, status: LoginStatus) -> Check:
    try:
        tokens = store.load()
        store.check_writable()
    except NanokimiError as e:
        return failed("login refresh", e)
    if tokens is None or not tokens.refresh_token.get_secret_value():
        found = "there is no refresh token: the login ends with its access token"
        return Check("login refresh", Grade.WARN, found, _LOGIN)
    if status.state is LoginState.LOST:
        return Check("login refresh", Grade.FAIL, "the provider refused the refresh token", _LOGIN)
    return Check("login refresh", Grade.PASS, f"can be renewed and saved in {store.path}")


def check_fit(of_group: GroupSettings) -> Check:
    """Base URL and model belong together. Settings that do not are refused when they are read."""
    base, model = of_group.provider.base_url, of_group.model.model
    service = service_of(base)
    if service is None:
        found = f"{model} at {base}: not a vendor's own address, so nothing is known against it"
        return Check("login fits", Grade.PASS, found)
    return Check("login fits", Grade.PASS, f"{model} at {base} is {service}")


def check_clock(date: str | None, asked: float, answered: float) -> Check:
    """This machine's clock against a server's ``Date``, which was taken between two times of ours.

    ``asked`` and ``answered`` are Unix seconds. Tokens are renewed by the clock.
    """
    try:
        at = parsedate_to_datetime(date or "")
    except ValueError:
        return Check("clock", Grade.WARN, "the provider does not say the time", "check it yourself")
    theirs = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    # The header counts whole seconds: anything in [theirs, theirs + 1) is no skew.
    skew = max(asked - (theirs + 1), theirs - answered, 0.0)
    way = "ahead of" if asked > theirs else "behind"
    found = f"{skew:.0f} s {way} the provider's"
    fix = "set the clock of this machine: systemctl enable --now systemd-timesyncd"
    if skew > SKEW_FAIL:
        return Check("clock", Grade.FAIL, found, fix)
    if skew > SKEW_WARN:
        return Check("clock", Grade.WARN, found, fix)
    return Check("clock", Grade.PASS, f"{skew:.0f} s off the provider's")
