"""``send_message``: words for the chat before the answer."""

from __future__ import annotations

from pydantic import Field

from runner.host.events import MESSAGE_SENT
from runner.host.tools.tool import Arguments, Connection, Context, Effect, Tool
from runner.model import DeliveryKind, Event
from runner.store import event_log, outbox

MAX_TEXT = 32_000


class Message(Arguments):
    text: str = Field(min_length=1, max_length=MAX_TEXT, description="What the chat is told.")


class MessageAnywhere(Message):
    group: str = Field("", description="Id of another group to tell it to; empty for this one.")


class SendMessage(Tool[Message]):
    """The event goes to the listeners of the group, the delivery to where its answers go."""

    name = "send_message"
    description = (
        "Tell the chat something now, while you go on working: progress of long work, or a part "
        "of the result. Your final answer is sent by itself, so do not repeat it here."
    )
    arguments = Message
    admin_arguments = MessageAnywhere
    table = "send_message"

    async def call(self, context: Context, arguments: Message) -> str:
        if not arguments.text.strip():
            return "there was nothing to send"
        wished = arguments.group if isinstance(arguments, MessageAnywhere) else ""
        group = await context.target(wished)
        webhook = context.settings.for_group(group).webhook
        said = {"text": arguments.text}

        def work(c: Connection, event_id: int) -> Effect:
            turn = context.turn
            sent = outbox.say(
                c, turn, DeliveryKind.MESSAGE, MESSAGE_SENT, said, webhook, group=group
            )
            delivery = sent.id if sent is not None else None
            data = {"turn_id": turn.id, "delivery_id": delivery, **said}
            event = Event(event_id, group, MESSAGE_SENT, data, turn.id)
            event_log.append(c, [event])
            return Effect("sent", event)

        return await context.once(work, about=group)
