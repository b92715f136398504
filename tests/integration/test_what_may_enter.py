"""Every route of the API and every webhook, given what may not enter, with all services behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from yarl import URL

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import path_of
from tests.integration.test_gateway import Client, Got, signed
from tests.support.inside import eventually, running
from tests.support.servers import Place

TEXTS = ["\0", "a\0b", "x" * 3000, "\u2028", "\ufeff", "%", "..", "'\"", "9" * 30, "-1"]
TIMES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-13-01T00:00:00Z", "2026-01-01", "now-99999999999d", "\0"]
PARAMETERS = {
    "cursor": [*TEXTS, f"{TIMES[0]}|a", f"{TIMES[1]}|a", "2026-01-01T00:00:00Z|\0"],
    "limit": ["0", "-1", "1e9", "9" * 5000, "\0", "\u0661"],
    "since": TIMES,
    "until": TIMES,
    "from": TIMES,
    "to": TIMES,
    "after": ["9" * 19, "-1", "\0"],
    "wait": ["nan", "inf", "-1", "1e400", "\0"],
}
DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES: list[bytes] = [
    b'{"name":"a\\u0000b"}',
    b'{"name":"\\ud800"}',
    b'{"name":"%s"}' % (b"x" * 100_000),
    b"{}",
    b"",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"a":' * 980 + b"1" + b"}" * 980,
    DEEP,
    b'{"input":%s}' % DEEP,
    b'{"input":{"a":1e400}}',
    b'{"input":{"a":%s}}' % (b"9" * 5000),
    b'{"run_at":"0001-01-01T00:00:00+14:00"}',
    b'{"run_at":"9999-12-31T23:59:59-14:00"}',
    b'{"run_at":"2026-01-01T00:00:00"}',
    b'{"timeout":1e300}',
    b'{"deadline":1e300}',
    b'{"deadline":-1}',
    b'{"concurrency_key":"a\\u0000b"}',
    b'{"concurrency_key":""}',
    b'{"priority":"urgent"}',
    b'{"value":"\\u0000"}',
    b'{"value":{"\\u0000":1}}',
    b'{"token":"\\u0000"}',
    b'{"type":"\\u0000","data":"\\u0000"}',
    b'{"adapter":"hmac","settings":{"secret":"\\u0000","header":"\\u0000"}}',
    b'{"source":"a","event":"\\u0000","workflow":"a","filter":"\\u0000"}',
]
# A method, a path, a body, and the field that is missing, unknown or of another type.
INCOMPLETE: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "subscriptions", {}, "name"),
    ("POST", "subscriptions", {"source": "a", "event": "b", "workflow": "c"}, "name"),
    ("POST", "subscriptions", {"name": 5, "source": "a", "event": "b", "workflow": "c"}, "name"),
    ("POST", "subscriptions", {"name": "a", "event": "b", "workflow": "c"}, "source"),
    ("PUT", "subscriptions/a", {"source": "a", "event": "b"}, "workflow"),
    ("PUT", "subscriptions/a", {"source": "a", "event": 5, "workflow": "c"}, "event"),
    ("PUT", "subscriptions/a", {"source": "a", "event": "b", "workflow": "c", "colour": 1}, "colour"),
    ("POST", "sources", {"adapter": "github"}, "name"),
    ("PUT", "sources/a", {}, "adapter"),
    ("POST", "sources/orders/events", {}, "type"),
    ("POST", "integrations", {}, "name"),
    ("PUT", "integrations/a", {"config_schema": 5}, "config_schema"),
    ("POST", "connections", {"grant": "token", "token": "x"}, "name"),
    ("PUT", "connections/a", {}, "token"),
    ("POST", "variables", {"value": 1}, "name"),
    ("PUT", "variables/a", {}, "value"),
    ("POST", "secrets", {"value": "x"}, "name"),
    ("PUT", "secrets/a", {"value": 5}, "value"),
]


@pytest.fixture
async def whole(place: Place, data: Path) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(place, "executor", MILLRACE_DATA=str(data)))
        for service in ("events", "oauth", "logs"):
            await stack.enter_async_context(running(place, service))
        runtime = await stack.enter_async_context(running(place, "gateway", MILLRACE_PORT="0"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Client(session, runtime.health.document()["url"], place.credentials.admin_key)


async def test_no_parameter_and_no_body_makes_any_route_fail(whole: Client) -> None:
    for name in ("retired", "orders"):
        await whole("PUT", f"/api/v1/sources/{name}", json={"adapter": "topic"})
    for endpoint in ENDPOINTS:
        method, names = endpoint.method.replace("*", "POST"), endpoint.parts
        path = path_of(endpoint)
        plain = path.format(**dict.fromkeys(names, "orders"))
        tried = [path.format(**dict.fromkeys(names, "orders") | {name: quote(text, safe="")}) for name in names for text in TEXTS]
        declared = [] if endpoint.query is None else [field.encode_name for field in msgspec.structs.fields(endpoint.query)]
        for name in (*declared, "org", "unheard-of"):
            tried += [f"{plain}?{name}={quote(text, safe='')}" for text in PARAMETERS.get(name, TEXTS)]
        for url in tried:
            async with whole.session.request(method, URL(whole.url + url, encoded=True), data=b"{}", headers=whole.key) as response:
                # A tail has no end.
                body = b"" if response.content_type == "text/event-stream" else await response.read()
                got = Got(response.status, response.headers.copy(), body)
            assert got.status < 500, (method, url[:200], got.body[:300])
            # What a browser opens answers with a page.
            if "%00" in url and got.status != 404 and endpoint.page is None:
                # A path is refused before there is a route, whose errors it could name.
                named = "the path has '%00'" in got.json["detail"] or got.json["errors"]
                assert named, (method, url[:200], got.body[:300])
        if method in {"POST", "PUT", "PATCH"} and "files" not in path and endpoint.page is None:
            for body in BODIES:
                got = await whole(method, plain, data=body)
                assert got.status < 500, (method, plain, body[:100], got.body[:300])
                if b"\\u0000" in body and got.status >= 400 and got.status not in {403, 404, 405, 409}:
                    # JSON-RPC has one error, and a message for it.
                    named = got.json["error"]["message"] if path == "/mcp" else got.json["errors"][0]["path"]
                    assert named, (method, plain, body[:100], got.body[:300])


async def test_a_body_without_a_field_is_refused_by_the_fields_name(whole: Client) -> None:
    await whole("PUT", "/api/v1/sources/orders", json={"adapter": "topic"})
    for method, path, body, named in INCOMPLETE:
        got = await whole(method, f"/api/v1/{path}", json=body)
        assert (got.status, got.json["errors"][0]["path"]) == (422, named), (method, path, body, got.body)


async def test_headers_that_hold_no_utf8_make_no_route_fail(whole: Client) -> None:
    for name in (
        "X-Millrace-Org",
        "Idempotency-Key",
        "If-Match",
        "If-None-Match",
        "Last-Event-ID",
        "Authorization",
        "Content-Type",
    ):
        for value in ("\udcff\udcfe", "x" * 5000, '"\udcff"', "é", ""):
            for method, path in (
                ("PUT", "/api/v1/variables/a"),
                ("GET", "/api/v1/runs/a/stream"),
                ("POST", "/api/v1/workflows/a/runs"),
            ):
                got = await whole(method, path, data=b'{"value":1}', headers=whole.key | {name: value})
                assert got.status < 500, (name, value[:20], got.body[:300])


HMAC = {"header": "X-Hub-Signature-256", "prefix": "sha256="}
# Of a sender: its adapter and settings, what it sends, and what becomes of that.
SENT: list[tuple[str, dict[str, Any], bytes, str]] = [
    ("github", {}, b'{"action":"\\u0000"}', "filtered"),
    ("github", {}, b'{"action":"opened","a\\u0000b":["\\ud800"]}', "filtered"),
    ("hmac", HMAC, b"", "filtered"),
    ("hmac", HMAC, b"\0\xff", "dead"),
    ("hmac", HMAC | {"event_path": "type"}, b'{"type":"a\\u0000b"}', "filtered"),
    ("hmac", HMAC, b'{"a":%s}' % (b"9" * 100), "dead"),
    ("hmac", HMAC, DEEP, "dead"),
]


async def test_what_a_sender_sent_is_cleaned_or_dead_and_the_next_one_is_routed(whole: Client) -> None:
    secret = {"secret": "It's a Secret to Everybody"}
    for number, (adapter, settings, body, status) in enumerate(SENT):
        got = await whole("PUT", f"/api/v1/sources/repo-{number}", json={"adapter": adapter, "settings": settings | secret})
        assert got.status == 200, got.body
        for sent, expected in ((body, status), (b'{"type":"fine"}', "filtered")):
            admitted = await whole("POST", f"/hooks/{got.json['id']}", data=sent, headers=signed(sent))
            assert admitted.status == 202, admitted.body
            assert (await story(whole, admitted.json["id"]))["status"] == expected, body[:80]
    found = await eventually(lambda: events(whole))
    assert all("\0" not in json.dumps(item, ensure_ascii=False) for item in found)


async def story(client: Client, delivery: str) -> Any:
    async def settled() -> Any:
        got = await client("GET", f"/api/v1/deliveries/{delivery}")
        return got.json if got.status == 200 and got.json["status"] != "accepted" else None

    return await eventually(settled)


async def events(client: Client) -> Any:
    return (await client("GET", "/api/v1/logs?q=stream:EVENTS")).json["items"]
