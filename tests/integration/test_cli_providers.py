"""``nanokimi providers`` as a person types it, with real calls to the strict provider."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rig import log_in, write_config

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

MORE = """
[gateway]
max_retries = 0

[gateway.targets]
avg_response_time = 1e-6

[[model_list]]
model_name = "new"
model = "kimi-k3"
api_base = "{open_base}"
api_key = "sk-good"
fallbacks = ["kimi-code"]

[[model_list]]
model_name = "bad key"
model = "kimi-k3"
api_base = "{open_base}"
api_keys = ["sk-good", "sk-wrong"]

[[model_list]]
model_name = "gone"
model = "kimi-k9"
api_base = "{open_base}"
api_key = "sk-good"
fallbacks = ["kimi-code"]

[[model_list]]
model_name = "resting"
model = "kimi-k3"
api_base = "{open_base}"
api_key = "sk-good"
enabled = false
"""


@dataclass
class Shell:
    layout: Layout
    provider: DemoProvider

    async def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "KIMI_"))}
        env |= variables
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runner", "--data", str(self.layout.root), *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return process.returncode or 0, out.decode(), err.decode()

    async def json(self, *arguments: str, **variables: str) -> tuple[int, Any]:
        code, out, err = await self.run(*arguments, "--json", **variables)
        assert out, err
        return code, json.loads(out)


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with DemoProvider() as provider:
        provider.add_api_key("sk-good")
        layout = Layout(tmp_path / "data")
        base = provider.base_url.replace("/coding/v1", "/v1")
        write_config(layout, provider, more=MORE.format(open_base=base))
        log_in(layout, provider)
        yield Shell(layout, provider)


def prompts(tmp_path: Path, *found: dict[str, Any]) -> str:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(found))
    return str(path)


async def test_every_target_is_asked_with_each_key_and_what_is_wrong_has_its_fix(
    shell: Shell,
) -> None:
    code, told = await shell.json("providers", "test")
    assert code == 0
    assert told["ok"] is True
    rows = [(t["name"], t["state"], t["reason"]) for t in told["targets"]]
    assert sorted(rows) == [
        ("bad key", "failed", "auth"),
        ("bad key", "ok", ""),
        ("gone", "failed", "model_gone"),
        ("kimi-code", "ok", ""),
        ("new", "ok", ""),
        ("resting", "off", ""),
    ]
    for t in told["targets"]:
        assert bool(t["fix"]) == (t["state"] == "failed")
        assert (t["latency"] is not None) == (t["state"] == "ok")
    assert "sk-" not in json.dumps(told)


async def test_a_default_model_that_fails_is_exit_code_1_with_the_fix(shell: Shell) -> None:
    (shell.layout.credentials / "kimi-code.json").unlink()
    code, out, err = await shell.run("providers", "test")
    assert code == 1
    assert "nanokimi login" in out
    assert "kimi-code" in err


async def test_what_a_test_cost_is_in_the_books_and_no_rest_is_left(shell: Shell) -> None:
    shell.provider.faults.add(Fault(status=500))
    await shell.run("providers", "test")
    code, told = await shell.json("providers", "test")
    assert code == 0
    assert {t["state"] for t in told["targets"] if t["name"] == "kimi-code"} == {"ok"}
    _, usage = await shell.json("usage", "--by", "model")
    assert usage["total"]["calls"] == 10


async def test_a_comparison_asks_both_the_same_and_writes_the_report(
    shell: Shell, tmp_path: Path
) -> None:
    file = prompts(
        tmp_path,
        {"test": "good", "prompt": "!say def f", "expects": ["def f"]},
        {"test": "wrong", "prompt": "!say no", "expects": ["def g"]},
    )
    out = tmp_path / "report.json"
    code, shown, err = await shell.run(
        "providers", "compare", "kimi-code", "new", "--prompts", file, "--out", str(out)
    )
    assert code == 0, err
    report = json.loads(out.read_text())
    assert report["old"]["name"] == "kimi-code"
    assert report["kimi"]["name"] == "new"
    assert report["kimi"]["success_rate"] == 0.5
    assert report["comparison"]["success_rate_change"] == 0.0
    assert report["kimi"]["total_cost"] > 0
    first, second = report["tests"]
    assert first["kimi"]["content"] == first["old"]["content"] == "def f"
    assert first["kimi"]["model"] == "kimi-k3"
    assert first["kimi"]["tokens_used"] > 0
    assert first["old"]["provider"] == "demo"
    assert first["old"]["cost"] is None  # a subscription has no price
    assert second["comparison"]["verdict"] == "failed"
    assert "warning:" in shown
    assert "avg_response_time" in shown
    assert "success_rate_change: +0.0 points" in shown
    asked = [r.json for r in shell.provider.chats()]
    models = ["kimi-for-coding", "kimi-k3"]
    assert [r["model"] for r in asked] == [*models, *reversed(models)]  # nobody is always first


async def test_no_fallback_answers_in_the_place_of_a_compared_model(
    shell: Shell, tmp_path: Path
) -> None:
    file = prompts(tmp_path, {"prompt": "!say hi"})
    code, report = await shell.json(
        "providers", "compare", "kimi-code", "gone",
        "--prompts", file, "--out", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert code == 0
    (record,) = report["tests"]
    assert record["old"]["success"] is True
    assert record["kimi"]["success"] is False
    assert record["kimi"]["reason"] == "model_gone"
    assert record["comparison"] == {"verdict": "worse", "time_diff": None, "cost_diff": None}
    assert report["comparison"]["success_rate_change"] == -100.0
    assert report["kimi"]["avg_response_time"] is None


async def test_a_reviewer_s_refusal_makes_an_answer_a_failure(shell: Shell, tmp_path: Path) -> None:
    file = prompts(tmp_path, {"prompt": "!say INVALID: no tests"}, {"prompt": "!say VALID"})
    code, report = await shell.json(
        "providers", "compare", "kimi-code", "new", "--validate",
        "--prompts", file, "--out", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert code == 0
    refused, passed = (t["kimi"] for t in report["tests"])
    assert refused["validation"] == {"verdict": "INVALID", "reason": "no tests"}
    assert refused["success"] is False
    assert passed["validation"]["verdict"] == "VALID"
    assert passed["success"] is True


async def test_nothing_is_asked_when_a_name_or_a_file_is_wrong(
    shell: Shell, tmp_path: Path
) -> None:
    bad = prompts(tmp_path, {"text": "hi"})
    for arguments in (
        ("kimi-code", "no-such-model"),
        ("kimi-code", "new", "--prompts", bad),
        ("kimi-code", "new", "--out", str(tmp_path / "none" / "r.json")),
    ):
        code, _, err = await shell.run("providers", "compare", *arguments)
        assert code == 2, err
        assert "hint:" in err
    assert shell.provider.chats() == []


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """Its URL, and the request lines that it got; it answers them itself."""
    asked: list[str] = []
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"},
                                    "finish_reason": "stop"}]})  # fmt: skip
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(request.splitlines()[0])
        writer.write(f"{head}\r\nconnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_calls_go_out_through_the_proxy_of_the_entry_or_of_the_environment(
    shell: Shell,
) -> None:
    entry = """
[[model_list]]
model_name = "{0}"
model = "some-model"
api_base = "http://{0}.test/v1"
api_key = "k"
{1}
"""
    async with proxy() as (own, at_own), proxy() as (usual, at_usual):
        with shell.layout.config.open("a") as config:
            config.write(entry.format("one", f'proxy = "{own}"') + entry.format("other", ""))
        _, told = await shell.json(
            "providers", "test", HTTP_PROXY=usual, http_proxy=usual,
            NO_PROXY="127.0.0.1", no_proxy="127.0.0.1",
        )  # fmt: skip
    states = {t["name"]: t["state"] for t in told["targets"]}
    assert (states["one"], states["other"], states["kimi-code"]) == ("ok", "ok", "ok")
    assert at_own == ["POST http://one.test/v1/chat/completions HTTP/1.1"]
    assert at_usual == ["POST http://other.test/v1/chat/completions HTTP/1.1"]
