"""The parts of the relay that need no server: order, pace, addresses, signatures."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Verifier

from tests.support.receiving import OTHER_SECRET, SECRET, Receiver
from tests.support.relaying import WEBHOOK, event, is_in_order
from worker.relay.addresses import ForbiddenAddressError, PublicResolver, is_public
from worker.relay.event import Event
from worker.relay.pace import PATIENCE_SECONDS, SINK_LONGEST_SECONDS, Pace, backoff
from worker.relay.signature import key_of, message_id, signed_headers
from worker.relay.sink import Failed, Fault
from worker.relay.sinksfile import WebhookSettings
from worker.relay.webhook import Webhook, seconds_of
from worker.relay.window import SIZE, Item, Window
from worker.store.relays import Entry


def parsed(subject: str = "d1/prod", number: int = 0, **data: Any) -> Event:
    return Event.parse(json.dumps(event(subject, number, **data)))


def item(subject: str, number: int) -> Item:
    return Item(Entry(f"{subject}{number}", ""), parsed(subject, number))


# what happens to the events that are sent together: each is delivered, or waits
FATES = st.lists(st.booleans(), min_size=10, max_size=10)


@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(FATES, max_size=60))
def test_a_window_keeps_the_order_of_each_subject_and_loses_nothing(
    subjects: list[str], rounds: list[list[bool]]
) -> None:
    window, sent = Window(), list[str]()
    for number, subject in enumerate(subjects):
        window.add(item(subject, number), now=number)
    now = float(len(subjects))
    for fates in [*rounds, *[[True] * 10] * 80]:
        taken = window.take(now, most=10, most_bytes=10**6)
        assert len({each.event.subject for each in taken}) == len(taken)
        for each, is_delivered in zip(taken, fates, strict=False):
            if is_delivered:
                sent.append(each.event.id)
                window.remove(each, now)
            else:
                window.postpone(each, now + 1)
        now += 1
    assert sorted(sent) == sorted(f"{s}/{n}" for n, s in enumerate(subjects))
    assert is_in_order(sent)
    assert (window.size, window.room, window.next_due) == (0, SIZE, None)


def test_a_window_fills_a_call_up_to_its_bytes_and_takes_one_event_at_least() -> None:
    window = Window()
    for name in "abc":
        window.add(item(name, 0), now=0)
    size = len(parsed("a").text)
    assert len(window.take(0, most=10, most_bytes=2 * size)) == 2
    assert len(window.take(0, most=10, most_bytes=1)) == 1
    assert window.take(0, most=10, most_bytes=1) == []


def test_a_postponed_event_holds_up_its_subject_and_no_other() -> None:
    window = Window()
    for name, number in (("a", 0), ("a", 1), ("b", 0)):
        window.add(item(name, number), now=0)
    first, other = window.take(0, most=10, most_bytes=10**6)
    window.postpone(first, 5)
    window.remove(other, 0)
    assert window.take(4, most=10, most_bytes=10**6) == []
    assert window.next_due == 5
    assert window.take(5, most=10, most_bytes=10**6) == [first]


def test_a_failing_sink_is_left_alone_for_longer_and_longer() -> None:
    pace, now, waits = Pace(lambda: 1.0), 10.0, list[float]()
    for _ in range(9):
        pace.failed(now, now, None)
        waits.append(pace.blocked_until - now)
        now = pace.blocked_until
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == SINK_LONGEST_SECONDS
    pace.succeeded()
    assert not pace.is_failing
    pace.failed(now, now, None)
    assert pace.blocked_until - now == 1


def test_attempts_that_fail_together_count_once() -> None:
    pace = Pace(lambda: 1.0)
    for ended_at in (11.0, 11.1, 11.2):
        pace.failed(10.0, ended_at, None)
    assert pace.blocked_until == pytest.approx(12.2)


def test_a_sink_may_ask_for_an_hour_at_most() -> None:
    pace = Pace(lambda: 1.0)
    pace.failed(10, 10, 10**9)
    assert pace.blocked_until == 10 + PATIENCE_SECONDS


def test_at_least_half_of_a_wait_is_kept() -> None:
    assert backoff(3, 300, lambda: 0.0) == 2
    assert backoff(3, 300, lambda: 1.0) == 4
    assert backoff(10**6, 300, lambda: 1.0) == 300


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
        "ff02::1",
    ],
)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_an_address_that_is_public(address: str) -> None:
    assert is_public(address)


async def test_a_name_that_leads_to_this_machine_is_not_resolved() -> None:
    with pytest.raises(ForbiddenAddressError, match=r"localhost leads to .* not a public address"):
        await PublicResolver().resolve("localhost", 80)


async def test_nothing_is_sent_to_a_name_that_leads_to_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file refuses localhost. So this stands for a name whose address changes (rebinding)."""
    monkeypatch.setenv("SECRET", SECRET)
    with Receiver() as receiver:
        settings = WebhookSettings.model_validate({**WEBHOOK, "url": receiver.url})
        url = receiver.url.replace("127.0.0.1", "localhost")
        webhook = Webhook(settings.model_copy(update={"url": url, "allow_private": False}))
        (outcome,) = await webhook.send([parsed()])
        await webhook.close()
        assert isinstance(outcome, Failed)
        assert outcome.fault is Fault.SINK
        assert "not a public address" in outcome.reason
        assert receiver.messages == []


def test_the_reference_library_verifies_each_signature() -> None:
    one = parsed()
    body = one.text.encode()
    now = int(datetime.now(UTC).timestamp())
    keys = [key_of(OTHER_SECRET), key_of(SECRET)]
    headers = signed_headers(message_id(one), now, body, keys)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER_SECRET):
        assert Verifier(secret).verify(body, headers) == one.attributes


def test_a_messages_id_is_that_of_its_event_and_has_no_full_stop() -> None:
    one = parsed("a.b/prod", 1)
    assert message_id(one) == message_id(parsed("a.b/prod", 1))
    assert message_id(one) != message_id(parsed("a.b/prod", 2))
    assert "." not in message_id(one)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_***", SECRET[6:]])
def test_a_malformed_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="is not whsec_ and 24 to 64 bytes in base64"):
        key_of(secret)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), (" 7 ", 7), ("", None), ("soon", None), ("-5", None), ("9" * 40, None)],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert seconds_of(header, 0) == seconds


def test_retry_after_a_date() -> None:
    when = datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC)
    header = format_datetime(when, usegmt=True)
    assert seconds_of(header, when.timestamp() - 30) == 30
    assert seconds_of(header, when.timestamp() + 30) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "Expecting"), ("[]", "not an object"), ('{"id": 1}', "no specversion, id")],
)
def test_what_is_no_event_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Event.parse(text)
