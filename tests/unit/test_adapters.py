"""What adapters make of bodies in every form that senders give them."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.adapters import PARSERS, ParsedEvent, verification_of
from services.events.adapters.webhook import Webhook, checked_event
from shared.errors import Invalid

FORM = "application/x-www-form-urlencoded"
BOM = b"\xef\xbb\xbf"


def read(body: bytes, content_type: str | None = None, *, adapter: str = "hmac", **settings: Any) -> ParsedEvent:
    headers = {"x-github-event": "push"} | ({} if content_type is None else {"content-type": content_type})
    (event,) = PARSERS[adapter](Webhook(headers, {}, body, settings))
    return checked_event(event)


@pytest.mark.parametrize(
    ("body", "content_type", "data"),
    [
        (BOM + b'{"a":1}', "application/json", {"a": 1}),
        (b'{"a":1}', None, {"a": 1}),
        (b'{"a":1}', "application/vnd.acme+json", {"a": 1}),
        (b'{"a":"\\ud800"}', "application/json", {"a": "\ufffd"}),
        (b'{"a":"b\\u0000"}', "application/json", {"a": "b\ufffd"}),
        ('{"a":"é"}'.encode("utf-16"), "application/json", {"a": "é"}),
        ('{"a":"é"}'.encode("utf-16-le"), "application/json", {"a": "é"}),
        ('{"a":"é"}'.encode("utf-16"), "application/json; charset=UTF-16", {"a": "é"}),
        ('{"a":"é"}'.encode("latin-1"), 'application/json; charset="ISO-8859-1"', {"a": "é"}),
        ('{"a":"é"}'.encode("latin-1"), "application/json", {"a": "\ufffd"}),
        (BOM + b"a=1&b=&a=2", FORM, {"a": ["1", "2"], "b": ""}),
        (b"a=%E9", FORM, {"a": "\ufffd"}),
        (b"a=%E9&%E9=\xe9", f"{FORM}; charset=iso-8859-1", {"a": "é", "é": "é"}),
        (b"a=%00", FORM, {"a": "\ufffd"}),
        ("a=%C3%A9".encode("utf-16"), f"{FORM}; charset=utf-16", {"a": "é"}),
        ("é".encode("latin-1"), "text/plain; charset=iso-8859-1", "é"),
        (b"<a/>", "application/xml", "<a/>"),
        (b"<a/>", "application/soap+xml; charset=utf-8", "<a/>"),
        (b"", None, None),
        (b"", "application/json", None),
        (b"\0\xff", "application/octet-stream", {"content_type": "application/octet-stream", "size": 2, "body_base64": "AP8="}),
    ],
)
def test_a_body_is_read_as_its_sender_says(body: bytes, content_type: str | None, data: Any) -> None:
    assert read(body, content_type).data == data


def test_a_body_of_several_parts_is_handed_over_as_it_came() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
    event = read(body, "multipart/form-data; boundary=x")
    assert base64.b64decode(event.data["body_base64"]) == body
    assert event.headers["content-type"] == "multipart/form-data; boundary=x"


@pytest.mark.parametrize(("body", "type_"), [(BOM + b'{"ref":"a"}', "application/json"), (b'{"ref":"a"}', None)])
def test_github_reads_json_with_a_mark_and_without_a_content_type(body: bytes, type_: str | None) -> None:
    assert read(body, type_, adapter="github") == ParsedEvent("push", {"ref": "a"}, {"x-github-event": "push"})


def test_a_missing_type_names_the_content_type_that_the_body_was_read_by() -> None:
    with pytest.raises(Invalid, match=rf"kind in its body is missing; its body was read as {FORM}"):
        read(b'{"kind":"paid"}', FORM, event_path="kind")


@pytest.mark.parametrize("charset", ["rot13", "idna", "zlib", "unicode_escape", "nonsense"])
def test_a_charset_that_documents_are_not_in_is_refused(charset: str) -> None:
    with pytest.raises(Invalid, match="charset"):
        read(b"x", f'text/plain; charset="{charset}"')


def test_an_event_type_that_is_too_long_is_refused_and_a_nul_in_one_is_replaced() -> None:
    with pytest.raises(Invalid, match="from 1 to 200"):
        read(msgspec.json.encode({"type": "x" * 201}), adapter="standard-webhooks")
    assert read(b'{"type":"a\\u0000b"}', adapter="standard-webhooks").type == "a\ufffdb"


def test_a_form_of_nothing_but_fields_is_refused() -> None:
    with pytest.raises(Invalid, match="fields"):
        read(b"a&" * 20_000, FORM)


CONTENT_TYPES = st.sampled_from(
    [None, "application/json", "application/json; charset=utf-16", FORM, f"{FORM}; charset=shift_jis", "text/xml"]
)


@given(st.binary(), CONTENT_TYPES | st.text(), st.sampled_from(sorted(PARSERS)), st.sampled_from([{}, {"event_path": "a.b"}]))
def test_no_body_makes_an_adapter_raise_anything_but_invalid(
    body: bytes, content_type: str | None, adapter: str, settings: dict[str, str]
) -> None:
    try:
        event = read(body, content_type, adapter=adapter, **settings)
    except Invalid:
        return
    # An escape of NUL, and not a backslash with such letters behind it.
    assert not re.search(rb"(?<!\\)(?:\\\\)*\\u0000", msgspec.json.encode(event))


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, "the body cannot be read as application/json, since none was named: object keys must be strings at line 1, column "),
        (
            {"content-type": "application/json"},
            "the body cannot be read as application/json: object keys must be strings at line 1, column ",
        ),
    ],
)
def test_a_body_that_is_no_json_is_told_once(headers: dict[str, str], told: str) -> None:
    with pytest.raises(Invalid) as refused:
        Webhook(headers, {}, b"{a", {}).json()
    assert refused.value.detail.startswith(told)
    assert refused.value.detail.lower().count("json") == 1


def test_a_verification_that_is_remembered_is_nobodys_to_change() -> None:
    first = verification_of("hmac", {"header": "X-Other"})
    assert first is not None
    assert first != verification_of("hmac", {})
    kept = dict(first)
    first.clear()
    assert verification_of("hmac", {"header": "X-Other"}) == kept
