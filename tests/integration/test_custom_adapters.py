"""Adapters of a workspace: in service once their file is committed, in the sandbox, and a trouble to nobody else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millrace.cli.signing import Sending, request_of
from services.events.deferring import resuming
from shared.envelope import open_message
from shared.messages import DeadLettered, EventAccepted
from tests.integration.test_gateway import Client, Got, gateway, signed, stream
from tests.support.inside import eventually, running
from tests.support.river import river, sandbox_settings
from tests.support.servers import Place

KEY = "a-secret-of-acme"
BODY = b'{"state": "paid", "items": [{"id": 1}, {"id": 2}]}'

DECLARED = """
from millrace import Event, Place, Request, Scheme, adapter


@adapter(scheme=Scheme(signature=Place(header="x-acme-signature", prefix="sha256="), delivery=Place(header="x-acme-id")))
class Acme:
    '''Orders of Acme.'''

    def parse(self, request: Request) -> list[Event]:
        body = request.json()
        return [Event(f"order.{body['state']}", item) for item in body["items"]]
"""
CODED = """
import hashlib
import hmac

from millrace import Event, Place, Request, Response, Unverified, adapter


@adapter(name="acme", settings={"greeting": {"type": "string"}}, credentials=[Place(query="pin")])
class Coded:
    def handshake(self, request: Request) -> Response | None:
        if "hello" in request.query:
            return Response(f"{request.settings.get('greeting', 'hi')} {request.query['hello']}")
        return None

    def verify(self, request: Request) -> bool:
        given = request.headers.get("x-acme-signature")
        if given is None:
            raise Unverified("there is no signature of Acme's")
        key = request.secrets["secret"].encode()
        return hmac.compare_digest(given, "sha256=" + hmac.new(key, request.body, hashlib.sha256).hexdigest())

    def delivery(self, request: Request) -> str | None:
        return request.headers.get("x-acme-id")

    def parse(self, request: Request) -> Event:
        if "x-break" in request.headers:
            raise ValueError(f"cannot read it with {request.secrets['secret']}")
        return Event("coded.order", request.json() | {"query": request.query, "pass": request.headers.get("x-pass")})
"""


class House:
    """A whole Millrace, its API, and a sender."""

    def __init__(self, client: Client, place: Place) -> None:
        self.client = client
        self.place = place

    async def commit(self, text: str, path: str = "adapters/acme.py", org: str = "default") -> dict[str, Any]:
        """Put an adapter's file; return the answer."""
        got = await self.client("PUT", f"/api/v1/workspace/files/{path}?org={org}", data=text.encode())
        assert got.status in {200, 201}, got.body
        found: dict[str, Any] = got.json
        return found

    async def source(self, name: str = "shop", org: str = "default", **settings: Any) -> str:
        """Put a source of the adapter; return the path of its address."""
        fields = {"adapter": "acme", "settings": {"secret": KEY} | settings}
        got = await self.client("PUT", f"/api/v1/sources/{name}?org={org}", json=fields)
        assert got.status == 200, got.body
        return str(got.json["url"]).removeprefix(self.client.url)

    async def send(self, path: str, body: bytes = BODY, key: str = KEY, **headers: str) -> Got:
        """Send a webhook as Acme would."""
        signature = "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
        given = {"X-Acme-Signature": signature, "Content-Type": "application/json"} | headers
        return await self.client("POST", path, data=body, headers=given)

    async def taken(self, path: str) -> Got:
        """Send webhooks until the source is known and one is taken."""

        async def accepted() -> Got | None:
            got = await self.send(path)
            return got if got.status == 202 else None

        found = await eventually(accepted)
        assert isinstance(found, Got)
        return found

    async def events(self, count: int) -> list[EventAccepted]:
        """Return the accepted events, once there are so many."""

        async def there() -> list[EventAccepted] | None:
            found = [one for one in await stream(self.place, "EVENTS") if one.type == "event.accepted"]
            return [open_message(one, EventAccepted) for one in found] if len(found) >= count else None

        found = await eventually(there)
        assert isinstance(found, list)
        return found


@asynccontextmanager
async def house(place: Place, data: Path, **environment: str) -> AsyncIterator[House]:
    async with river(place, data), gateway(place, **environment) as client:
        yield House(client, place)


@pytest.fixture
async def home(place: Place, data: Path) -> AsyncIterator[House]:
    async with house(place, data) as made:
        yield made


async def test_a_declared_scheme_is_verified_at_the_gateway_and_the_code_makes_the_events(home: House) -> None:
    committed = await home.commit(DECLARED)
    assert (committed["problems"], committed["adapters"], committed["workflows"]) == ([], ["acme"], [])
    path = await home.source()
    got = await home.taken(path)
    events = await home.events(2)
    assert [(one.type, one.data, one.delivery) for one in events] == [
        ("order.paid", {"id": 1}, got.json["id"]),
        ("order.paid", {"id": 2}, got.json["id"]),
    ]
    assert (await home.send(path, key="another")).status == 401
    first, again = [await home.send(path, **{"X-Acme-Id": "17"}) for _ in range(2)]
    assert (first.status, again.status, first.json) == (202, 200, again.json)
    # The source says how it is verified, so that anybody who has the secret can sign.
    source = (await home.client("GET", "/api/v1/sources/shop")).json
    made = request_of(source, Sending(source["url"], BODY, "18", int(time.time())), KEY)
    signed_by_command = await home.client("POST", path, data=BODY, headers=made.headers)
    assert (made.headers["x-acme-id"], signed_by_command.status) == ("18", 202)


async def patient(ask: Callable[[], Awaitable[Got]]) -> Got:
    """Return an answer, as a sender gets it that comes again while a busy machine asks for that."""

    async def answered() -> Got | None:
        got = await ask()
        return None if got.status == 503 else got

    found = await eventually(answered, every=0.5)
    assert isinstance(found, Got)
    return found


async def test_code_verifies_greets_and_parses_in_the_sandbox(home: House) -> None:
    assert (await home.commit(CODED))["problems"] == []
    path = await home.source(greeting="welcome")
    await home.taken(path)
    (event,) = await home.events(1)
    assert (event.type, event.data["state"]) == ("coded.order", "paid")
    assert (await patient(lambda: home.send(path, key="another"))).status == 401
    unsigned = await patient(lambda: home.client("POST", path, data=BODY, headers={}))
    assert (unsigned.status, "there is no signature of Acme's" in unsigned.json["detail"]) == (401, True)
    greeted = await patient(lambda: home.client("GET", f"{path}?hello=acme", headers={}))
    assert (greeted.status, greeted.body) == (200, b"welcome acme")
    # A credential that the code compares is neither kept nor parsed, wherever its sender puts it.
    sent = await patient(lambda: home.send(f"{path}?code={KEY}&pin=1234&n=1", **{"X-Pass": f"pass {KEY}"}))
    assert sent.status == 202
    event = (await home.events(2))[-1]
    hidden = "[redacted]"
    assert (event.data["query"], event.data["pass"]) == ({"code": hidden, "pin": hidden, "n": "1"}, hidden)
    kept = [str(one) for name in ("WEBHOOKS", "EVENTS") for one in await stream(home.place, name)]
    assert not [one for one in kept if KEY in one or "1234" in one]
    first, again = [await patient(lambda: home.send(path, **{"X-Acme-Id": "17"})) for _ in range(2)]
    assert (first.status, again.status, first.json) == (202, 200, again.json)


async def test_an_adapter_is_listed_for_its_organization_only(home: House) -> None:
    await home.commit(DECLARED)

    async def listed(org: str) -> dict[str, Any] | None:
        items = (await home.client("GET", f"/api/v1/adapters?org={org}")).json["items"]
        return next((one for one in items if one["name"] == "acme"), None)

    own = await eventually(lambda: listed("default"))
    assert isinstance(own, dict)
    assert (own["description"], own["org"], own["secrets"]) == ("Orders of Acme.", "default", ["secret", "previous_secret"])
    assert own["settings_schema"]["required"] == ["secret"]
    assert await listed("other") is None
    refused = await home.client("PUT", "/api/v1/sources/shop?org=other", json={"adapter": "acme", "settings": {"secret": KEY}})
    assert (refused.status, "there is no adapter 'acme'" in refused.json["detail"]) == (422, True)


async def test_a_broken_version_is_refused_with_its_line_and_the_last_good_one_serves(home: House) -> None:
    await home.commit(DECLARED)
    path = await home.source()
    await home.taken(path)
    for text, line, words in (
        (DECLARED + "\n\ndef broken(:\n", 14, "SyntaxError"),
        (DECLARED.replace("prefix=", "prefxi="), 5, "prefxi"),
        (DECLARED.replace('prefix="sha256="', 'form="x"'), 5, "a place is one of header, query, form and json"),
        (DECLARED.replace("class Acme", "class Github"), 5, "is the name of an adapter of Millrace"),
        (DECLARED.replace("def parse", "def read"), 5, "has no method parse"),
        (DECLARED.replace("@adapter(", '@adapter(secrets=["token"], '), 5, "none of which is a secret or a setting"),
    ):
        (problem,) = (await home.commit(text))["problems"]
        assert (problem["path"], problem["line"], words in problem["message"]) == ("adapters/acme.py", line, True), problem
        assert (await home.send(path)).status == 202
    await home.commit(DECLARED.replace("order.", "sale."))

    async def is_new() -> bool:
        await home.send(path)
        return (await home.events(1))[-1].type == "sale.paid"

    await eventually(is_new)


async def test_a_failing_parse_is_a_dead_letter_with_its_place_and_without_the_secret(home: House) -> None:
    await home.commit(CODED)
    path = await home.source()
    await home.taken(path)
    assert (await home.send(path, **{"X-Break": "1"})).status == 202

    async def buried() -> list[Any]:
        return await stream(home.place, "DEAD")

    (letter,) = await eventually(buried)  # type: ignore[misc]
    error = open_message(letter, DeadLettered).error
    assert "adapters/acme.py line 27" in error
    assert "cannot read it with ***" in error
    assert KEY not in str(letter)


async def test_an_event_holds_no_secret_that_its_adapter_was_given(home: House) -> None:
    leaky = CODED.replace(
        'Event("coded.order", request.json() |', 'Event("coded.order", request.json() | {"of": dict(request.secrets)} |'
    )
    await home.commit(leaky)
    path = await home.source()
    await home.taken(path)
    event = (await home.events(1))[-1]
    assert event.data["of"] == {"secret": "***"}


LOUD = CODED.replace(
    '        if "x-break"', "        for _ in range(700):\n            print('x' * 100_000)\n        if \"x-break\"", 1
)
LARGE = CODED.replace('        if "x-break"', "        return Event('large', 'a' * 1_100_000)\n        if 'x-break'", 1)
MANY = CODED.replace(
    '        if "x-break"', "        return [Event('e', {'n': n}) for n in range(50_000)]\n        if 'x-break'", 1
)


async def test_what_code_prints_goes_nowhere_and_what_it_answers_is_bounded(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the code may be lost for time first, and is then tried again.
    monkeypatch.setattr(resuming, "LOST_DELAYS", (0.5,) * 100)
    await home.commit(CODED)
    path = await home.source()
    await home.taken(path)
    await home.events(1)

    async def told(type_: str, status: str) -> str | None:
        listed = (await home.client("GET", f"/api/v1/deliveries?status={status}")).json["items"]
        return next((one["reason"] for one in listed if type_ in one["reason"]), None)

    for text, word in ((LARGE, "at most 1048576 bytes"), (MANY, "at most 1048576 bytes")):
        await home.commit(text)
        before = len(await stream(home.place, "DEAD"))
        assert (await home.send(path)).status == 202

        async def buried(before: int = before) -> list[Any] | None:
            return (await stream(home.place, "DEAD"))[before:] or None

        (letter,) = await eventually(buried, within=120.0)  # type: ignore[misc]
        assert word in open_message(letter, DeadLettered).error
    await home.commit(LOUD)
    assert (await home.send(path)).status == 202
    assert "printed more than" in str(await eventually(lambda: told("OutputLimit", "deferred")))
    assert await stream(home.place, "LOGS") == []
    # Repaired, it reads what waits.
    await home.commit(CODED)
    await home.events(2)


HANGING = CODED.replace("        given = request", "        while True:\n            pass\n        given = request")
CRASHING = CODED.replace("        given = request", "        import os\n        os._exit(1)\n        given = request")


@pytest.mark.parametrize("text", [HANGING, CRASHING], ids=["hangs", "crashes"])
async def test_code_that_hangs_or_crashes_answers_503_and_hurts_no_other_source(home: House, text: str) -> None:
    await home.commit(text)
    await home.commit(DECLARED.replace("class Acme", "class Other"), path="adapters/other.py")
    path = await home.source()
    fields = {"adapter": "other", "settings": {"secret": KEY}}
    other = str((await home.client("PUT", "/api/v1/sources/other", json=fields)).json["url"]).removeprefix(home.client.url)
    await home.taken(other)
    flood = [asyncio.create_task(home.send(path)) for _ in range(40)]
    beside = 0
    while not all(one.done() for one in flood):
        assert (await patient(lambda: home.send(other))).status == 202
        beside += 1
        await asyncio.sleep(0.05)
    answers = [await one for one in flood]
    assert {one.status for one in answers} == {503}
    assert all("Retry-After" in one.headers for one in answers)
    # They waited for none of it.
    assert text == CRASHING or beside > 0
    # Repaired, it serves at once: the rest was the broken version's.
    await home.commit(CODED)
    await home.taken(path)


async def test_a_source_whose_adapter_is_gone_is_unavailable_and_comes_back_with_it(home: House) -> None:
    await home.commit(DECLARED)
    path = await home.source()
    await home.taken(path)
    await home.client("DELETE", "/api/v1/workspace/files/adapters/acme.py")

    async def is_gone() -> bool:
        return (await home.send(path)).status == 503

    await eventually(is_gone)
    await home.commit(DECLARED)
    await home.taken(path)


async def test_built_in_sources_are_as_before_beside_them(home: House) -> None:
    await home.commit(DECLARED)
    fields = {"adapter": "github", "settings": {"secret": "It's a Secret to Everybody"}}
    url = (await home.client("PUT", "/api/v1/sources/repo", json=fields)).json["url"]
    body = b'{"ref": "x"}'

    async def accepted() -> bool:
        return (await home.client("POST", str(url).removeprefix(home.client.url), data=body, headers=signed(body))).status == 202

    await eventually(accepted)


PARSES_FOR_EVER = DECLARED.replace("body = request.json()", "body = request.json()\n        while True:\n            pass")


async def test_webhooks_whose_parse_hangs_hold_up_no_other_source_and_are_read_by_the_next_version(home: House) -> None:
    await home.commit(PARSES_FOR_EVER)
    await home.commit(DECLARED.replace("class Acme", "class Other").replace("order.", "other."), path="adapters/other.py")
    path = await home.source()
    fields = {"adapter": "other", "settings": {"secret": KEY}}
    other = str((await home.client("PUT", "/api/v1/sources/other", json=fields)).json["url"]).removeprefix(home.client.url)
    await home.taken(path)
    assert {(await home.send(path)).status for _ in range(20)} == {202}
    await home.taken(other)

    async def read(kind: str, count: int) -> bool:
        found = [open_message(one, EventAccepted) for one in await stream(home.place, "EVENTS") if one.type == "event.accepted"]
        return sum(one.type == kind for one in found) >= count

    # All that hangs, one after the other, would take longer.
    await eventually(lambda: read("other.paid", 2))
    assert not await read("order.paid", 1)
    await home.commit(DECLARED)
    await eventually(lambda: read("order.paid", 2 * 21))


async def test_a_recorded_request_says_what_the_code_says(home: House) -> None:
    await home.commit(CODED)
    path = await home.source()
    await home.taken(path)

    async def trial(headers: dict[str, str]) -> dict[str, Any]:
        recorded = {
            "headers": [{"name": name, "value": value} for name, value in headers.items()],
            "body_base64": base64.b64encode(BODY).decode(),
        }
        got = await home.client("POST", "/api/v1/sources/shop/test", json=recorded)
        assert KEY.encode() not in got.body
        found: dict[str, Any] = got.json
        return found

    signature = "sha256=" + hmac.new(KEY.encode(), BODY, hashlib.sha256).hexdigest()
    genuine = await trial({"X-Acme-Signature": signature})
    assert (genuine["status"], [one["type"] for one in genuine["events"]]) == (202, ["coded.order"])
    unsigned = await trial({})
    assert (unsigned["status"], unsigned["steps"][-2]["detail"]) == (401, "there is no signature of Acme's")
    broken = CODED.replace("        given = request", "        raise KeyError(request.secrets['secret'])\n        given = request")
    await home.commit(broken)

    async def is_broken() -> bool:
        return bool((await trial({}))["status"] == 503)

    await eventually(is_broken)
    (step,) = [one for one in (await trial({}))["steps"] if one["step"] == "signature"]
    assert "the adapter's code failed: KeyError: '***' (adapters/acme.py line 16)" in step["detail"]


async def test_while_the_executor_is_away_a_scheme_is_verified_and_its_webhooks_are_read_later(place: Place, data: Path) -> None:
    async with running(place, "events"), gateway(place) as client:
        home = House(client, place)
        async with running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()):
            await home.commit(DECLARED)
            await home.commit(CODED.replace("acme", "coded", 1), path="adapters/coded.py")
            path = await home.source()
            fields = {"adapter": "coded", "settings": {"secret": KEY}}
            coded = str((await client("PUT", "/api/v1/sources/coded", json=fields)).json["url"]).removeprefix(client.url)
            await home.taken(path)
            await home.taken(coded)
            before = len(await home.events(3))
        answers = [await home.send(path) for _ in range(3)]
        assert {one.status for one in answers} == {202}
        away = await home.send(coded)
        assert (away.status, "Retry-After" in away.headers) == (503, True)
        async with running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()):
            await home.events(before + 6)
            await home.taken(coded)


async def test_what_is_asked_of_the_platform_is_refused_to_an_adapter(home: House) -> None:
    asking = DECLARED.replace("from millrace import", "from millrace import Refused, secrets, files, connections,")
    text = asking.replace(
        "        body = request.json()\n",
        """        body, refused = request.json(), []
        for ask in (lambda: secrets.get("x"), lambda: connections.get("x"), lambda: files.read("data/x")):
            try:
                ask()
            except Refused as error:
                refused.append(error.kind)
        return [Event(" ".join(refused))]
""",
    )
    assert (await home.commit(text))["problems"] == []
    path = await home.source()
    await home.taken(path)
    (event,) = await home.events(1)
    assert event.type == "PermissionDenied PermissionDenied PermissionDenied"


@pytest.mark.parametrize(
    "response",
    [
        'Response("<script>alert(1)</script>", content_type="text/html")',
        'Response("", headers={"Set-Cookie": "key=stolen"})',
        'Response("", headers={"Location": "https://evil.example"})',
        'Response("", status=302)',
        'Response("", headers={"X-A": "a\\r\\nSet-Cookie: b"})',
    ],
)
async def test_an_answer_of_code_cannot_act_as_the_console_s(home: House, response: str) -> None:
    await home.commit(CODED.replace("return Response(f", f"return {response}\n            return Response(f"))
    path = await home.source()
    await home.taken(path)
    got = await home.client("GET", f"{path}?hello=acme", headers={})
    assert (got.status, "Set-Cookie" in got.headers, "Location" in got.headers) == (503, False, False)
