"""The webhook channel against a real receiver: what counts as arrived, and what does not."""

import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest
from receiver import DROP, HANG, TRICKLE, Answer, Behaviour, Receiver

from runner.channels.channel import Delivered, Failed, Rejected, Result, RetryAfter
from runner.channels.secret import webhook_secret
from runner.channels.webhook import Webhook
from runner.errors import PermanentError
from runner.model import Delivery, DeliveryKind
from runner.settings.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
async def receiver(layout: Layout) -> AsyncIterator[Receiver]:
    async with Receiver(lambda: webhook_secret(layout)) as made:
        yield made
        assert made.violations == []


@pytest.fixture
async def hook(layout: Layout) -> AsyncIterator[Webhook]:
    made = Webhook(lambda: webhook_secret(layout))
    yield made
    await made.aclose()


def delivery(url: str, id_: str = "dlv_1", text: str = "hello") -> Delivery:
    body = {"event": "turn.finished", "delivery_id": id_, "text": text}
    return Delivery(id_, "g", "turn", 0, DeliveryKind.ANSWER, body, "webhook", url)


async def test_an_answer_arrives_signed_with_its_key(hook: Webhook, receiver: Receiver) -> None:
    assert await hook.send(delivery(receiver.url(), text="héllo 👍"), 0, 5) == Delivered()
    assert [body["text"] for body in receiver.seen] == ["héllo 👍"]


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (Answer(204, body=b""), Delivered),
        (TRICKLE, Delivered),
        (Answer(500), Failed),
        (Answer(429, (("retry-after", "3"),)), RetryAfter),
        (Answer(410), Rejected),
        (Answer(500, body=b"x" * 10_000_000), Failed),
        (DROP, Failed),
        (HANG, Failed),
    ],
    ids=str,
)
async def test_each_end_is_told_as_what_it_is(
    hook: Webhook, receiver: Receiver, behaviour: Behaviour, kind: type[Result]
) -> None:
    receiver.script(behaviour)
    result = await hook.send(delivery(receiver.url()), 0, 1.5)
    assert isinstance(result, kind), result
    if not isinstance(result, Delivered | RetryAfter):
        assert 0 < len(result.reason) < 400
    assert await hook.send(delivery(receiver.url()), 0, 5) == Delivered()


async def test_a_date_to_come_back_at_is_understood(hook: Webhook, receiver: Receiver) -> None:
    at = formatdate(time.time() + 100, usegmt=True)
    receiver.script(Answer(503, (("retry-after", at),)))
    result = await hook.send(delivery(receiver.url()), 0, 5)
    assert isinstance(result, RetryAfter)
    assert 95 < result.seconds <= 100


async def test_redirects_are_not_followed(hook: Webhook, receiver: Receiver) -> None:
    receiver.script(Answer(307, (("location", receiver.url("/elsewhere")),)))
    result = await hook.send(delivery(receiver.url()), 0, 5)
    assert isinstance(result, Rejected)
    assert receiver.paths == ["/hook"]


async def test_nobody_there_is_worth_another_try(hook: Webhook, receiver: Receiver) -> None:
    async with Receiver(lambda: b"") as gone:
        url = gone.url()
    assert isinstance(await hook.send(delivery(url), 0, 5), Failed)
    nowhere = delivery("http://nowhere.invalid/hook")
    assert isinstance(await hook.send(nowhere, 0, 5), Failed)


async def test_what_is_no_web_address_is_not_called(hook: Webhook) -> None:
    for url in ("file:///etc/passwd", "http://user:pw@127.0.0.1/", "http://xn--a/"):
        assert isinstance(await hook.send(delivery(url), 0, 5), Rejected)


async def test_a_receiver_sets_no_cookies(hook: Webhook, receiver: Receiver) -> None:
    receiver.script(Answer(500, (("set-cookie", "a=b; Path=/"),)))
    await hook.send(delivery(receiver.url()), 0, 5)
    assert await hook.send(delivery(receiver.url()), 0, 5) == Delivered()


async def test_the_secret_is_made_once_private_and_may_be_replaced(
    hook: Webhook, receiver: Receiver, layout: Layout
) -> None:
    first = webhook_secret(layout)
    assert (len(first) > 40, webhook_secret(layout)) == (True, first)
    assert layout.webhook_secret.stat().st_mode & 0o777 == 0o600
    assert layout.credentials.stat().st_mode & 0o777 == 0o700
    layout.webhook_secret.write_text("another\n")
    assert webhook_secret(layout) == b"another"
    assert await hook.send(delivery(receiver.url()), 0, 5) == Delivered()
    layout.webhook_secret.write_text(" \n")
    with pytest.raises(PermanentError, match="empty"):
        webhook_secret(layout)
