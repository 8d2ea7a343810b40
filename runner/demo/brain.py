"""The demo model: a pure function of the request, so every run of it says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.demo.directives import script_for_directives
from runner.demo.script import Script, Step
from runner.demo.sentences import script_for_sentence, script_for_summary
from runner.demo.talk import Message, Talk, read_talk


def next_step(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, thinking: bool
) -> Step:
    """The model's next step for a request that :mod:`runner.demo.rules` let through.

    Which step of the turn it is follows from the messages after the last user message. A tool
    that is not among ``tools`` is never called: the answer says that it is missing.
    """
    talk = read_talk(messages, tools)
    script = (
        script_for_summary(talk) or script_for_directives(talk.chat) or script_for_sentence(talk)
    )
    step = _step_of(script, talk)
    return step if thinking else replace(step, reasoning="")


def _step_of(script: Script, talk: Talk) -> Step:
    at = talk.steps_done
    step = Step(
        reasoning=script.reasoning or f"This is step {at + 1} of my work.",
        pause=script.pause,
        chunks=script.chunks,
    )
    if at >= len(script.calls):
        last = talk.results[-1] if talk.results else ""
        return replace(step, text=script.answer.replace("{last}", last), finish=script.finish)
    offered = {name.lower(): name for name in talk.tools}
    calls = script.calls[at]
    if missing := [call.name for call in calls if call.name.lower() not in offered]:
        return replace(step, text=f"I was not offered the tool {', '.join(missing)}.")
    named = tuple(replace(call, name=offered[call.name.lower()]) for call in calls)
    return replace(step, calls=named, finish="tool_calls")
