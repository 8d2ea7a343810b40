"""What doctor says of a login: each finding with its grade and its fix."""

from __future__ import annotations

import json
from email.utils import formatdate
from pathlib import Path

import pytest

from runner.cli.check import Check, Grade
from runner.cli.checks_login import check_clock, check_files, check_login
from runner.oauth.status import LoginState, LoginStatus
from runner.oauth.store import TokenStore

NOW = 1_900_000_000.0


@pytest.mark.parametrize(
    ("skew", "grade"),
    [
        (0, Grade.PASS),
        (59, Grade.PASS),
        (-59, Grade.PASS),
        (90, Grade.WARN),
        (-90, Grade.WARN),
        (400, Grade.FAIL),
        (-400, Grade.FAIL),
    ],
)
def test_a_clock_that_is_off_is_told_by_how_much(skew: float, grade: Grade) -> None:
    check = check_clock(formatdate(NOW - skew, usegmt=True), NOW, NOW + 0.2)
    assert check.grade is grade
    if grade is not Grade.PASS:
        assert ("ahead of" if skew > 0 else "behind") in check.found
        assert check.fix


def test_an_answer_that_took_long_is_no_skew() -> None:
    assert check_clock(formatdate(NOW + 100, usegmt=True), NOW, NOW + 200).grade is Grade.PASS


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_server_without_a_date_is_a_warning(date: str | None) -> None:
    assert check_clock(date, NOW, NOW).grade is Grade.WARN


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    (tmp_path / "c").mkdir(mode=0o700)
    return TokenStore(tmp_path / "c", "oauth/kimi-code")


def put(store: TokenStore, refresh_token: str) -> None:
    login = {"access_token": "a", "refresh_token": refresh_token, "expires_at": NOW + 600}
    store.path.write_text(json.dumps(login))
    store.path.chmod(0o600)


def by_name(store: TokenStore, status: LoginStatus) -> dict[str, Check]:
    return {c.name: c for c in check_login(store, status, NOW)}


def test_files_that_others_may_read_come_with_the_command_that_mends_them(
    store: TokenStore,
) -> None:
    put(store, "r")
    (good,) = check_files(store.directory, [store.path.name, "missing"])
    assert good.grade is Grade.PASS
    store.path.chmod(0o644)
    store.directory.chmod(0o755)
    found = list(check_files(store.directory, [store.path.name]))
    assert [c.grade for c in found] == [Grade.WARN, Grade.WARN]
    assert [c.fix for c in found] == [f"chmod 700 {store.directory}", f"chmod 600 {store.path}"]


def test_a_link_in_the_place_of_a_token_file_is_told(store: TokenStore, tmp_path: Path) -> None:
    store.path.symlink_to(tmp_path / "elsewhere")
    (found,) = check_files(store.directory, [store.path.name])
    assert (found.grade, "symbolic link" in found.found) == (Grade.WARN, True)


def test_a_login_in_order_passes_everything(store: TokenStore) -> None:
    put(store, "r")
    checks = by_name(store, LoginStatus(LoginState.OK, "s", NOW + 600))
    assert {c.grade for c in checks.values()} == {Grade.PASS}
    assert checks["login expiry"].found.endswith("10 min")


def test_a_lost_login_fails_and_names_the_command(store: TokenStore) -> None:
    put(store, "r")
    status = LoginStatus(LoginState.LOST, "s", NOW - 60, last_failure="refused")
    checks = by_name(store, status)
    assert checks["login expiry"].grade is checks["login refresh"].grade is Grade.FAIL
    assert all("nanokimi login" in c.fix for c in checks.values())
    assert "refused" in checks["login renewal"].found


def test_a_login_that_cannot_be_renewed_is_a_warning(store: TokenStore) -> None:
    put(store, "")
    checks = by_name(store, LoginStatus(LoginState.OK, "s", NOW + 600))
    assert checks["login refresh"].grade is Grade.WARN


def test_a_store_that_cannot_be_written_fails(store: TokenStore) -> None:
    put(store, "r")
    status = LoginStatus(LoginState.OK, "s", NOW + 600)
    store.path.rename(store.path.with_name("old"))
    store.path.mkdir()
    check = by_name(store, status)["login refresh"]
    assert (check.grade, bool(check.fix)) == (Grade.FAIL, True)
