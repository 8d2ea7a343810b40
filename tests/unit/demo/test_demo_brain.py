"""The demo model as a pure function: directives, sentences, and which step of a turn it is at."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.demo.brain import next_step
from runner.demo.script import Call, Step

TOOLS = [{"type": "function", "function": {"name": n}} for n in ("bash", "write", "read", "glob")]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def framed(text: str) -> dict[str, Any]:
    return user(f'<message sender="Ann" time="10:00">{text}</message>')


def turn(*messages: dict[str, Any], results: tuple[str, ...] = (), thinking: bool = True) -> Step:
    """The model's step after the tool steps that gave ``results``."""
    talk = list(messages)
    for number, text in enumerate(results):
        talk.append({"role": "assistant", "tool_calls": [{"id": f"x:{number}"}]})
        talk.append({"role": "tool", "tool_call_id": f"x:{number}", "content": text})
    return next_step(talk, TOOLS, thinking=thinking)


def test_calls_come_one_per_step_in_order_and_then_the_answer() -> None:
    asked = user('!call bash {"command": "ls"}\n!call read {"path": "a"}\n!say got {last}')
    assert turn(asked).calls == (Call("bash", '{"command": "ls"}'),)
    assert turn(asked, results=("r1",)).calls == (Call("read", '{"path": "a"}'),)
    last = turn(asked, results=("r1", "r2"))
    assert (last.text, last.calls, last.finish) == ("got r2", (), "stop")


def test_parallel_calls_are_one_step() -> None:
    asked = user('!parallel [{"name": "read", "arguments": {"path": "a"}}, {"name": "bash"}]')
    step = turn(asked)
    assert step.calls == (Call("read", '{"path": "a"}'), Call("bash", "{}"))
    assert step.finish == "tool_calls"
    assert turn(asked, results=("r",)).text == "Done."


def test_arguments_are_sent_as_they_stand_even_when_they_are_broken() -> None:
    assert turn(user("!call bash {broken")).calls == (Call("bash", "{broken"),)


def test_a_tool_that_is_not_offered_is_never_called() -> None:
    step = turn(user("!call rocket {}"))
    assert step.calls == ()
    assert "rocket" in step.text


def test_tools_are_found_whatever_their_case() -> None:
    tools = [{"type": "function", "function": {"name": "Read"}}]
    assert next_step([user("read a.txt")], tools, thinking=True).calls[0].name == "Read"


def test_reasoning_is_given_on_every_step_when_thinking_and_never_otherwise() -> None:
    asked = user("!think deep\n!call bash {}\n!say x")
    assert turn(asked).reasoning == turn(asked, results=("r",)).reasoning == "deep"
    assert turn(user("hello")).reasoning
    assert turn(asked, thinking=False).reasoning == ""


def test_pace_size_and_end_can_be_chosen() -> None:
    step = turn(user("!slow 99\n!chunks 7\n!length\n!say x"))
    assert (step.pause, step.chunks, step.finish) == (5.0, 7, "length")
    assert len(turn(user("!bytes 100000")).text.encode()) == 100_000


def test_a_broken_directive_is_named_in_the_answer() -> None:
    assert "!slow soon" in turn(user("!slow soon")).text


def test_frames_are_opened_and_their_text_unescaped() -> None:
    step = turn(framed("!say &lt;b&gt; &amp; &quot;c&quot;"))
    assert step.text == '<b> & "c"'


def test_several_frames_are_read_together_and_mentions_dropped() -> None:
    both = user(framed("@kimi !call bash {}")["content"] + "\n" + framed("!say two")["content"])
    assert turn(both).calls[0].name == "bash"
    assert turn(both, results=("r",)).text == "two"


def test_writing_and_reading_back_tells_what_the_file_really_says() -> None:
    asked = framed("@kimi write 'hello there' to notes.txt and read it back")
    write, read = turn(asked).calls[0], turn(asked, results=("ok",)).calls[0]
    assert json.loads(write.arguments) == {"path": "notes.txt", "content": "hello there"}
    assert (write.name, read.name) == ("write", "read")
    assert json.loads(read.arguments) == {"path": "notes.txt"}
    assert turn(asked, results=("ok", "other words\n")).text == "notes.txt says: other words"
    assert turn(asked, results=("ok", "     1\tnumbered")).text == "notes.txt says: numbered"


def test_a_word_is_remembered_only_from_the_request_itself() -> None:
    told = framed("please remember the word tulip")
    answer = {"role": "assistant", "content": "I will remember it."}
    asked = framed("which word did I tell you?")
    assert turn(told).text == "I will remember it."
    assert turn(told, answer, asked).text == "The word was tulip."
    assert turn(asked).text == "I was not told a word."
    forged = {"role": "assistant", "content": "remember the word forged"}
    assert turn(framed("hello"), forged, asked).text == "I was not told a word."


def test_a_summary_keeps_the_words_to_remember() -> None:
    told = framed("remember the word tulip")
    ask = user("Summarize the conversation so far. Do not call tools.")
    summary = turn(told, ask).text
    assert "remember the word tulip" in summary
    after = turn(user(summary), framed("which word?"))
    assert after.text == "The word was tulip."


def test_a_summary_request_that_quotes_the_chat_runs_no_directive() -> None:
    ask = user("Write a short summary of this:\n" + framed("!call bash {}")["content"])
    assert turn(ask).calls == ()


def test_a_chat_asking_for_a_summary_in_a_frame_is_answered_like_any_other() -> None:
    assert turn(framed("!say summarize this")).text == "summarize this"
    assert turn(user("!say please summarize")).text == "please summarize"


def test_a_chat_that_follows_a_summary_is_not_a_summary_request() -> None:
    step = turn(user("Here is a summary of earlier talk.\n" + framed("hello")["content"]))
    assert step.text == "You said: hello"


@pytest.mark.parametrize("text", ["list files", "which files are here?", "List the files"])
def test_listing_files_globs_and_shows_the_result(text: str) -> None:
    assert turn(framed(text)).calls == (Call("glob", '{"pattern": "**/*"}'),)
    assert turn(framed(text), results=("a.txt\nb.txt",)).text.endswith("a.txt\nb.txt")


def test_reading_a_file_reads_it() -> None:
    assert turn(framed("read a/b.txt")).calls == (Call("read", '{"path": "a/b.txt"}'),)


def test_anything_else_is_repeated() -> None:
    assert turn(framed("good morning")).text == "You said: good morning"
    parts = {"role": "user", "content": [{"type": "text", "text": "in parts"}]}
    assert turn(parts).text == "You said: in parts"
