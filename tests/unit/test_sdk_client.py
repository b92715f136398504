"""A client of a connection's API as an author's test meets it: what is sent, what is answered, and what goes nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from millrace import (
    Client,
    Connection,
    Integration,
    NotInRun,
    Refused,
    Reply,
    RequestFailed,
    StatusError,
    connections,
    integrations,
    sleep,
    step,
    testing,
    workflow,
)
from millrace._declare import REGISTRY
from millrace._outgoing import Options, outgoing, redirected, with_credentials

TOKEN = "tok/0123456789"
BASE = "https://halo.example/api"
HALO = Connection("halo", TOKEN, base_url=BASE, headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = len(REGISTRY)
    yield
    del REGISTRY[before:]


def played(body: Callable[[Client], Any], answers: Any = None, **more: Any) -> testing.Outcome:
    @workflow
    def main() -> Any:
        return body(connections.client("halo"))

    return testing.run(main, **{"connections": {"halo": HALO}, "answers": {"halo": answers or {}}} | more)


def test_a_workflow_gets_the_answers_that_its_test_declares_and_the_test_what_was_sent() -> None:
    @workflow
    async def main() -> Any:
        http = connections.client("halo")
        opened = (await http.aget("/tickets", params={"open": True, "tag": ["a", "b"], "page": None})).json()
        made = await http.apost("tickets", json={"title": "é"}, headers={"X-Trace": "1"})
        gone = await http.adelete("/tickets/7")
        return [opened, made.status, made.json()["id"], gone.status, gone.ok, gone.text]

    answers = {
        "GET /tickets": [{"id": 1}],
        "POST /tickets": lambda sent: Reply(201, b'{"id": %d}' % len(sent.json()["title"])),
        "DELETE /tickets/7": None,
    }
    outcome = testing.run(main, connections={"halo": TOKEN}, answers={"halo": answers})
    assert outcome.value() == [[{"id": 1}], 201, 1, 204, True, ""]
    assert [(one.method, one.path, one.headers) for one in outcome.sent] == [
        ("GET", "/tickets?open=true&tag=a&tag=b", {}),
        ("POST", "/tickets", {"X-Trace": "1", "Content-Type": "application/json"}),
        ("DELETE", "/tickets/7", {}),
    ]


def test_a_request_without_an_answer_is_named_with_those_that_have_one() -> None:
    outcome = played(lambda http: http.get("/users?page=2"), {"GET /tickets": [], "GET /users?page=1": []})
    assert isinstance(outcome.exception, LookupError)
    assert str(outcome.exception) == ("answers['halo'] has no answer to GET /users?page=2; it has GET /tickets, GET /users?page=1")
    assert [one.path for one in outcome.sent] == ["/users?page=2"]
    outcome = played(lambda http: [http.get("/a").status, http.get("/a").status], {"GET /a": iter([{}])})
    assert str(outcome.exception) == "answers['halo'] has no more answers to GET /a"
    outcome = played(lambda _http: connections.client("other").get("/a").status, connections={"other": HALO})
    assert str(outcome.exception) == "answers['other'] is not given, and GET /a was sent"


def test_wrong_declarations_are_named() -> None:
    with pytest.raises(TypeError, match=r"answers\['halo'\] is a dict by 'METHOD /path', or a function, not list"):
        played(lambda _http: None, [1])
    for wrong in ("/tickets", "GET tickets", "FETCH /tickets", 5):
        with pytest.raises(ValueError, match="which is no 'METHOD /path'"):
            played(lambda _http: None, {wrong: 1})


def test_a_client_waits_as_it_is_told_to_and_says_how_long() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    tries = iter([Reply(429, headers={"retry-after": "3"}), Reply(503, headers={"retry-after": at}), {"ok": True}])
    outcome = played(lambda http: http.get("/a").json(), {"GET /a": tries})
    assert outcome.value() == {"ok": True}
    assert outcome.slept[0] == 3
    assert 25 < outcome.slept[1] <= 30
    assert [(line.event, line.fields["status"], line.fields["seconds"] > 2) for line in outcome.lines] == [
        ("connection.waits", 429, True),
        ("connection.waits", 503, True),
    ]


def test_a_wait_beyond_the_patience_is_the_authors() -> None:
    refused = Reply(429, headers={"retry-after": "3600"})

    @workflow
    async def main() -> Any:
        http = connections.client("halo")
        while not (reply := await http.aget("/a")).ok:
            await sleep(reply.retry_after or 60)
        return reply.json()

    outcome = testing.run(main, connections={"halo": HALO}, answers={"halo": {"GET /a": iter([refused, "there"])}})
    assert outcome.value() == "there"
    assert outcome.slept == [3600]
    # All waits of a call together, not each.
    twenty = Reply(503, headers={"retry-after": "25"})
    outcome = played(lambda http: http.get("/a").status, lambda _sent: twenty)
    assert (outcome.value(), outcome.slept) == (503, [25, 25])
    assert played(lambda http: http.get("/a").status, lambda _sent: Reply(503)).slept == []
    bare = played(lambda http: http.get("/a").status, lambda _sent: Reply(429))
    assert bare.value() == 429
    assert [round(one) for one in bare.slept[:2]] in ([1, 2], [1, 3])
    assert (len(bare.slept), len(bare.sent)) == (5, 6)
    never = played(lambda _http: connections.client("halo", patience=0).get("/a").status, lambda _sent: Reply(429))
    assert (never.value(), never.slept) == (429, [])
    hot = played(lambda http: http.get("/a").status, lambda _sent: Reply(429, headers={"retry-after": "0"}))
    assert len(hot.sent) == 6


@pytest.mark.parametrize("given", ["", "soon", "-1", "9" * 400, "1e3", "Wed, 99 Foo 2026"])
def test_what_is_no_time_to_wait_is_none(given: str) -> None:
    assert Reply(429, headers={"retry-after": given}).retry_after is None


def test_a_token_that_is_not_replaced_is_not_tried_twice() -> None:
    outcome = played(lambda http: http.get("/a").status, lambda _sent: Reply(401))
    assert (outcome.value(), len(outcome.sent)) == (401, 1)


def test_an_error_says_what_was_answered_and_no_token() -> None:
    said = f"no access for {TOKEN}\nand   more" + "x" * 900

    def body(http: Client) -> Any:
        try:
            http.get("/a?b=1").raise_for_status()
        except StatusError as error:
            return [error.status, error.reply.text == said, str(error)]

    found = played(body, {"GET /a": Reply(403, said.encode(), reason="Forbidden")}).value()
    assert found[:2] == [403, True]
    assert found[2].startswith(f"GET {BASE}/a?b=1 was answered 403 Forbidden: no access for *** and more")
    assert len(found[2]) < 300
    failing = {"GET /a": RequestFailed("GET it: no whole answer came in 1 s")}
    with pytest.raises(ConnectionError, match="no whole answer"):
        played(lambda http: http.get("/a"), failing).value()


def test_no_reply_and_no_credential_is_a_result_of_a_step() -> None:
    @workflow
    async def main() -> None:
        http = connections.client("halo")
        await step("read", http.aget, "/a")

    outcome = testing.run(main, connections={"halo": HALO}, answers={"halo": {"GET /a": 1}})
    assert outcome.error is not None
    assert "the result of step 'read' is not JSON at $: Reply is not JSON" in outcome.error.message
    assert "hint: give what you need of it: reply.raise_for_status().json()" in outcome.error.traceback
    assert outcome.steps == {}


def test_a_step_keeps_what_was_read_and_a_later_attempt_sends_nothing() -> None:
    @workflow(retries=1)
    async def main(fails: bool) -> Any:
        http = connections.client("halo")

        async def read() -> Any:
            return (await http.aget("/a")).raise_for_status().json()

        found = await step("read", read)
        if fails:
            raise RuntimeError
        return found

    given: Any = {"connections": {"halo": HALO}, "answers": {"halo": {"GET /a": {"token": TOKEN, "n": 1}}}}
    first = testing.run(main, {"fails": True}, **given)
    assert first.steps == {"read": {"token": "***", "n": 1}}
    second = testing.run(main, {"fails": False}, steps=first.steps, **given)
    assert second.value() == {"token": "***", "n": 1}
    assert second.sent == []


def test_many_at_once_ask_for_the_credentials_once_and_a_client_serves_run_after_run() -> None:
    http = connections.client("halo")

    @workflow
    async def main() -> int:
        replies = await asyncio.gather(*(http.aget("/a") for _ in range(20)))
        return sum(one.json() for one in replies)

    for _ in range(2):
        assert testing.run(main, connections={"halo": HALO}, answers={"halo": {"GET /a": 1}}).value() == 20
    refused = testing.run(main, answers={"halo": {"GET /a": 1}})
    assert isinstance(refused.exception, Refused), "the credentials of another run are of no use to this one"
    with pytest.raises(NotInRun, match="connections are known only inside a run"):
        http.get("/a")


def test_an_integration_has_the_client_of_its_connection() -> None:
    @workflow
    def main() -> Any:
        return integrations.get("psa").client(timeout=5).get("/a").json()

    psa = Integration("psa", {}, None, "halo")
    outcome = testing.run(main, integrations={"psa": psa}, connections={"halo": HALO}, answers={"halo": {"GET /a": 1}})
    assert outcome.value() == 1
    lone = testing.run(main, integrations={"psa": Integration("psa", {}, None, None)})
    assert isinstance(lone.exception, Refused)


def test_nothing_shows_credentials() -> None:
    assert TOKEN not in repr(HALO) + repr(connections.client("halo")) + repr(Reply(secrets=(TOKEN,)))


def asked(url: str, connection: Connection = HALO, method: str = "GET", **options: Any) -> Any:
    return outgoing("halo", method, url, Options(**options), connection, 30.0)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/tickets", f"{BASE}/tickets"),
        ("tickets", f"{BASE}/tickets"),
        ("", BASE),
        ("?a=1", f"{BASE}?a=1"),
        ("//evil.example/x", f"{BASE}/evil.example/x"),
        ("@evil.example", f"{BASE}/@evil.example"),
        ("tickets:search?q=a b&c=é#part", f"{BASE}/tickets:search?q=a%20b&c=%C3%A9"),
        ("/a\r\nX: y", f"{BASE}/a%0D%0AX:%20y"),
        ("/a%2Fb", f"{BASE}/a%2Fb"),
        (f"{BASE}/tickets?page=2", f"{BASE}/tickets?page=2"),
        ("HTTPS://HALO.example:443/other", "https://HALO.example:443/other"),
    ],
)
def test_a_path_is_below_the_base(given: str, sent: str) -> None:
    assert asked(given).url == sent


@pytest.mark.parametrize(
    "given",
    [
        "http://halo.example/api/tickets",
        "https://halo.example:8443/api",
        "https://halo.example.evil.example/",
        "https://evil.example/",
        "https://halo.example@evil.example/",
        "https://user@halo.example/",
        "https://[::1/",
        "https://halo.example:99999/",
        "https:///x",
        "ftp://halo.example/",
        "/../admin",
        "a/%2e%2E/b",
        "a\\..\\b",
        "/a/.",
    ],
)
def test_credentials_go_nowhere_else(given: str) -> None:
    with pytest.raises(ValueError, match=r"the address of a request|are for https://halo\.example:443 only|in no segment"):
        asked(given)


def test_a_base_may_have_a_query_and_a_credential_may_stand_in_it() -> None:
    keyed = Connection("halo", TOKEN, base_url=f"{BASE}/?v=2", query={"api_key": TOKEN})
    made = asked("/tickets?api_key=mine&a=1", keyed, params={"v": 3})
    assert made.url == f"{BASE}/tickets?api_key=mine&a=1&v=3"
    assert with_credentials(made, keyed) == (f"{BASE}/tickets?a=1&v=3&api_key=tok%2F0123456789", {})
    with pytest.raises(ValueError, match="connection 'halo' has no base_url"):
        asked("/tickets", Connection("halo", TOKEN))
    assert asked("http://a.example/x", Connection("halo", TOKEN)).url == "http://a.example/x"


def test_the_credentials_come_before_the_authors_headers() -> None:
    made = asked("/a", headers={"authorization": "mine", "X-Own": "1"})
    assert with_credentials(made, HALO)[1] == {"X-Own": "1", "Authorization": f"Bearer {TOKEN}"}


def test_bodies_have_their_types() -> None:
    assert (asked("/a", json=None).body, asked("/a").body) == (b"null", None)
    assert asked("/a", data={"a": [1, 2], "b": "é"}).body == b"a=1&a=2&b=%C3%A9"
    kinds = [asked("/a", data=one).headers["Content-Type"] for one in (b"x", "x", {"a": "x"})]
    assert kinds == ["application/octet-stream", "text/plain; charset=utf-8", "application/x-www-form-urlencoded"]
    assert asked("/a", json=1, headers={"content-type": "application/vnd.api+json"}).headers == {
        "content-type": "application/vnd.api+json"
    }


@pytest.mark.parametrize(
    "options",
    [
        {"json": 1, "data": b"1"},
        {"json": {1, 2}},
        {"timeout": 0},
        {"headers": {"X-A": "b\r\nX-B: c"}},
        {"headers": {"X A": "b"}},
        {"headers": {"X-A": 5}},
        {"params": "a=1"},
        {"verify": False},
    ],
)
def test_a_request_that_cannot_be_sent_is_refused_before_anything_is(options: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        asked("/a", **options)


def test_redirects_lose_the_credentials_with_the_host_and_what_writes_follows_none() -> None:
    first = asked("/a", headers={"X-Own": "1"})
    near = redirected(first, "/api/b?c=1")
    assert near is not None
    assert with_credentials(near, HALO) == (
        "https://halo.example/api/b?c=1",
        {"X-Own": "1", "Authorization": f"Bearer {TOKEN}"},
    )
    far = redirected(first, "//files.example/b")
    assert far is not None
    assert with_credentials(far, HALO) == ("https://files.example/b", {})
    back = redirected(far, f"{BASE}/c")
    assert back is not None
    assert with_credentials(back, HALO)[1] == {}, "where another host sends it, nobody knows for what"
    for location in ("http://halo.example/api/b", "ftp://halo.example/", "https://user@halo.example/", "https://[/"):
        assert redirected(first, location) is None
    assert redirected(asked("/a", method="POST", json=1), "/b") is None
    hops = played(lambda http: http.get("/a").status, lambda _sent: Reply(302, headers={"location": "/api/a"}))
    assert (hops.value(), len(hops.sent)) == (302, 6)
    answers = {"GET /a": Reply(307, headers={"location": "https://files.example/x"}), "GET https://files.example/x": "file"}
    assert played(lambda http: http.get("/a").json(), answers).value() == "file"
