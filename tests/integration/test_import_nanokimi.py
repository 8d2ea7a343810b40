"""``nanokimi import nanokimi``: an installation of NanoKimi, and one of our own."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rig import CONFIG, log_in, rig, running

from runner.demo.provider import DemoProvider
from runner.host.lock import host_lock
from runner.model import folder_of
from runner.settings.layout import Layout
from runner.settings.load import load_settings

OLD_CONFIG = """
# Kai's config
default_model = "kimi-code"
default_thinking = false
default_yolo = true
default_editor = "vim"

[models.kimi-code]
provider = "managed:kimi-code"
model = "kimi-latest"
max_context_size = 200000
capabilities = ["thinking"]

[providers."managed:kimi-code"]
type = "kimi"
base_url = "{base_url}"
api_key = ""
oauth = {{ storage = "file", key = "oauth/kimi-code", host = "{oauth_host}" }}

[providers.moonshot]
type = "kimi"
base_url = "https://api.moonshot.cn/v1"
api_key = "sk-moonshot-secret"

[loop_control]
max_steps_per_turn = 100
max_retries_per_step = 3
max_ralph_iterations = 0
reserved_context_size = 50000

[services]
"""
FAMILY = "120363@g.us"
SELF = "34600@s.whatsapp.net"


async def nanokimi(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runner", *arguments,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode(), err.decode()


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def session(*entries: Any) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def login(expires_at: float, access: str = "old") -> str:
    return json.dumps(
        {
            "access_token": access,
            "refresh_token": "refresh-secret",
            "expires_at": expires_at,
            "scope": "kimi-code",
            "token_type": "Bearer",
        }
    )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """What an installation of NanoKimi looks like after some weeks, with traps of its agents."""
    root = tmp_path / "NanoKimi"
    config = OLD_CONFIG.format(
        base_url="https://api.kimi.com/coding/v1", oauth_host="https://auth.kimi.com"
    )
    put(root / "data/credentials/config.toml", config)
    put(root / "data/credentials/kimi-code.json", login(1770658583.17))
    put(root / "data/oauth-token/kimi-code.json", login(1770659999.5, "newer"))
    (root / "data/credentials/kimi-code.json").chmod(0o644)
    put(root / ".env", "MOONSHOT_API_KEY=sk-env-secret\n")
    put(root / "groups/global/KIMI.md", "Everybody likes kites.\n")
    put(root / "groups/main/KIMI.md", "I am Kai, the main one.\n")
    put(root / "groups/family/KIMI.md", "The dog is called Rex.\n")
    put(root / "groups/family/notes/trip.md", "To the sea in June.\n")
    put(root / "groups/family/logs/container-1.log", "stderr with things\n")
    put(root / "groups/odd one/data.csv", "a,b\n")
    folder = root / "data/sessions/family/.kimi/0c3fd1/5e55-10"
    put(
        folder / "context.jsonl",
        session(
            {"role": "_system_prompt", "content": "be nice"},
            {"role": "user", "content": "<message>Remember the word marmalade</message>"},
            {
                "role": "assistant",
                "content": [
                    {"type": "think", "think": "hidden thought"},
                    {"type": "text", "text": "I will remember marmalade."},
                ],
            },
            {"role": "_usage", "token_count": 12},
            {"role": "tool", "content": "tool noise"},
        )
        + "not json\n",
    )
    put(folder / "wire.jsonl", "{}\n")
    (root / "groups/family/passwords").symlink_to("/etc/passwd")
    (root / "groups/family/etc").symlink_to("/etc")
    os.mkfifo(root / "groups/family/pipe")
    (root / "data/sessions/linked").symlink_to("/etc")
    store = root / "store/messages.db"
    store.parent.mkdir()
    db = sqlite3.connect(store)
    db.executescript(
        f"""
        PRAGMA journal_mode = WAL;
        CREATE TABLE registered_groups (jid TEXT PRIMARY KEY, name TEXT NOT NULL,
          folder TEXT NOT NULL UNIQUE, trigger_pattern TEXT NOT NULL, added_at TEXT NOT NULL,
          container_config TEXT, requires_trigger INTEGER DEFAULT 1);
        CREATE TABLE scheduled_tasks (id TEXT PRIMARY KEY, status TEXT DEFAULT 'active');
        INSERT INTO registered_groups VALUES
          ('{SELF}', 'Me', 'main', '@Kai', '2026-01-01', NULL, 1),
          ('{FAMILY}', 'Family', 'family', '@Kai', '2026-01-01', NULL, 1);
        INSERT INTO scheduled_tasks (id) VALUES ('t1');
        """
    )
    db.close()
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a directory: modes, times and contents."""
    found = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(root))] = (stat.st_mode, stat.st_mtime_ns, content)
    return found


def items(report: dict[str, Any], what: str) -> dict[str, tuple[bool, str]]:
    return {i["name"]: (i["taken"], i["detail"]) for i in report["items"] if i["what"] == what}


async def take(old: Path, layout: Layout, *more: str) -> dict[str, Any]:
    code, out, err = await nanokimi(
        "import", "nanokimi", str(old), "--json", "--data", str(layout.root), *more
    )
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


async def test_an_installation_of_nanokimi_is_taken_over_whole(old: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    before = snapshot(old)
    report = await take(old, layout)
    assert snapshot(old) == before  # not even a mode over there has changed

    settings = load_settings(layout, {})
    assert settings.models["kimi-code"].model == "kimi-for-coding"
    assert settings.providers["moonshot"].api_key.reveal() == "sk-moonshot-secret"
    assert settings.groups[FAMILY].trigger == "@Kai"
    assert settings.groups[SELF].admin
    assert settings.groups[SELF].trigger == ""
    assert "# Kai's config" in layout.config.read_text()
    assert "secret" not in layout.config.read_text() + json.dumps(report)

    tokens = layout.credentials / "kimi-code.json"
    assert json.loads(tokens.read_text())["access_token"] == "newer"
    for path in layout.credentials.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert layout.credentials.stat().st_mode & 0o777 == 0o700

    family = layout.workspace(folder_of(FAMILY))
    assert (family / "notes/trip.md").read_text() == "To the sea in June.\n"
    assert (family / "global/KIMI.md").read_text() == "Everybody likes kites.\n"
    memory = (family / "AGENTS.md").read_text()
    assert memory.startswith("The dog is called Rex.\n")
    assert "imported/" in memory
    (conversation,) = (family / "imported").iterdir()
    said = conversation.read_text()
    assert "Remember the word marmalade" in said
    assert "I will remember marmalade." in said
    assert "hidden thought" not in said
    assert "tool noise" not in said
    there = {path.name for path in family.rglob("*")}
    assert not there & {"passwords", "etc", "pipe", "logs"}
    assert not any(path.is_symlink() for path in layout.root.rglob("*"))

    assert set(items(report, "group")) == {FAMILY, SELF, "odd one"}
    assert "3 links or special files" in items(report, "group")[FAMILY][1]
    notes = "\n".join(report["notes"])
    for part in ("kimi-latest", "default_editor", "scheduled tasks", ".env", "'odd one'"):
        assert part in notes


async def test_an_import_overwrites_nothing_and_may_be_run_again(old: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.credentials.mkdir(parents=True)
    (layout.credentials / "kimi-code.json").write_text("mine")
    mine = layout.workspace(folder_of(SELF))
    put(mine / "mine.txt", "mine")
    await take(old, layout)
    assert (layout.credentials / "kimi-code.json").read_text() == "mine"
    assert [path.name for path in mine.iterdir()] == ["mine.txt"]
    before = snapshot(layout.root)
    report = await take(old, layout)
    assert not [i for i in report["items"] if i["taken"]]
    after = snapshot(layout.root)
    assert {k: v[2] for k, v in after.items() if "nanokimi.db" not in k} == {
        k: v[2] for k, v in before.items() if "nanokimi.db" not in k
    }


async def test_a_dry_run_says_the_same_and_writes_nothing(old: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    dry = await take(old, layout, "--dry-run")
    assert not layout.root.exists()
    assert dry["dry_run"] is True
    assert {**await take(old, layout), "dry_run": True} == dry


async def test_a_folder_gets_the_id_that_a_person_gives_it(old: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    report = await take(old, layout, "--group", "odd one=tg:4=2")
    assert items(report, "group")["tg:4=2"][0]
    assert (layout.workspace(folder_of("tg:4=2")) / "data.csv").exists()
    assert "'odd one' belongs" not in "\n".join(report["notes"])


async def test_an_older_registry_and_a_damaged_database_are_read_as_far_as_they_go(
    old: Path, tmp_path: Path
) -> None:
    (old / "store/messages.db").write_text("no database")
    registry = {
        FAMILY: {"name": "Family", "folder": "family", "trigger": "@Kai", "requiresTrigger": False}
    }
    put(old / "data/registered_groups.json", json.dumps(registry))
    report = await take(old, Layout(tmp_path / "data"))
    assert set(items(report, "group")) == {FAMILY, "main", "odd one"}
    assert load_settings(Layout(tmp_path / "data"), {}).groups[FAMILY].trigger == ""
    assert any("messages.db" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("break_it", "code", "said"),
    [
        (lambda old: (old / "data/credentials/config.toml").write_text("= 3"), 2, "is not TOML"),
        (
            lambda old: put(
                old / "data/credentials/config.toml",
                (old / "data/credentials/config.toml")
                .read_text()
                .replace('["thinking"]', '["tool_call"]'),
            ),
            2,
            "tool_call",
        ),
        (lambda old: (old / "data/credentials/config.toml").unlink(), 2, "is no readable file"),
    ],
)
async def test_a_config_that_cannot_be_used_is_refused_before_anything_is_written(
    old: Path, tmp_path: Path, break_it: Callable[[Path], object], code: int, said: str
) -> None:
    break_it(old)
    layout = Layout(tmp_path / "data")
    found, _, err = await nanokimi("import", "nanokimi", str(old), "--data", str(layout.root))
    assert found == code
    assert said in err
    assert not layout.config.exists()
    assert not layout.credentials.exists()


async def test_what_is_no_installation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    code, _, err = await nanokimi("import", "nanokimi", str(tmp_path / "x"))
    assert code == 2
    assert "no installation that is known" in err


async def test_a_data_directory_that_is_served_is_refused(old: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    with host_lock(layout.host_lock):
        code, _, err = await nanokimi("import", "nanokimi", str(old), "--data", str(layout.root))
    assert code == 1
    assert "serves" in err
    assert not layout.config.exists()


async def test_a_directory_whose_host_is_running_is_not_taken_over(tmp_path: Path) -> None:
    source = Layout(tmp_path / "first")
    put(source.config, "")
    put(source.root / "groups/x/a.txt", "a")
    with host_lock(source.host_lock):
        code, _, err = await nanokimi("import", "nanokimi", str(source.root))
    assert code == 1
    assert "end it first" in err


async def test_after_the_import_a_groups_first_message_works_with_its_files(
    old: Path, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        config = OLD_CONFIG.format(base_url=provider.base_url, oauth_host=provider.oauth_host)
        put(old / "data/credentials/config.toml", config)
        put(old / "data/oauth-token/kimi-code.json", json.dumps(provider.issue_login()))
        await take(old, layout)
        text = layout.config.read_text()
        layout.config.write_text(f'{text}\n[sandbox]\nbackend = "process"\n')
        async with running(layout, provider) as r:
            read = json.dumps({"path": "notes/trip.md"})
            answer = await r.ask(FAMILY, f"@Kai\n!call read {read}\n!say {{last}}")
            assert "To the sea in June." in answer
            asked = json.dumps(provider.chats()[-1].json)
            assert "The dog is called Rex." in asked


async def test_another_data_directory_of_ours_comes_with_its_memory(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "second/data")
    async with rig(tmp_path / "first") as r:
        await r.ask("team@x", "remember the word marmalade\n")
        await r.ask("team@x", f"!call write {json.dumps({'path': 'a.txt', 'content': 'kite'})}")
        source, config = r.layout.root, r.layout.config.read_text()
    report = await take(source, layout)
    assert items(report, "group")["team@x"][0]
    assert layout.config.read_text() == config
    assert (layout.workspace(folder_of("team@x")) / "a.txt").read_text() == "kite"
    async with DemoProvider() as provider:
        layout.config.write_text(
            CONFIG.format(
                base_url=provider.base_url,
                oauth_host=provider.oauth_host,
                backend="process",
                image="nanokimi-agent",
                model="kimi-for-coding",
                host="",
                sandbox="",
                more="",
            )
        )
        log_in(layout, provider)
        async with running(layout, provider) as again:
            assert "marmalade" in await again.ask("team@x", "which word?")


def ours(tmp_path: Path, store: str) -> Layout:
    made = Layout(tmp_path / "first")
    (made.root / "groups" / "birds").mkdir(parents=True)
    made.database.touch()
    model = 'provider = "p"\nmodel = "kimi-k2.6"\nmax_context_size = 100000'
    provider = 'type = "kimi"\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "file:keys/kimi"'
    made.config.write_text(
        f'default_model = "m"\n[models.m]\n{model}\n[providers.p]\n{provider}\n{store}'
    )
    return made


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
async def test_a_data_directory_on_postgresql_is_refused_before_anything_is_written(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    made = ours(tmp_path, '[store]\nurl = "postgresql://u:secret@127.0.0.1:1/db"\n')
    target = tmp_path / "second"
    code, out, err = await nanokimi(
        "import", "nanokimi", str(made.root), "--data", str(target), *more
    )
    assert code != 0
    assert "same database" in " ".join(err.split())
    assert "secret" not in out + err
    assert not (target / "config.toml").exists()


async def test_a_key_outside_of_credentials_is_named_as_not_taken(tmp_path: Path) -> None:
    report = await take(ours(tmp_path, "").root, Layout(tmp_path / "second"))
    assert not items(report, "key")["keys/kimi"][0]
