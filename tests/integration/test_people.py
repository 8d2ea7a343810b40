"""Who is let in and as what, through the API of a whole host and the commands of an operator."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import TOKEN, Rig, rig, write_config
from test_cli import Shell, serve, shell  # noqa: F401

PEOPLE = """
[people]
roles = { "boss" = "owner", "troll" = "blocked" }
"""


@pytest.fixture
async def r(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, host='allowed_groups = ["team-*"]', more=PEOPLE) as made:
        yield made


@pytest.fixture
async def http(r: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=r.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    ) as client:
        yield client


def rows(r: Rig, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(r.layout.database) as db:
        return db.execute(query).fetchall()


async def post(http: httpx.AsyncClient, group: str = "team-a", **body: Any) -> httpx.Response:
    return await http.post(f"/api/groups/{group}/messages", json={"text": "!say hi", **body})


async def test_the_role_is_written_with_the_message(r: Rig, http: httpx.AsyncClient) -> None:
    for person in ("boss", "ada"):
        assert (await post(http, sender="Somebody", sender_id=person)).status_code == 202
    assert (await post(http, sender="boss")).status_code == 202
    assert (await post(http)).status_code == 202
    assert rows(r, "select sender_id, role from messages order by seq") == [
        ("boss", "owner"),
        ("ada", "member"),
        ("boss", "owner"),
        ("", "member"),
    ]
    listed = (await http.get("/api/groups/team-a/messages")).json()["messages"]
    assert [m["role"] for m in listed] == ["owner", "member", "owner", "member"]


async def test_a_flood_of_a_blocked_sender_writes_nothing_and_makes_no_group(
    r: Rig, http: httpx.AsyncClient
) -> None:
    for _ in range(200):
        answer = await post(http, sender_id="troll", text="x" * 1000)
        assert answer.status_code == 403
    told = answer.json()["error"]
    assert told["code"] == "sender_blocked"
    assert told["hint"]
    for table in ("groups", "messages", "turns", "events"):
        assert rows(r, f"select count(*) from {table}") == [(0,)]
    assert r.provider.chats() == []


async def test_a_blocked_sender_is_not_let_in_by_a_known_external_id(
    http: httpx.AsyncClient,
) -> None:
    assert (await post(http, sender_id="ada", external_id="1")).status_code == 202
    assert (await post(http, sender_id="troll", external_id="1")).status_code == 403


@pytest.mark.parametrize(
    "person", ["boss\u200b", "\u202eboss", "boss\n", " boss", "boss\u00a0", "bo\x07ss", "x" * 257]
)
async def test_a_forged_id_is_refused(http: httpx.AsyncClient, person: str) -> None:
    answer = await post(http, sender_id=person)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] in ("bad_member_id", "invalid_request")


async def test_an_id_that_only_looks_the_same_is_somebody_else(
    r: Rig, http: httpx.AsyncClient
) -> None:
    for person in ("b\u043ess", "BOSS", "bo\u0301ss", "\uff42oss"):
        assert (await post(http, sender_id=person)).status_code == 202
    assert {role for (role,) in rows(r, "select role from messages")} == {"member"}


async def test_a_group_outside_the_list_is_refused_until_it_is_registered(
    http: httpx.AsyncClient,
) -> None:
    answer = await post(http, "birds", sender_id="ada")
    assert answer.status_code == 403
    told = answer.json()["error"]
    assert told["code"] == "group_not_allowed"
    assert "allowed_groups" in told["hint"]
    assert (await http.get("/api/groups")).json()["groups"] == []
    assert (await http.put("/api/groups/birds")).status_code == 200
    assert (await post(http, "birds", sender_id="ada")).status_code == 202
    assert (await http.delete("/api/groups/birds")).status_code == 204
    assert (await post(http, "birds", sender_id="ada")).status_code == 403


async def test_members_are_listed_given_roles_and_forgotten(http: httpx.AsyncClient) -> None:
    await http.put("/api/groups/team-a")
    path = "/api/groups/team-a/members"
    put = await http.put(f"{path}/tg%2F47%3D11", json={"role": "admin"})
    assert put.json() == {"member": "tg/47=11", "role": "admin", "given_in": "group"}
    assert (await http.get(path)).json() == {
        "members": [
            {"member": "boss", "role": "owner", "given_in": "config"},
            {"member": "tg/47=11", "role": "admin", "given_in": "group"},
            {"member": "troll", "role": "blocked", "given_in": "config"},
        ],
        "default_role": "member",
    }
    assert (await http.put(f"{path}/ada", json={"role": "blocked"})).status_code == 200
    assert (await post(http, sender_id="ada")).status_code == 403
    assert (await http.delete(f"{path}/ada")).status_code == 204
    assert (await post(http, sender_id="ada")).status_code == 202
    assert (await http.delete(f"{path}/ada")).status_code == 404
    assert (await http.put(f"{path}/troll", json={"role": "member"})).status_code == 409
    assert (await http.put(f"{path}/ada", json={"role": "king"})).status_code == 422
    assert (await http.get("/api/groups/nowhere/members")).status_code == 404


async def test_roles_of_the_config_change_while_it_runs(r: Rig, http: httpx.AsyncClient) -> None:
    assert (await post(http, sender_id="ada")).status_code == 202
    write_config(r.layout, r.provider, more='[people]\nroles = { "ada" = "blocked" }')
    async with asyncio.timeout(20):
        while (await post(http, sender_id="ada")).status_code != 403:
            await asyncio.sleep(0.05)
    assert (await post(http, sender_id="troll")).status_code == 202


async def test_only_named_people_are_served_when_the_default_is_blocked(tmp_path: Path) -> None:
    more = '[people]\ndefault_role = "blocked"\nroles = { "ada" = "member" }'
    async with (
        rig(tmp_path, more=more) as r,
        httpx.AsyncClient(base_url=r.url, headers={"authorization": f"Bearer {TOKEN}"}) as http,
    ):
        assert (await post(http, sender_id="ada")).status_code == 202
        assert (await post(http, sender_id="eve")).status_code == 403
        assert (await post(http)).status_code == 403
        assert (await post(http, sender="terminal", operator=True)).status_code == 202


async def test_a_reply_to_the_agent_wakes_it_without_the_word(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        config = r.layout.config
        config.write_text(config.read_text().replace('trigger = ""', 'trigger = "@kimi"'))
        async with asyncio.timeout(20):
            while not r.host.trigger("birds"):
                await asyncio.sleep(0.05)
        told = await r.api.call("POST", "/api/groups/birds/messages", json={"text": "talk"})
        assert told["wakes"] is False
        assert await r.ask("birds", "!say you are welcome", reply_to_agent=True) == (
            "you are welcome"
        )


async def test_roles_from_the_command_line_with_a_host_and_without(
    shell: Shell,  # noqa: F811
) -> None:
    config = shell.layout.config
    config.write_text(config.read_text() + PEOPLE)
    assert (await shell.run("chat", "birds", "-m", "!say hi"))[:2] == (0, "hi\n")
    code, out, err = await shell.run(
        "groups", "members", "birds", "--set", "tg:1=admin", "--set", "a=b=blocked"
    )
    assert code == 0, err
    assert [line.split() for line in out.splitlines()] == [
        ["MEMBER", "ROLE", "GIVEN", "IN"],
        ["a=b", "blocked", "this", "group"],
        ["boss", "owner", "config.toml"],
        ["tg:1", "admin", "this", "group"],
        ["troll", "blocked", "config.toml"],
    ]
    assert "everybody else: member" in err
    process, _ = await serve(shell)
    try:
        code, out, err = await shell.run(
            "groups", "members", "birds", "--unset", "a=b", "--set", "tg:2=owner", "--json"
        )
        assert code == 0, err
        assert {m["member"]: m["role"] for m in json.loads(out)["members"]} == {
            "boss": "owner",
            "tg:1": "admin",
            "tg:2": "owner",
            "troll": "blocked",
        }
        code, _, err = await shell.run("groups", "members", "birds", "--set", "troll=member")
        assert code == 1
        assert "config.toml" in err
    finally:
        process.terminate()
        await process.wait()
    code, _, err = await shell.run("groups", "members", "birds", "--set", "tg:1")
    assert code == 2
    assert "ID=ROLE" in err
