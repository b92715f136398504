"""Every sender's adapter: what it shows of itself is so, and what its sender's documentation has is read as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.adapters import ADAPTERS, DESCRIPTIONS, Webhook, declared, verification_of
from services.events.adapters.declared import Adapter, webhook_of
from services.events.adapters.reading import MOST_EVENTS
from services.events.adapters.webhook import FORM, ParsedEvent, checked_event
from shared.errors import Invalid, MillraceError
from shared.schemas import checker_of

SENT = [one for one in ADAPTERS.values() if one.parse is not None]
# Nothing secret and no key: each has to be asked for by its name.
OPEN = {"none", "topic", "alerts"}
MEMBERS = st.sampled_from(["type", "event", "entry", "events", "value", "notificationItems", "data", "changes", "a_events"])
DOCUMENTS = st.recursive(
    st.none() | st.text() | st.integers(), lambda one: st.lists(one) | st.dictionaries(MEMBERS, one), max_leaves=12
)


def read(name: str, body: bytes | str, *, settings: dict[str, Any] | None = None, **headers: str) -> list[ParsedEvent]:
    parse = ADAPTERS[name].parse
    assert parse is not None
    given = {"content_type": "application/json"} | headers
    content = body.encode() if isinstance(body, str) else body
    lower = {key.replace("_", "-"): value for key, value in given.items()}
    return [checked_event(one) for one in parse(Webhook(lower, {}, content, settings or {}))]


def types(name: str, body: bytes | str, **headers: str) -> list[str]:
    return [one.type for one in read(name, body, **headers)]


@pytest.mark.parametrize("adapter", SENT, ids=lambda one: one.name)
def test_the_example_of_an_adapter_makes_the_events_that_it_shows(adapter: Adapter) -> None:
    sample = adapter.sample
    assert sample is not None
    example = DESCRIPTIONS[adapter.name].example
    assert example is not None
    assert tuple(one.type for one in example.events) == sample.events
    webhook = webhook_of(sample)
    assert adapter.parse is not None
    for event in adapter.parse(webhook):
        assert checked_event(event).headers.keys() <= webhook.headers.keys()
    media = declared(adapter.name, sample.settings).content_types
    assert media is None or webhook.media_type in media


@pytest.mark.parametrize("adapter", SENT, ids=lambda one: one.name)
def test_an_adapter_names_its_senders_page_and_its_settings_are_a_schema(adapter: Adapter) -> None:
    assert adapter.name in {"ip", "none"} or str(adapter.link).startswith("https://")
    checker = checker_of(msgspec.json.encode(adapter.schema))
    settings = dict(adapter.sample.settings if adapter.sample else {})
    if adapter.name not in OPEN:
        needed = {*adapter.required, *(name for row in adapter.one_of for name in row)}
        without = {name: value for name, value in settings.items() if name not in needed}
        assert checker.problems(without, "settings"), "needs nothing to verify with"
    handshakes = declared(adapter.name, settings).handshakes
    assert (adapter.handshake is not None) == bool(handshakes) or adapter.name == "line"
    assert verification_of(adapter.name, settings) is not None


def test_the_documentation_lists_every_adapter() -> None:
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    assert [name for name in ADAPTERS if f"| `{name}` |" not in text] == []


def test_only_what_is_asked_for_by_name_verifies_nothing() -> None:
    assert {one.name for one in ADAPTERS.values() if not one.required and not one.one_of} == OPEN
    unsigned = {one.name for one in SENT for scheme in one.verification({}).schemes if scheme.algorithm == "none"}
    assert unsigned == {"ip", "none"}


@given(
    adapter=st.sampled_from(SENT),
    body=DOCUMENTS.map(msgspec.json.encode),
    content_type=st.sampled_from(["application/json", FORM, "text/plain", "application/cloudevents-batch+json"]),
)
def test_no_document_makes_a_sender_raise_anything_but_invalid(adapter: Adapter, body: bytes, content_type: str) -> None:
    headers = {"content-type": content_type, "x-github-event": "push", "ce-type": "a", "ce-id": "%"}
    assert adapter.parse is not None
    try:
        for event in adapter.parse(Webhook(headers, {}, body, {})):
            checked_event(event)
    except Invalid:
        return


def test_batches_are_split_and_an_empty_one_is_one_event() -> None:
    one, two = read(
        "microsoft-graph", '{"value":[{"changeType":"updated","resource":"a"},{"changeType":"deleted","resource":"b"}]}'
    )
    assert (one.type, one.data["resource"], two.type, two.data["resource"]) == ("updated", "a", "deleted", "b")
    assert types("sendgrid", '[{"event":"open"},{"event":"click"},{"event":"open"}]') == ["open", "click", "open"]
    assert types("sendgrid", "[]") == types("line", '{"destination":"x","events":[]}') == ["webhook"]
    assert types("hubspot", '{"eventType":"card","x":1}') == ["card"]
    with pytest.raises(Invalid, match="more than 10,000 events"):
        read("sendgrid", b"[" + b",".join([b"{}"] * (MOST_EVENTS + 1)) + b"]")


def test_a_split_event_of_meta_and_x_keeps_what_is_around_it() -> None:
    first = {"id": "1", "time": 2, "changes": [{"field": "feed", "value": 1}], "messaging": [{"message": {}}]}
    body = msgspec.json.encode({"object": "page", "entry": [first, {"id": "3", "standby": [{}]}]})
    events = read("meta", body)
    assert [one.type for one in events] == ["page.feed", "page.messaging", "page.standby"]
    assert events[0].data == {"object": "page", "entry": [{"id": "1", "time": 2, "changes": [{"field": "feed", "value": 1}]}]}
    events = read("x", '{"for_user_id":"7","follow_events":[{"a":1},{"a":2}],"users":{}}')
    assert [one.data["follow_events"] for one in events] == [[{"a": 1}], [{"a": 2}]]
    assert {one.data["for_user_id"] for one in events} == {"7"}


def test_slack_reads_commands_interactions_and_events() -> None:
    assert types("slack", "command=%2Fdeploy&text=now&text=please", content_type=FORM) == ["/deploy"]
    assert read("slack", "command=%2Fdeploy&text=now&text=please", content_type=FORM)[0].data["text"] == ["now", "please"]
    assert types("slack", "payload=%7B%22type%22%3A%22block_actions%22%7D", content_type=FORM) == ["block_actions"]
    assert types("slack", '{"type":"app_rate_limited"}') == ["app_rate_limited"]


def test_twilio_reads_statuses_and_streams() -> None:
    assert types("twilio", "CallSid=CA1&CallStatus=completed", content_type=FORM) == ["call.completed"]
    assert types("twilio", "MessageSid=1&MessageStatus=delivered&SmsStatus=delivered", content_type=FORM) == ["message.delivered"]
    assert types("twilio", "Digits=1234", content_type=FORM) == ["webhook"]
    assert types("twilio", '[{"type":"com.twilio.a"},{"type":"com.twilio.b"}]') == ["com.twilio.a", "com.twilio.b"]


def test_cloudevents_are_read_in_every_mode() -> None:
    binary = read("cloudevents", '{"a":1}', ce_type="com.a", ce_id="1", ce_source="/s", ce_subject="%C3%A9", ce_specversion="1.0")
    assert binary[0].data == {
        "type": "com.a",
        "id": "1",
        "source": "/s",
        "subject": "é",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }
    batch = '[{"type":"a","id":"1"},{"type":"b","id":"2"}]'
    assert types("cloudevents", batch, content_type="application/cloudevents-batch+json") == ["a", "b"]
    with pytest.raises(Invalid, match="no CloudEvent"):
        read("cloudevents", '{"id":"1"}', content_type="application/cloudevents+json")


def test_discord_names_interactions() -> None:
    assert types("discord", '{"type":2,"id":"1"}') == ["APPLICATION_COMMAND"]
    assert types("discord", '{"type":9}') == ["webhook"]


def test_gitlab_names_events_with_their_action_and_system_hooks_without() -> None:
    assert types("gitlab", '{"object_kind":"push","ref":"refs/heads/main"}') == ["push"]
    assert types("gitlab", '{"event_name":"project_create"}', x_gitlab_event="System Hook") == ["project_create"]


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(MillraceError):
        declared("hmac", {"delivery": {"prefix": "v0="}})
