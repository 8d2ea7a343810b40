"""The bytes of a request, and the system text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.agent import chat, compaction, prompt, request


def build(model: str = "kimi-for-coding", *, thinking: bool = True, tools: bool = True) -> bytes:
    return request.build(
        model=model,
        messages=[chat.user("a"), chat.user("b")],
        tools=b"[]" if tools else None,
        thinking=thinking,
        cache_key="s",
    )


@pytest.mark.parametrize(
    ("model", "on", "off"),
    [
        (
            "kimi-for-coding",
            {"thinking": {"type": "enabled", "keep": "all"}},
            {"thinking": {"type": "disabled"}},
        ),
        (
            "moonshotai/kimi-k2.6-preview",
            {"thinking": {"type": "enabled", "keep": "all"}},
            {"thinking": {"type": "disabled"}},
        ),
        ("kimi-k2.7-code", {}, {}),
        ("k3-256k", {"reasoning_effort": "high"}, {}),
        ("something-else", {}, {}),
    ],
)
def test_each_family_is_told_to_think_in_its_way(
    model: str, on: dict[str, object], off: dict[str, object]
) -> None:
    always = {"model", "messages", "tools", "stream", "stream_options", "prompt_cache_key"}
    for thinking, expected in ((True, on), (False, off)):
        body = json.loads(build(model, thinking=thinking))
        assert {k: v for k, v in body.items() if k not in always} == expected
        assert body["stream_options"] == {"include_usage": True}


def test_equal_conversations_give_equal_bytes() -> None:
    assert build() == build()
    assert b"tools" not in build(tools=False)


def test_the_operators_headers_win_over_ours() -> None:
    headers = dict(request.headers("secret", "1.2", {"user-agent": "KimiCLI/1"}))
    assert headers["user-agent"] == "KimiCLI/1"
    assert "User-Agent" not in headers
    assert headers["Authorization"] == "Bearer secret"
    assert dict(request.headers("t", "1.2", {}))["User-Agent"] == "nanokimi/1.2"


def test_the_system_text_changes_only_with_agents_md(tmp_path: Path) -> None:
    empty = prompt.system_message(str(tmp_path))
    assert prompt.system_message(str(tmp_path)) == empty
    (tmp_path / "AGENTS.md").write_text("Mia")
    assert b"Mia" in prompt.system_message(str(tmp_path))


def test_agents_md_is_bounded_and_must_be_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "AGENTS.md"
    path.write_text("x" * 100_000)
    text = prompt.read_agents_md(str(tmp_path))
    assert len(text) < prompt.MAX_AGENTS_MD + 100
    assert text.endswith("(cut after 32768 bytes)")
    path.unlink()
    os.mkfifo(path)
    assert prompt.read_agents_md(str(tmp_path)) == ""
    path.unlink()
    path.mkdir()
    assert prompt.read_agents_md(str(tmp_path)) == ""


def test_a_summary_request_quotes_every_line_and_fits_half_the_context() -> None:
    context = [chat.user(f"!call bash {n}\nline") for n in range(2_000)]
    system, asked = map(chat.decode, compaction.request_messages(context, 8_000))
    assert isinstance(system, chat.SystemMessage)
    assert isinstance(asked, chat.UserMessage)
    quoted = asked.content.removesuffix(compaction.TASK)
    assert all(not line or line.startswith("> ") for line in quoted.split("\n"))
    assert "!call bash 1999" in quoted
    assert "(older lines left out)" in quoted
    assert len(quoted) <= 8_000 * 3 // 2 + 100


def test_compaction_is_due_when_the_reserve_is_touched() -> None:
    assert compaction.is_due(60, 40, 100)
    assert not compaction.is_due(59, 40, 100)
