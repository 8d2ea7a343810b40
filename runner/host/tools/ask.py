"""``ask_user``: a question to the chat, whose next message is the answer.

It is asked once: that it was, and after which message, is written with it. An attempt that takes
over waits for the answer to the same question, or finds it among what has come since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pydantic import Field

from runner.host.decide import frame
from runner.host.events import QUESTION_ASKED
from runner.host.tools.tool import Arguments, Connection, Context, Effect, Tool, ToolError
from runner.model import DeliveryKind, Event, Message, Turn
from runner.store import event_log, outbox, tool_calls, turns

MAX_QUESTION = 8_000
MAX_OPTIONS = 20
NOBODY = "nobody has answered"
# Of the turn's time, what is left for the agent to say something when nobody has answered.
RESERVE = 60.0
RESERVED_SHARE = 0.2


Expect = Callable[[Turn, int], asyncio.Future[Message]]
"""The first message of a turn's conversation whose ``seq`` is higher than the number.

Raises:
    ConflictError: the turn does not run any more, or another question of it is open.
"""


class Question(Arguments):
    question: str = Field(min_length=1, max_length=MAX_QUESTION, description="What to ask.")
    options: list[str] = Field(
        default_factory=list,
        max_length=MAX_OPTIONS,
        description="Answers to choose from, if there are some; people may say other things.",
    )


class AskUser(Tool[Question]):
    """The answer is whatever comes next, framed as every message is. Silence is a result too."""

    name = "ask_user"
    description = (
        "Ask the people in the chat something that you need to know to go on, and wait for the "
        "answer. Ask one question at a time, and only what you cannot find out yourself."
    )
    arguments = Question
    table = "ask_user"

    def __init__(self, expect: Expect) -> None:
        self._expect = expect

    async def call(self, context: Context, arguments: Question) -> str:
        if context.turn.session:  # what people say next is of the group's conversation
            raise ToolError(
                "a task with a conversation of its own can ask nobody",
                hint="say by send_message what you need to know, and end; who answers is heard in "
                "the chat's conversation",
                code="nobody_to_ask",
            )
        # Waiting comes first: an answer may be there as soon as the question is.
        asked_after = await _asked_after(context)
        after = await context.read(lambda c: turns.last_seq(c, context.group))
        since = after if asked_after is None else asked_after
        answer = self._expect(context.turn, since)
        try:
            if asked_after is None:
                await _ask(context, arguments, since)
            seconds = waiting_time(
                context.settings.tools.ask_user.timeout,
                context.settings.host.turn_timeout,
                context.time_left,
            )
            async with asyncio.timeout(seconds):
                answered = await asyncio.shield(answer)
        except TimeoutError:
            answered = None
        except asyncio.CancelledError:
            if not answer.cancelled():
                raise
            raise ToolError("the turn has ended", code="turn_over") from None
        finally:
            answer.cancel()
        return await _settle(context, answered)


def waiting_time(timeout: float, turn_timeout: float, left: float) -> float:
    """Seconds to wait: ``timeout``, but the turn has to have some of its time left after it."""
    return max(0.0, min(timeout, left - min(RESERVE, RESERVED_SHARE * turn_timeout)))


def shown(question: str, options: list[str]) -> str:
    """The question as a chat sees it that knows of no options."""
    return "\n".join([question, *(f"{n}. {option}" for n, option in enumerate(options, 1))])


def _asking(call: tool_calls.Call) -> tool_calls.Call:
    """The half of the call that asks; it has a row of its own, which is what counts."""
    return replace(call, key=f"asked:{call.key}", tool="ask_user:asked")


async def _asked_after(context: Context) -> int | None:
    """After which message the question was asked, if it was."""
    known = await context.store.transact(lambda c: tool_calls.admit(c, _asking(context.call)))
    return int(known.text) if known is not None and known.text else None


async def _ask(context: Context, asked: Question, after: int) -> None:
    webhook = context.settings.for_group(context.group).webhook
    said = {
        "text": shown(asked.question, asked.options),
        "question": asked.question,
        "options": asked.options,
    }

    def work(c: Connection, event_id: int) -> Effect:
        turn = context.turn
        sent = outbox.say(c, turn, DeliveryKind.QUESTION, QUESTION_ASKED, said, webhook)
        data = {"turn_id": turn.id, "delivery_id": sent.id if sent else None, **said}
        event = Event(event_id, turn.group, QUESTION_ASKED, data, turn.id)
        event_log.append(c, [event])
        return Effect(str(after), event)

    await replace(context, call=_asking(context.call)).once(work)


async def _settle(context: Context, answered: Message | None) -> str:
    def work(c: Connection, event_id: int) -> Effect:
        del event_id  # the answer is written as a message already
        if answered is None:
            return Effect(NOBODY)
        tool_calls.note_answer(c, context.call, answered.id)
        return Effect(frame((answered,)))

    return await context.once(work)
