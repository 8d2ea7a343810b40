"""What entries add up to, and what comes next."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from runner.agent import chat
from runner.agent.chat import Call, Function, Reply
from runner.agent.conversation import Conversation
from runner.agent.journal import (
    Compacted,
    Entry,
    Journal,
    ModelSaid,
    Steer,
    Steered,
    ToolSaid,
    TurnDropped,
    TurnEnded,
    UserSaid,
)
from runner.agent.turn import Ask, Finish, Repeat, RunTools, decide
from runner.errors import PermanentError
from runner.model import Usage
from runner.settings.container import LoopControl


def user(turn: str, text: str, *, again: bool = False) -> UserSaid:
    return UserSaid(turn=turn, message=msgspec.Raw(chat.user(text)), again=again)


def model(
    turn: str, step: int, text: str = "", *calls: str, used: int = 0, finish: str = "stop"
) -> ModelSaid:
    reply = Reply(
        text, "why", tuple(Call(id=c, function=Function("bash", "{}")) for c in calls), finish, None
    )
    return ModelSaid(
        turn=turn,
        step=step,
        finish=finish,
        message=msgspec.Raw(chat.assistant(reply, demand_reasoning=True)),
        usage=Usage(used, 0, 1, None) if used else None,
    )


def tool(turn: str, call: str) -> ToolSaid:
    return ToolSaid(turn=turn, call=call, message=msgspec.Raw(chat.tool_result(call, "ok")))


def told(*entries: Entry) -> Conversation:
    talk = Conversation()
    for entry in entries:
        talk.apply(entry)
    return talk


def following(*entries: Entry, limits: LoopControl | None = None) -> object:
    talk = told(*entries)
    assert talk.current is not None
    return decide(talk.current, limits or LoopControl(), steered=bool(talk.waiting))


def test_the_loop_goes_on_from_any_entry() -> None:
    entries: list[Entry] = [user("t", "hi"), model("t", 1, "", "a", "b"), tool("t", "a")]
    assert following(*entries[:1]) == Ask()
    assert isinstance(following(*entries[:2]), RunTools)
    left = following(*entries)
    assert isinstance(left, RunTools)
    assert [c.id for c in left.calls] == ["b"]
    entries += [tool("t", "b")]
    assert following(*entries) == Ask()
    entries += [model("t", 2, "done")]
    assert following(*entries) == Finish("end_turn")


def test_limits_and_finishes_end_a_turn() -> None:
    one = LoopControl(max_steps_per_turn=1)
    step = [user("t", "hi"), model("t", 1, "", "a"), tool("t", "a")]
    assert following(*step, limits=one) == Finish("max_turn_requests")
    assert following(user("t", "x"), model("t", 1, "half", finish="length")) == Finish("max_tokens")
    refused = model("t", 1, "no", finish="content_filter")
    assert following(user("t", "x"), refused) == Finish("refusal")


def test_ralph_repeats_until_its_count_or_the_step_limit() -> None:
    twice = LoopControl(max_ralph_iterations=1)
    said = [user("t", "x"), model("t", 1, "a")]
    assert following(*said, limits=twice) == Repeat()
    said += [user("t", "x", again=True), model("t", 2, "b")]
    assert following(*said, limits=twice) == Finish("end_turn")
    endless = LoopControl(max_ralph_iterations=-1, max_steps_per_turn=2)
    assert following(*said, limits=endless) == Finish("max_turn_requests")


def test_a_steer_waits_for_the_next_request_and_keeps_the_turn_alive() -> None:
    steer = Steer(turn="t", message=msgspec.Raw(chat.user("left!")))
    entries: list[Entry] = [user("t", "go"), model("t", 1, "", "a"), steer, tool("t", "a")]
    talk = told(*entries)
    assert [type(chat.decode(m)) for m in talk.messages][-1] is chat.ToolMessage
    talk.apply(Steered(turn="t", count=1))
    assert talk.messages[-1] == chat.user("left!")
    assert following(user("t", "go"), model("t", 1, "done"), steer) == Ask()


def test_a_summary_replaces_all_but_the_turns_own_words() -> None:
    talk = told(user("a", "old"), model("a", 1, "yes"), user("b", "new"), model("b", 1, "", "x"))
    talk.apply(tool("b", "x"))
    assert talk.current is not None
    assert talk.can_compact(talk.current)
    talk.apply(Compacted(turn="b", message=msgspec.Raw(chat.user("summary"))))
    assert talk.messages == [chat.user("summary"), chat.user("new")]
    assert not talk.can_compact(talk.current)
    talk.apply(model("b", 2, "done"))
    assert talk.can_compact(talk.current)


def test_a_dropped_turn_leaves_the_context() -> None:
    talk = told(user("a", "keep"), model("a", 1, "yes"), user("b", "poison"))
    before = talk.messages[:2]
    talk.apply(TurnDropped(turn="b"))
    assert talk.messages == before
    assert "b" not in talk.turns


def test_an_empty_answer_ends_the_turn_and_adds_nothing() -> None:
    talk = told(user("a", "x"), model("a", 1, ""))
    assert talk.messages == [chat.user("x")]
    assert following(user("a", "x"), model("a", 1, "")) == Finish("end_turn")


def test_tokens_are_the_providers_count_and_an_estimate_of_the_rest() -> None:
    talk = told(user("a", "x" * 300))
    assert talk.tokens(overhead=3000) >= 1100
    talk.apply(model("a", 1, "ok", used=50))
    assert talk.tokens(overhead=3000) == 51
    talk.apply(user("b", "y" * 300))
    assert talk.tokens(overhead=3000) > 150


def test_an_entry_of_an_unknown_turn_is_a_corrupt_journal() -> None:
    with pytest.raises(PermanentError) as error:
        told(TurnEnded(turn="ghost", stop="end_turn"))
    assert error.value.code == "journal_corrupt"


def test_a_journal_gives_back_every_entry_and_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    journal = Journal.create(path)
    entries: list[Entry] = [
        user("t", "é \u2028 \x00 {}"),
        model("t", 1, "", "a", used=3),
        tool("t", "a"),
        model("t", 2),
        TurnEnded(turn="t", stop="end_turn"),
        Compacted(turn="t", message=msgspec.Raw(chat.user("s"))),
    ]
    journal.append(*entries)
    journal.close()
    journal = Journal.open(path)
    assert list(journal.entries())[1:] == entries
    assert told(*journal.entries()).messages == told(*entries).messages
    journal.close()


@pytest.mark.parametrize("torn", [b"{", b'{"entry":"end"}', b"x" * 200_000])
def test_only_the_torn_end_of_a_journal_is_cut(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    journal = Journal.create(path)
    journal.append(user("t", "kept"))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    Journal.open(path).close()
    assert path.read_bytes() == whole


def test_calls_go_back_with_short_unique_ids_and_json_arguments() -> None:
    calls = (
        Call(id="x" * 65, function=Function("bash", "{}")),
        Call(id="same", function=Function("bash", "")),
        Call(id="same", function=Function("bash", "[1")),
    )
    settled = chat.settled(Reply("", "", calls, "tool_calls", None))
    assert len({c.id for c in settled}) == 3
    assert all(len(c.id) <= chat.MAX_TOOL_ID for c in settled)
    assert all(chat.is_json_object(c.function.arguments) for c in settled)


def test_a_cut_answer_keeps_its_text_but_not_its_calls() -> None:
    reply = Reply("text", "", (Call(id="a", function=Function("bash", '{"c')),), "length", None)
    assert chat.decode_assistant(chat.assistant(reply, demand_reasoning=True)) == (
        chat.AssistantMessage("text")
    )


def test_calls_without_reasoning_get_a_word_where_the_api_demands_one() -> None:
    reply = Reply("", "", (Call(id="a", function=Function("bash", "{}")),), "tool_calls", None)
    demanded = chat.decode_assistant(chat.assistant(reply, demand_reasoning=True))
    assert demanded.reasoning_content
    assert b"reasoning_content" not in chat.assistant(reply, demand_reasoning=False)
