"""The one refresher against the demo provider: no rotated token is ever lost or spent twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import filelock
import httpx
import pytest
from structlog.testing import capture_logs

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import LoginRequiredError, PermanentError, TemporaryError
from runner.oauth.headers import client_headers
from runner.oauth.refresher import TokenSource
from runner.oauth.status import LoginState
from runner.oauth.store import TokenStore
from runner.oauth.tokens import TokenSet


class Case:
    """One host: a provider, a store with a login, a source on it."""

    def __init__(self, provider: DemoProvider, client: httpx.AsyncClient, folder: Path) -> None:
        self.provider = provider
        self.store = TokenStore(folder, "oauth/kimi-code")
        self.folder = folder
        self.rotated: list[TokenSet] = []
        self.now_ahead = 0.0
        self._client = client
        self.source = self.another_source()

    def another_source(self, **options: Any) -> TokenSource:
        return TokenSource(
            self.store,
            host=self.provider.oauth_host,
            client=self._client,
            headers=client_headers(self.folder),
            clock=lambda: time.time() + self.now_ahead,
            **{"on_rotated": self.rotated.append, **options},
        )

    def put(self, left: float = 900.0, **fields: Any) -> dict[str, Any]:
        """A login on disk whose access token has ``left`` seconds to go."""
        login = self.provider.issue_login(lifetime=left) | {"expires_in": 900} | fields
        self.store.path.write_text(json.dumps(login))
        return login

    def on_disk(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.path.read_text())
        return found

    def token_requests(self) -> int:
        return sum(r.path == "/api/oauth/token" for r in self.provider.requests)


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    async with DemoProvider() as provider, httpx.AsyncClient() as client:
        case = Case(provider, client, tmp_path)
        yield case
        await case.source.close()


async def test_a_fresh_token_is_handed_out_without_a_request(case: Case) -> None:
    login = case.put(left=800)
    assert await case.source.access_token() == login["access_token"]
    assert case.token_requests() == 0
    assert case.source.status().state is LoginState.OK


async def test_a_token_near_its_end_is_renewed_saved_and_announced(case: Case) -> None:
    login = case.put(left=200, note="kept")
    assert case.source.status().state is LoginState.EXPIRING
    token = await case.source.access_token()
    saved = case.on_disk()
    assert token == saved["access_token"] != login["access_token"]
    assert saved["refresh_token"] != login["refresh_token"]
    assert (saved["note"], saved["expires_in"]) == ("kept", 900)
    assert [t.access_token.get_secret_value() for t in case.rotated] == [token]
    status = case.source.status()
    assert (status.state, status.scope, status.last_failure) == (LoginState.OK, "kimi-code", "")
    assert status.last_refresh is not None
    assert status.expires_at == saved["expires_at"]


async def test_a_hundred_callers_share_one_renewal(case: Case) -> None:
    case.put(left=-5)
    tokens = await asyncio.gather(*(case.source.access_token() for _ in range(100)))
    assert len(set(tokens)) == 1
    forced = await asyncio.gather(*(case.source.access_token(force=True) for _ in range(100)))
    assert len(set(forced)) == 1
    assert forced[0] != tokens[0]
    assert (case.provider.refreshes, case.provider.replayed_refresh_tokens) == (2, 0)


async def test_a_rejected_token_is_renewed_once_however_many_report_it(case: Case) -> None:
    login = case.put(left=800)
    for _ in range(3):
        token = await case.source.access_token(rejected=login["access_token"])
        assert token == case.on_disk()["access_token"]
    assert case.provider.refreshes == 1


async def test_many_renewals_in_a_row_never_replay_a_refresh_token(case: Case) -> None:
    case.put()
    for _ in range(10):
        await case.source.access_token(force=True)
    assert (case.provider.refreshes, case.provider.replayed_refresh_tokens) == (10, 0)


async def test_two_sources_in_one_process_share_a_renewal_through_the_disk(case: Case) -> None:
    case.put(left=-5)
    other = case.another_source()
    for forced in (False, True):
        first, second = await asyncio.gather(
            case.source.access_token(force=forced), other.access_token(force=forced)
        )
        assert first == second == case.on_disk()["access_token"]
    assert case.provider.refreshes == 2


async def test_four_processes_renew_once(case: Case) -> None:
    case.put(left=-5)
    script = """
import asyncio, sys
from pathlib import Path
import httpx
from runner.oauth.headers import client_headers
from runner.oauth.refresher import TokenSource
from runner.oauth.store import TokenStore
async def main(folder, host):
    async with httpx.AsyncClient() as client:
        source = TokenSource(TokenStore(folder, "oauth/kimi-code"), host=host, client=client,
                             headers=client_headers(folder))
        print("ready", flush=True)
        sys.stdin.readline()
        print(await source.access_token(), flush=True)
asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""
    command = [sys.executable, "-c", script, str(case.folder), case.provider.oauth_host]
    workers = [
        await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    # Slow enough that all of them are waiting for the first one's answer.
    case.provider.faults.add(Fault("token", delay=0.3))
    ends = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    said = {out.decode().split()[-1] for out, _ in ends}
    assert said == {case.on_disk()["access_token"]}
    assert (case.provider.refreshes, case.provider.replayed_refresh_tokens) == (1, 0)


async def test_a_lock_that_is_held_for_too_long_spends_nothing(case: Case) -> None:
    case.put(left=-5)
    source = case.another_source(lock_deadline=0.1)
    with filelock.FileLock(case.store.lock_path, thread_local=False):
        with pytest.raises(TemporaryError) as caught:
            await source.access_token()
        assert caught.value.code == "credentials_locked"
    assert case.token_requests() == 0
    assert await source.access_token() == case.on_disk()["access_token"]


async def test_transient_failures_are_retried_three_times(case: Case) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", status=500))
    case.provider.faults.add(Fault("token", status=200, body=b"<html>login here</html>"))
    token = await case.source.access_token()
    assert token == case.on_disk()["access_token"]
    assert case.token_requests() == 3


async def test_a_server_that_stays_down_is_a_temporary_error_and_costs_nothing(case: Case) -> None:
    login = case.put(left=-5)
    case.provider.faults.add(Fault("token", status=503), times=4)
    with pytest.raises(TemporaryError) as caught:
        await case.source.access_token()
    assert caught.value.code == "oauth_unavailable"
    assert case.token_requests() == 4
    assert case.on_disk()["refresh_token"] == login["refresh_token"]
    assert "503" in case.source.status().last_failure
    assert case.source.status().state is LoginState.EXPIRING
    await case.source.access_token()
    assert case.source.status().last_failure == ""


async def test_a_token_that_still_works_is_used_while_the_server_is_down(case: Case) -> None:
    login = case.put(left=200)
    case.provider.faults.add(Fault("token", status=503), times=4)
    assert await case.source.access_token() == login["access_token"]
    assert await case.source.access_token() == login["access_token"]
    await case.source.close()
    asked = case.token_requests()
    assert await case.source.access_token() == login["access_token"]
    assert case.token_requests() == asked == 4  # and the server is left alone for a while


async def test_a_wish_to_be_left_alone_is_respected_and_passed_on(case: Case) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", status=429, headers={"Retry-After": "120"}))
    for _ in range(3):
        with pytest.raises(TemporaryError) as caught:
            await case.source.access_token()
        assert caught.value.retry_after == pytest.approx(120, abs=30)
    assert case.token_requests() == 1


async def test_a_dead_refresh_token_is_a_lost_login_and_is_not_tried_again(case: Case) -> None:
    case.put(left=-5)
    case.provider.revoke_logins()
    for _ in range(3):
        with pytest.raises(LoginRequiredError) as caught:
            await case.source.access_token()
        assert "nanokimi login" in caught.value.hint
    assert case.token_requests() == 1
    assert case.source.status().state is LoginState.LOST
    assert case.another_source().status().state is LoginState.LOST  # also after a restart


@pytest.mark.parametrize(("status", "error"), [(401, "invalid_client"), (403, "access_denied")])
async def test_a_definitive_status_loses_the_login(case: Case, status: int, error: str) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", status=status, type=error))
    with pytest.raises(LoginRequiredError):
        await case.source.access_token()
    assert case.source.status().state is LoginState.LOST


async def test_another_refusal_is_permanent_but_loses_nothing(case: Case) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", status=400, type="invalid_request"))
    with pytest.raises(PermanentError) as caught:
        await case.source.access_token()
    assert caught.value.code == "oauth_refused"
    assert await case.source.access_token() == case.on_disk()["access_token"]


async def test_a_new_login_is_picked_up_after_the_old_one_was_lost(case: Case) -> None:
    case.put(left=-5)
    case.provider.revoke_logins()
    with pytest.raises(LoginRequiredError):
        await case.source.access_token()
    login = case.put(left=900)
    assert await case.source.access_token() == login["access_token"]
    assert case.source.status().state is LoginState.OK
    assert [t.access_token.get_secret_value() for t in case.rotated] == [login["access_token"]]


async def test_a_refusal_looks_at_the_disk_before_the_login_counts_as_lost(case: Case) -> None:
    """Somebody who does not know our lock (kimi-cli, say) rotates while we are asking."""
    case.put(left=-5)
    case.provider.faults.add(Fault("token", status=400, type="invalid_grant", delay=1.0))
    asking = asyncio.create_task(case.source.access_token())
    await case.provider.wait_for(bool)
    newer = case.put(left=900)
    assert await asking == newer["access_token"]
    assert case.source.status().state is LoginState.OK


async def test_an_answer_lost_on_its_way_is_reported_honestly(case: Case) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", cut_after=1))
    with pytest.raises(LoginRequiredError) as caught:
        await case.source.access_token()
    assert "an earlier answer was lost" in caught.value.message
    assert case.provider.refreshes == 1
    assert "an earlier answer was lost" in case.source.status().last_failure


async def test_a_store_that_cannot_be_written_spends_nothing(case: Case) -> None:
    """The file size limit of a child process stands in for the full disk."""
    case.put(left=-5)
    script = """
import asyncio, resource, sys
from pathlib import Path
import httpx
from runner.errors import PermanentError
from runner.oauth.headers import client_headers
from runner.oauth.refresher import TokenSource
from runner.oauth.store import TokenStore
async def main(folder, host):
    async with httpx.AsyncClient() as client:
        source = TokenSource(TokenStore(folder, "oauth/kimi-code"), host=host, client=client,
                             headers=client_headers(folder))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            await source.access_token()
        except PermanentError as e:
            assert e.code == "credentials_not_writable", e
        else:
            sys.exit("it was renewed")
asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""
    command = [sys.executable, "-c", script, str(case.folder), case.provider.oauth_host]
    # Its output goes to pipes, which the limit leaves alone.
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert case.token_requests() == 0
    assert await case.source.access_token() == case.on_disk()["access_token"]


async def test_a_pair_that_could_not_be_saved_is_kept_and_saved_later(case: Case) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", delay=1.0))
    asking = asyncio.create_task(case.source.access_token())
    await case.provider.wait_for(bool)
    old = case.store.path.rename(case.folder / "old")
    case.store.path.mkdir()  # the disk turns bad between the check and the answer
    with pytest.raises(PermanentError):
        await asking
    case.store.path.rmdir()
    old.rename(case.store.path)
    token = await case.source.access_token()
    assert token == case.on_disk()["access_token"]
    assert (case.provider.refreshes, case.provider.replayed_refresh_tokens) == (1, 0)


async def test_a_caller_who_leaves_does_not_lose_the_pair(case: Case) -> None:
    case.put(left=-5)
    case.provider.faults.add(Fault("token", delay=0.3))
    asking = asyncio.create_task(case.source.access_token())
    await case.provider.wait_for(bool)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await case.source.close()
    assert await case.source.access_token() == case.on_disk()["access_token"]
    assert (case.provider.refreshes, case.provider.replayed_refresh_tokens) == (1, 0)


async def test_nobody_logged_in_is_an_error_with_a_hint(case: Case) -> None:
    with pytest.raises(LoginRequiredError) as caught:
        await case.source.access_token()
    assert caught.value.exit_code == 3
    assert case.source.status().state is LoginState.ABSENT


async def test_a_login_without_a_refresh_token_works_until_it_ends(case: Case) -> None:
    login = case.put(left=200, refresh_token="")
    assert await case.source.access_token() == login["access_token"]
    case.now_ahead = 300.0
    with pytest.raises(LoginRequiredError):
        await case.source.access_token()
    assert case.source.status().state is LoginState.LOST
    assert case.token_requests() == 0


async def test_an_observer_that_fails_costs_nobody_the_login(case: Case) -> None:
    case.put(left=-5)

    def broken(tokens: TokenSet) -> None:
        raise RuntimeError("observer")

    source = case.another_source(on_rotated=broken)
    assert await source.access_token() == case.on_disk()["access_token"]


async def test_keeping_fresh_renews_ahead_of_time_without_a_caller(case: Case) -> None:
    case.put(left=200)
    keeping = asyncio.create_task(case.source.keep_fresh())
    await case.provider.wait_for(lambda rs: any(r.finished_at for r in rs))
    await case.source.close()
    assert case.source.status().state is LoginState.OK
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_no_token_gets_into_logs_or_errors(case: Case) -> None:
    login = case.put(left=-5)
    secrets = {login["access_token"], login["refresh_token"]}
    with capture_logs() as logs:
        case.provider.faults.add(
            Fault("token", status=400, type="bad", message=login["refresh_token"])
        )
        with pytest.raises(PermanentError) as refused:
            await case.source.access_token()
        case.provider.faults.add(Fault("token", status=500, message=login["refresh_token"]))
        await case.source.access_token()
        secrets |= {case.on_disk()["access_token"], case.on_disk()["refresh_token"]}
        case.provider.revoke_logins()
        with pytest.raises(LoginRequiredError) as lost:
            await case.source.access_token(force=True)
    shown = f"{logs} {refused.value!r} {lost.value!r} {case.source.status()!r} {case.rotated!r}"
    assert logs
    assert not any(secret in shown for secret in secrets)
