"""The HTTP API as any client sees it, on a real socket, in front of a real host."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import TOKEN, Rig, group_path, rig

from runner.demo.faults import Fault
from runner.host import events
from runner.model import Event, folder_of
from runner.store.firing import TASK_SKIPPED

API_MD = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture
async def r(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, host="max_queue = 3") as made:
        yield made


@pytest.fixture
async def http(r: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=r.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    ) as client:
        yield client


async def sse(client: httpx.AsyncClient, path: str, **options: Any) -> list[dict[str, Any]]:
    """The events of a stream until a turn has ended."""
    found: list[dict[str, Any]] = []
    method = options.pop("method", "GET")
    async with asyncio.timeout(60), client.stream(method, path, **options) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                found.append({**event, "data": json.loads(value)})
                if event["event"] == "turn.finished":
                    break
    return found


async def test_a_post_is_answered_202_once_it_is_on_disk(r: Rig, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/groups/birds/messages", json={"text": "!say hi"})
    assert answer.status_code == 202
    told = answer.json()
    assert told["group"] == "birds"
    assert told["duplicate"] is False
    assert (await r.host.store.message(told["message_id"])).text == "!say hi"


async def test_wait_gives_the_result_of_the_turn(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/api/groups/birds/messages", params={"wait": 30}, json={"text": "!say hi"}
    )
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["text"], told["error"]) == ("done", "hi", None)
    assert told["usage"]["output_tokens"] > 0
    assert told["turn_id"].startswith("turn_")


async def test_when_the_wait_is_over_the_message_is_still_accepted(
    r: Rig, http: httpx.AsyncClient
) -> None:
    r.provider.faults.add(Fault(delay=3))
    answer = await http.post(
        "/api/groups/birds/messages", params={"wait": 0.2}, json={"text": "!say hi"}
    )
    assert answer.status_code == 202
    assert "message_id" in answer.json()


async def test_a_failed_turn_says_why_in_the_waited_answer(r: Rig, http: httpx.AsyncClient) -> None:
    r.provider.faults.add(Fault(status=404, type="resource_not_found_error"))
    answer = await http.post(
        "/api/groups/birds/messages", params={"wait": 30}, json={"text": "hello"}
    )
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_the_events_of_a_message_stream_until_its_turn_ended(
    http: httpx.AsyncClient,
) -> None:
    found = await sse(
        http,
        "/api/groups/birds/messages",
        method="POST",
        json={"text": "!say one two three"},
        headers={"accept": "text/event-stream"},
    )
    assert [e["event"] for e in found][:2] == ["message.accepted", "turn.started"]
    assert found[-1]["data"]["text"] == "one two three"
    ids = [int(e["id"]) for e in found]
    assert ids == sorted(set(ids))


async def test_the_same_external_id_is_answered_once_and_streams_the_same_answer(
    r: Rig, http: httpx.AsyncClient
) -> None:
    body = {"text": "!say hi", "external_id": "wa-1"}
    first = await http.post("/api/groups/birds/messages", params={"wait": 30}, json=body)
    again = await http.post("/api/groups/birds/messages", json=body)
    assert again.status_code == 202
    assert again.json()["duplicate"] is True
    assert again.json()["message_id"] == first.json()["message_id"]
    streamed = await sse(
        http,
        "/api/groups/birds/messages",
        method="POST",
        json=body,
        headers={"accept": "text/event-stream"},
    )
    assert streamed[-1]["data"]["text"] == "hi"
    waited = await http.post("/api/groups/birds/messages", params={"wait": 30}, json=body)
    assert waited.json()["text"] == "hi"
    assert len(r.provider.chats()) == 1


async def test_a_group_stream_resumes_after_the_last_event_id(http: httpx.AsyncClient) -> None:
    first = await sse(
        http,
        "/api/groups/birds/messages",
        method="POST",
        json={"text": '!call bash {"command": "true"}\n!say hi'},
        headers={"accept": "text/event-stream"},
    )
    facts = [e for e in first if not e["event"].endswith(".delta") and e["event"] != "usage"]
    again = await sse(http, "/api/groups/birds/events", headers={"last-event-id": facts[0]["id"]})
    assert [e["id"] for e in again] == [e["id"] for e in facts[1:]]


async def test_the_history_pages_in_the_order_of_acceptance(http: httpx.AsyncClient) -> None:
    for n in range(3):
        await http.post(
            "/api/groups/birds/messages",
            params={"wait": 30},
            json={"text": f"!say {n}", "sender": "Ada", "metadata": {"n": n}},
        )
    page = (await http.get("/api/groups/birds/messages", params={"limit": 2})).json()["messages"]
    assert [m["metadata"]["n"] for m in page] == [0, 1]
    assert {m["state"] for m in page} == {"answered"}
    rest = await http.get("/api/groups/birds/messages", params={"after": page[-1]["seq"]})
    assert [m["metadata"]["n"] for m in rest.json()["messages"]] == [2]


@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer x", "Basic abc"])
async def test_without_the_token_nothing_is_told(r: Rig, token: str | None) -> None:
    headers = {} if token is None else {"authorization": token}
    async with httpx.AsyncClient(base_url=r.url, headers=headers) as client:
        answer = await client.get("/api/groups")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "unauthorized"
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (await client.get("/ready")).json() == {
            "ready": True,
            "checks": {"store": "ok", "engine": "ok", "login": "ok"},
        }


async def test_ready_says_when_the_login_is_gone(r: Rig, http: httpx.AsyncClient) -> None:
    (r.layout.credentials / "kimi-code.json").unlink()
    answer = await http.get("/ready")
    assert answer.status_code == 503
    assert "nanokimi login" in answer.json()["checks"]["login"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        (b"{}", 422, "invalid_request"),
        (b'{"text": 1}', 422, "invalid_request"),
        (b'{"text": "x", "txet": 1}', 422, "invalid_request"),
        (b'{"text": " \\n "}', 422, "empty_message"),
        (b'{"text": "x", "external_id": ""}', 422, "invalid_request"),
        (b'{"text": "x", "metadata": {"a": "\\ud800"}}', 422, "invalid_request"),
        (b'{"text": "a\\u0000b"}', 422, "invalid_request"),
        (
            b'{"text": "x", "metadata": {"a": ' + b"[" * 90 + b"]" * 90 + b"}}",
            422,
            "invalid_request",
        ),
        (json.dumps({"text": "x" * 600_000}).encode(), 413, "message_too_long"),
        (json.dumps({"text": "x" * 2_000_000}).encode(), 413, "body_too_large"),
    ],
)
async def test_a_bad_body_is_told_with_its_fix_and_the_next_one_works(
    http: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    answer = await http.post("/api/groups/birds/messages", content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]
    good = await http.post("/api/groups/birds/messages", json={"text": "!say hi"})
    assert good.status_code == 202


async def test_a_form_is_told_what_to_send(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/groups/birds/messages", data={"text": "x"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["hint"]


async def test_a_body_that_hides_its_length_is_bounded_too(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"text": "'
        for _ in range(64):
            yield b"x" * 65_536

    with contextlib.suppress(httpx.WriteError):
        answer = await http.post("/api/groups/birds/messages", content=endless())
        assert answer.status_code == 413


async def test_a_full_queue_is_429_with_when_to_come_back(r: Rig, http: httpx.AsyncClient) -> None:
    r.provider.faults.add(Fault(delay=20))
    await http.post("/api/groups/birds/messages", json={"text": "first"})
    await r.until("birds", "turn.started")
    codes = [
        (await http.post("/api/groups/birds/messages", json={"text": str(n)})).status_code
        for n in range(4)
    ]
    assert codes == [202, 202, 202, 429]
    refused = await http.post("/api/groups/birds/messages", json={"text": "x"})
    assert int(refused.headers["retry-after"]) > 0
    assert (await http.post("/api/groups/others/messages", json={"text": "x"})).status_code == 202
    await http.post("/api/groups/birds/cancel")


IDS = ["🐦 birds", "../../etc/passwd", "a/b", "%2F", "Team", "team", "x" * 256, "..", "a?b#c"]


async def test_any_group_id_works_and_stays_itself(r: Rig, http: httpx.AsyncClient) -> None:
    for group in IDS:
        answer = await http.put(group_path(group))
        assert (answer.status_code, answer.json()["group"]) == (200, group)
        assert (await http.get(group_path(group))).json()["group"] == group
    listed = (await http.get("/api/groups")).json()["groups"]
    assert sorted(g["group"] for g in listed) == sorted(IDS)
    assert len({g["folder"] for g in listed}) == len(IDS)
    answer = await http.post(
        f"{group_path('../../etc/passwd')}/messages",
        params={"wait": 30},
        json={"text": "write 'x' to notes.txt and read it back"},
    )
    assert answer.json()["status"] == "done"
    assert (r.layout.workspace(folder_of("../../etc/passwd")) / "notes.txt").exists()


@pytest.mark.parametrize("group", ["x" * 257, "a%00b"])
async def test_an_impossible_group_id_is_refused(http: httpx.AsyncClient, group: str) -> None:
    answer = await http.post(f"/api/groups/{group}/messages", json={"text": "x"})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "bad_group_id"


async def test_a_wrong_body_is_refused_in_plain_sentences(http: httpx.AsyncClient) -> None:
    for body, said in (
        ({"text": "x", "snder": "Ada"}, "snder: is no field here; did you mean sender?"),
        ({"text": 5}, "text: must be text"),
        ({"sender": "x"}, "text: is missing"),
        ({"text": "x", "sender": "y" * 257}, "sender: must have at most 256 characters"),
        ({"text": "x", "direct": "maybe"}, "direct: must be true or false"),
        ({"text": "a\0b"}, "text: holds a character that cannot be stored"),
        ({"text": "x", "attachments": [{"name": "a", "dta": ""}]}, "did you mean data?"),
        ([], "the body: must be an object"),
    ):
        answer = await http.post("/api/groups/birds/messages", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "invalid_request")
        assert said in error["message"]
    answer = await http.put("/api/groups/birds/members/ada", json={"rle": "king"})
    assert "rle: is no field here; did you mean role?" in answer.json()["error"]["message"]
    answer = await http.put("/api/groups/birds/members/ada", json={"role": "king"})
    assert "role: must be one of 'owner', 'admin'" in answer.json()["error"]["message"]


async def test_what_is_not_there_is_404_in_one_shape(http: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/api/groups/nobody"),
        ("GET", "/api/groups/nobody/messages"),
        ("GET", "/api/groups/nobody/events"),
        ("POST", "/api/groups/nobody/cancel"),
        ("POST", "/api/groups/nobody/reset"),
        ("DELETE", "/api/groups/nobody"),
        ("GET", "/nothing/here"),
    ):
        answer = await http.request(method, path)
        assert answer.status_code == 404, path
        assert set(answer.json()["error"]) == {"code", "message", "hint"}


@pytest.mark.parametrize("number", ["9" * 30, "-1", "x"])
async def test_a_number_beyond_all_numbers_is_422(http: httpx.AsyncClient, number: str) -> None:
    await http.put("/api/groups/birds")
    page = await http.get("/api/groups/birds/messages", params={"after": number})
    stream = await http.get("/api/groups/birds/events", headers={"last-event-id": number})
    assert (page.status_code, stream.status_code) == (422, 422)


async def test_a_duplicate_of_a_message_from_long_ago_gets_its_answer(
    r: Rig, http: httpx.AsyncClient
) -> None:
    body = {"text": "!say hi", "external_id": "old"}
    await http.post("/api/groups/birds/messages", params={"wait": 30}, json=body)
    many = [Event(n, "birds", "tool.started", {}) for n in range(1, 50)]
    await r.host.store.append_events(many)
    r.host.events.forget("birds")
    waited = await http.post("/api/groups/birds/messages", params={"wait": 30}, json=body)
    assert waited.json()["text"] == "hi"


async def test_cancel_without_a_turn_is_409(http: httpx.AsyncClient) -> None:
    await http.put("/api/groups/birds")
    answer = await http.post("/api/groups/birds/cancel")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "nothing_running"


async def test_without_auto_create_only_known_groups_are_answered(tmp_path: Path) -> None:
    async with (
        rig(tmp_path, host="auto_create = false") as r,
        httpx.AsyncClient(
            base_url=r.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
        ) as http,
    ):
        assert (
            await http.post("/api/groups/birds/messages", json={"text": "x"})
        ).status_code == 404
        await http.put("/api/groups/birds")
        assert (
            await http.post("/api/groups/birds/messages", json={"text": "x"})
        ).status_code == 202


async def test_the_documentation_names_every_call(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert {
        "/api/groups",
        "/api/groups/{id}",
        "/api/groups/{id}/messages",
        "/api/groups/{id}/events",
        "/api/groups/{id}/cancel",
        "/api/groups/{id}/reset",
        "/api/groups/{id}/stop",
        "/health",
        "/ready",
    } <= set(paths)
    names = {p["name"] for p in paths["/api/groups/{id}"]["get"].get("parameters", [])}
    assert "id" in names


async def test_api_md_names_every_call_and_every_event_and_no_other(
    http: httpx.AsyncClient,
) -> None:
    written = API_MD.read_text()
    calls = {
        (method, path)
        for methods, path in re.findall(r"`([A-Z/]+) (/[^`?]+)[^`]*`", written)
        for method in methods.split("/")
    }
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert calls == {(m.upper(), path) for path, methods in paths.items() for m in methods}
    told = {v for k, v in vars(events).items() if re.fullmatch("[A-Z_]+", k) and type(v) is str}
    table = written.split("## Events")[1].split("## Errors")[0]
    assert set(re.findall(r"^\| `([a-z.]+)` \|", table, re.M)) == told | {TASK_SKIPPED}


async def test_while_it_stops_it_takes_no_more_and_says_so(r: Rig, http: httpx.AsyncClient) -> None:
    await r.host.drain()
    answer = await http.post("/api/groups/birds/messages", json={"text": "x"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "host_stopping"
