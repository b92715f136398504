"""The gateway over a real broker: what is admitted is on disk, and what is refused is refused as senders expect."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import io
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

from services.events.adapters import verification_of
from shared import asyncapi
from shared.blobs import Blobs
from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import Envelope, new_id, open_envelope, open_message, rfc3339, utc_now
from shared.errors import NotFound
from shared.messages import (
    Audited,
    RunCancelRequested,
    RunError,
    RunFailed,
    RunRequested,
    RunSucceeded,
    RunUsage,
    WebhookReceived,
)
from shared.messages.declaration import hashed_key
from shared.pull import api_request
from shared.questions import ASKED
from shared.questions.files import FileView, GetFile, PutFile
from shared.questions.resources import FindResource, Found, to
from shared.questions.runs import GetRun, RunView
from shared.questions.workflows import FindWorkflow, WorkflowEntry
from shared.registry import RegistryWriter
from shared.resources.source import SourceEntry
from tests.support.inside import bus_of, eventually, running
from tests.support.pausing import paused
from tests.support.senders import entry_of
from tests.support.servers import Place

SECRET = "It's a Secret to Everybody"
BODY = b'{"ref":"refs/heads/main"}'
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
Answer = Callable[[Any, Any], Awaitable[Any]]


class Client:
    """A gateway's address, with the platform key at hand."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self.session = session
        self.url = url
        self.key = {"Authorization": f"Bearer {key}"}

    async def __call__(self, method: str, path: str, **options: Any) -> Got:
        """Send a request; with the key unless it has headers of its own."""
        options.setdefault("headers", self.key)
        async with self.session.request(method, self.url + path, **options) as response:
            return Got(response.status, response.headers.copy(), await response.read())

    async def hook(self, source: str, body: bytes = BODY, headers: Mapping[str, str] | None = None) -> Got:
        """Send a signed webhook."""
        return await self("POST", f"/hooks/{source}", data=body, headers=signed(body) | dict(headers or {}))


class Got(msgspec.Struct):
    """An answer."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, decoded."""
        return msgspec.json.decode(self.body)


def signed(body: bytes) -> dict[str, str]:
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json", "X-GitHub-Event": "push"}


@asynccontextmanager
async def gateway(place: Place, **environment: str) -> AsyncIterator[Client]:
    async with (
        running(place, "gateway", **{"MILLRACE_PORT": "0"} | environment) as runtime,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, runtime.health.document()["url"], place.credentials.admin_key)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


def entry(place: Place, *, enabled: bool = True, adapter: str = "github") -> SourceEntry:
    id_ = new_id()
    ring = Keyring(tuple(base64.b64decode(key) for key in place.credentials.keys))
    now = rfc3339(utc_now())
    return entry_of(
        verification_of(adapter, {}),
        adapter,
        id=id_,
        key=hashed_key("default", id_),
        name=f"source-{id_}",
        sealed={"secret": ring.seal(SECRET, "default", id_, "secret")},
        enabled=enabled,
        created_at=now,
        updated_at=now,
    )


@asynccontextmanager
async def source(place: Place, client: Client, **fields: Any) -> AsyncIterator[tuple[str, RegistryWriter[SourceEntry]]]:
    """A source as its owner would register it, and the owner's way to change it."""
    made = entry(place, **fields)
    async with bus_of(place, "events") as bus:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        await writer.put(made.id, 1, made)

        async def seen() -> bool:
            return (await client("GET", f"/hooks/{made.id}", headers={})).status != 503

        await eventually(seen)
        yield made.id, writer


@asynccontextmanager
async def answering(place: Place, service: str, answers: Mapping[type[msgspec.Struct], Answer]) -> AsyncIterator[Bus]:
    """Another service as far as a test needs it: what it is not told to answer is not found."""

    async def absent(question: Any, _deps: Any) -> Any:
        raise NotFound(type(question).__name__)

    async with bus_of(place, service) as bus:
        bus.answer({cls: absent for asked, cls in ASKED.values() if asked.service == service} | dict(answers), None)
        await bus.start()
        # The server knows the subscriptions when it has answered a ping behind them.
        await bus.client.flush()
        yield bus


async def stream(place: Place, name: str) -> list[Envelope]:
    async with bus_of(place, "admin") as bus:
        info = await api_request(bus.client, f"$JS.API.STREAM.INFO.{name}", None)
        read: list[Envelope] = []
        for sequence in range(max(1, info["state"]["first_seq"]), info["state"]["last_seq"] + 1):
            got = await api_request(bus.client, f"$JS.API.STREAM.MSG.GET.{name}", {"seq": sequence})
            read.append(open_envelope(base64.b64decode(got["message"]["data"])))
        return read


async def received(place: Place) -> list[WebhookReceived]:
    return [msgspec.json.decode(one.data, type=WebhookReceived) for one in await stream(place, "WEBHOOKS")]


# -- webhooks ---------------------------------------------------------------------------------------------------------


async def test_an_accepted_webhook_is_on_the_stream_exactly_as_it_came(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, _):
        body = b'{"exact":  "\\u00e9", "bytes": "\xff"}'
        headers = signed(body) | {"X-GitHub-Delivery": "d-1", "Cookie": "secret", "X-Odd": "a"}
        got = await client("POST", f"/hooks/{id_}?a=1&a=2&access_token=x", data=body, headers=headers)
    assert got.status == 202
    (envelope,) = await stream(place, "WEBHOOKS")
    (message,) = await received(place)
    assert envelope.id == message.delivery == got.json["id"]
    assert (envelope.org, envelope.correlationid, message.sender_delivery) == ("default", envelope.id, "d-1")
    assert base64.b64decode(message.body_base64 or "") == body
    assert message.query == [("a", "1"), ("a", "2"), ("access_token", "[redacted]")]
    kept = dict(message.headers)
    assert kept["x-hub-signature-256"] == kept["cookie"] == "[redacted]"
    assert kept["x-odd"] == "a"
    assert b"secret" not in bytes(envelope.data)


async def test_a_repeated_delivery_answers_the_first_id_and_adds_nothing(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, _):
        first = await client.hook(id_, headers={"X-GitHub-Delivery": "d-1"})
        again = await client.hook(id_, headers={"X-GitHub-Delivery": "d-1"})
        nameless = await client.hook(id_)
    assert (first.status, again.status, nameless.status) == (202, 200, 202)
    assert first.json == again.json != nameless.json
    assert len(await received(place)) == 2


async def test_a_body_above_the_inline_limit_travels_by_reference(place: Place, client: Client) -> None:
    body = os.urandom(300_000)
    async with source(place, client) as (id_, _):
        assert (await client.hook(id_, body)).status == 202
    (message,) = await received(place)
    assert message.body_base64 is None
    assert message.body_ref == hashlib.sha256(body).hexdigest()
    async with bus_of(place, "events") as bus:
        assert await Blobs(bus.client, "bodies").read(message.body_ref) == body


async def test_a_wrong_signature_is_401_and_nothing_is_kept(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, _):
        for signature in (None, "", "sha256=", "sha256=00", "sha1=" + "0" * 40, "sha256=" + "é" * 64, "sha256=" + "0" * 64):
            headers = {"Content-Type": "application/json"} | ({} if signature is None else {"X-Hub-Signature-256": signature})
            got = await client("POST", f"/hooks/{id_}", data=BODY, headers=headers)
            assert (got.status, got.headers["Content-Type"]) == (401, "application/problem+json"), signature
    assert await stream(place, "WEBHOOKS") == []


async def test_bytes_that_are_no_text_in_a_signature_are_401(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, _):
        address = urlsplit(client.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"POST /hooks/{id_} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n".encode()
            + b"X-Hub-Signature-256: sha256=\xff\xfe\r\nX-GitHub-Delivery: \xff\r\n\r\n{}"
        )
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert b" 401 " in line


async def test_refusals_are_audited_with_their_number_and_do_not_flood(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, _):
        for _ in range(20):
            await client("POST", f"/hooks/{id_}", data=BODY, headers={"Content-Type": "application/json"})

        async def told() -> list[Audited]:
            said = [msgspec.json.decode(one.data, type=Audited) for one in await stream(place, "AUDIT")]
            return said if sum(one.detail["count"] for one in said) == 20 else []

        said = await eventually(told)
    assert isinstance(said, list)
    # One a second, if that many: it may have taken some.
    assert len(said) < 15
    assert {(one.category, one.verb, one.target) for one in said} == {("webhook", "refused", id_)}


async def test_a_large_body_is_413_with_and_without_a_length(place: Place) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 1000

    async with gateway(place, MILLRACE_MAX_BODY="20000") as client, source(place, client) as (id_, _):
        body = b"x" * 20_001
        assert (await client.hook(id_, b"x" * 20_000)).status == 202
        assert (await client.hook(id_, body)).status == 413
        chunked = await client("POST", f"/hooks/{id_}", data=parts(), headers=signed(body))
    assert chunked.status == 413
    assert chunked.headers["Connection"] == "close"
    assert len(await received(place)) == 1


async def test_addresses_answer_what_their_senders_expect(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, writer), source(place, client, enabled=False) as (off, _):
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            got = await client(method, f"/hooks/{id_}", headers={})
            assert (got.status, got.headers["Allow"]) == (405, "POST")
        assert (await client.hook(id_, headers={"Content-Type": "text/plain"})).status == 415
        assert (await client.hook(id_, headers={"Content-Encoding": "gzip"})).status == 415
        assert (await client.hook(off)).status == 404
        assert (await client.hook("no.key")).status == 404
        await writer.put(id_, 2, None)

        async def retired() -> bool:
            return (await client.hook(id_)).status == 410

        await eventually(retired)


async def test_an_address_that_the_registry_does_not_hold_is_asked_for(place: Place, client: Client) -> None:
    there = entry(place)

    async def find(question: FindResource, _deps: Any) -> Found:
        if question.id != there.id:
            raise NotFound("no")
        return Found(5, msgspec.to_builtins(there))

    assert (await client.hook(there.id)).status == 503
    async with answering(place, "events", {to("events", FindResource): find}):
        assert (await client.hook(there.id)).status == 202
        assert (await client.hook(new_id())).status == 404
    assert (await client.hook(there.id)).status == 202


async def test_no_answer_tells_what_it_is_made_of(client: Client) -> None:
    answers = [await client(*asked) for asked in (("GET", "/healthz"), ("GET", "/nothing"), ("PUT", "/healthz"))]
    answers += [await client("GET", "/api/v1/runs", headers={}), await client("POST", "/hooks/no.key")]
    answers += [await client("GET", "/api/v1/runs?limit=x")]
    assert [one.status for one in answers] == [200, 404, 405, 401, 404, 422]
    assert {one.headers["Server"] for one in answers} == {"millrace"}
    address = urlsplit(client.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    # Refused by the parser, before there is a request.
    writer.write(b"NOT HTTP\r\n\r\n")
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 400 " in said.splitlines()[0]
    assert b"Server: millrace\r\n" in said
    assert b"aiohttp" not in said.lower()


async def test_a_content_type_that_nobody_can_read_is_refused_or_passed_over(place: Place, client: Client) -> None:
    async with source(place, client) as (id_, _):
        for content_type in ("(" * 5000, "a/b" + ";" * 8000, "application/json" + ";a=b" * 1900, "=?utf-8?q?=41?=" * 500):
            got = await client.hook(id_, headers={"Content-Type": content_type})
            assert got.status == (202 if content_type.startswith("application/json") else 415), got.body


async def test_an_expectation_that_nobody_can_meet_is_a_problem_on_every_route(client: Client) -> None:
    address = urlsplit(client.url)
    for path, expected in itertools.product(("/healthz", "/api/v1/runs", "/api/v1/nothing", "/nothing"), (b"x", b"\xff")):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\nExpect: %b\r\nConnection: close\r\n\r\n" % (path.encode(), expected))
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b" 417 " in said.splitlines()[0], said
        assert b"application/problem+json" in said


async def test_who_waits_to_be_told_to_go_on_is_told_so(client: Client) -> None:
    address = urlsplit(client.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    key = client.key["Authorization"]
    head = "POST /api/v1/sources HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\nConnection: close\r\n"
    writer.write(f"{head}Authorization: {key}\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{")
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 400 " in said.splitlines()[0]


async def test_a_source_whose_secret_cannot_be_read_admits_nothing(place: Place, client: Client) -> None:
    async with bus_of(place, "events") as bus:
        # Sealed for another source: moved here, it does not open.
        moved = msgspec.structs.replace(entry(place), sealed=entry(place).sealed)
        await RegistryWriter(bus.client, "sources", SourceEntry).put(moved.id, 1, moved)

        async def refused() -> bool:
            return "secret" in (await client.hook(moved.id)).json.get("detail", "")

        await eventually(refused)
        assert (await client.hook(moved.id)).status == 503


async def test_without_the_broker_a_webhook_is_503_in_time_and_is_not_stored_later(place: Place) -> None:
    async with (
        Cut(place.nats_url("gateway")) as cut,
        gateway(place, MILLRACE_NATS_URL=cut.url) as client,
        source(place, client) as (id_, _),
    ):
        assert (await client.hook(id_)).status == 202
        for sever in (cut.freeze, cut.close):
            await sever()
            for body in (BODY, os.urandom(300_000)):
                before = time.monotonic()
                got = await client.hook(id_, body)
                assert (got.status, got.headers.get("Retry-After")) == (503, "2")
                assert time.monotonic() - before < 20
        await cut.open()

        async def again() -> bool:
            return (await client.hook(id_, headers={"X-GitHub-Delivery": "last"})).status == 202

        await eventually(again)
    assert [message.sender_delivery for message in await received(place)] == [None, "last"]


class Cut:
    """A connection to the broker that can be frozen (nothing passes) and closed."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._port = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.open()
        self.url = f"nats://{self._target.username}:{self._target.password}@127.0.0.1:{self._port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close everything."""
        self._passing.set()
        await self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def freeze(self) -> None:
        """Let nothing pass."""
        self._passing.clear()

    async def thaw(self) -> None:
        """Let pass what was held up, and what comes."""
        self._passing.set()

    async def close(self) -> None:
        """Drop every connection and take no new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        await asyncio.sleep(0.1)

    async def open(self) -> None:
        """Pass again."""
        self._passing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                await self._passing.wait()
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


# -- the API ----------------------------------------------------------------------------------------------------------


async def test_what_travels_on_the_bus_is_described_to_everybody(client: Client) -> None:
    answer = await client("GET", "/asyncapi.json", headers={})
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == msgspec.json.decode(msgspec.json.encode(asyncapi.document()))


async def test_metrics_are_prometheus_and_need_a_key(client: Client) -> None:
    assert (await client("GET", "/metrics", headers={})).status == 401
    answer = await client("GET", "/metrics")
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found = {metric.name: metric for metric in text_string_to_metric_families(answer.body.decode())}
    ready = {sample.labels["part"]: sample.value for sample in found["millrace_part_ready"].samples}
    assert ready["broker"] == 1
    assert "process_resident_memory_bytes" in found
    refused = {"http_request_method": "GET", "http_route": "/metrics", "http_response_status_class": "4xx"}
    assert [
        sample.value
        for sample in found["http_server_request_duration_seconds"].samples
        if sample.name.endswith("_count") and sample.labels == refused
    ] == [1]


async def test_metrics_of_another_service_are_asked_of_it(place: Place, client: Client) -> None:
    # Nobody else is there.
    assert (await client("GET", "/metrics?service=events")).status == 503
    assert (await client("GET", "/metrics?service=nobody")).status == 422
    async with running(place, "oauth"):
        answer = await client("GET", "/metrics?service=oauth")
    assert answer.status == 200, answer.body
    assert 'millrace_broker_connected{service="oauth"} 1.0' in answer.body.decode()


async def test_only_the_platform_key_is_let_in(place: Place, client: Client) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eA=="}):
        got = await client("GET", "/api/v1/runs", headers=headers)
        assert got.status == 401
        assert got.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await client("GET", "/api/v1/nothing")).status == 404
    assert (await client("GET", "/api/v1/nothing", headers={})).status == 401
    assert (await client("GET", "/nothing", headers={})).status == 404
    wrong = await client("POST", "/healthz", headers={})
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD")
    assert (await client("GET", "/healthz", headers={})).status == 200
    # Nobody else is there to serve what it takes; it takes webhooks all the same.
    ready = await client("GET", "/readyz", headers={})
    assert (ready.status, ready.json["ready"], ready.json["accepting"]) == (503, False, {"webhooks": True, "reason": None})
    assert set(ready.json["unserved"]) == {"events", "executor", "oauth", "logs"}
    assert (await client("GET", "/api/v1/runs?org=a.b")).status == 422

    async def audited() -> bool:
        return any(b"no_key" in bytes(one.data) for one in await stream(place, "AUDIT"))

    await eventually(audited)


async def test_paths_that_are_no_text_are_no_bugs(client: Client) -> None:
    address, key = urlsplit(client.url), client.key["Authorization"].encode()
    sources, runs = b"/api/v1/sources/", b"/api/v1/runs"
    for path in (sources + b"%FF", sources + b"\xff", runs + b"/%00", b"/hooks/%ED%A0%80", runs + b"?org=%FF"):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\nAuthorization: " + key + b"\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        writer.close()
        await writer.wait_closed()
        # 503: what could be a name is asked for, and nobody answers here.
        assert status in {400, 404, 422, 503}, path


async def test_an_answer_that_nobody_gives_is_503(client: Client) -> None:
    got = await client("GET", "/api/v1/sources")
    assert (got.status, got.headers["Retry-After"]) == (503, "2")


def workflow(name: str = "adder", org: str = "default") -> WorkflowEntry:
    return WorkflowEntry(
        org=org,
        name=name,
        version="v1",
        module="m",
        function="f",
        path="m.py",
        line=1,
        doc="",
        input_schema=SCHEMA,
        timeout=60.0,
        retries=0,
        concurrency=None,
        updated_at=rfc3339(utc_now()),
    )


def view_of(requested: RunRequested, status: str) -> RunView:
    return RunView(
        id=requested.run,
        org="default",
        workflow=requested.workflow,
        version=requested.version,
        status=status,
        reason=None,
        blocked_on=None,
        attempt=1,
        input=requested.input,
        result=None,
        error=None,
        requested_by=requested.requested_by,
        delivery=None,
        requested_at=rfc3339(utc_now()),
        started_at=None,
        finished_at=None,
        queue_ms=None,
        duration_ms=None,
        usage=None,
        sandbox=None,
        correlation_id=requested.run,
        causation_id=None,
        fingerprint=requested.fingerprint,
        input_ref=requested.input_ref,
        rerun_of=requested.rerun_of,
    )


class Runs:
    """What an executor knows of runs, read from the stream."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def get(self, question: GetRun, _deps: Any) -> RunView:
        """Return the run as its messages tell it."""
        mine = [one for one in await stream(self.place, "RUNS") if one.subject == question.id]
        if not mine or mine[0].org != question.org:
            raise NotFound("no such run")
        requested = msgspec.json.decode(mine[0].data, type=RunRequested)
        verb = mine[-1].type.partition(".")[2]
        return view_of(requested, "queued" if verb == "requested" else verb)

    async def workflow(self, question: FindWorkflow, _deps: Any) -> Any:
        """There are none but those in the registry."""
        raise NotFound(f"there is no workflow {question.name!r}")


@asynccontextmanager
async def executor(place: Place) -> AsyncIterator[Bus]:
    runs = Runs(place)
    async with answering(place, "executor", {GetRun: runs.get, FindWorkflow: runs.workflow}) as bus:
        writer = RegistryWriter(bus.client, "workflows", WorkflowEntry)
        await writer.put(hashed_key("default", "adder"), 1, workflow())
        yield bus


async def succeed(place: Place, bus: Bus, run: str | None = None) -> str:
    """End the run (the only one, if none is named) as an executor would."""

    async def asked() -> list[Envelope]:
        return [one for one in await stream(place, "RUNS") if run in {None, one.subject}]

    found = await eventually(asked)
    assert isinstance(found, list)
    id_: str = found[0].subject
    done = RunSucceeded(run=id_, attempt=1, result=3, duration_ms=1.0, usage=RunUsage())
    await bus.journal.publish(bus.seal(done, org="default", cause=found[0]))
    return id_


async def ready(client: Client) -> bool:
    return (await client("GET", "/api/v1/workflows/adder")).status == 200


async def test_an_input_that_does_not_fit_is_422_with_its_path(place: Place, client: Client) -> None:
    async with executor(place):
        await eventually(lambda: ready(client))
        got = await client("POST", "/api/v1/workflows/adder/runs", json={"input": {"n": "x"}})
        assert got.status == 422
        assert got.json["errors"] == [{"path": "input.n", "message": '"x" is not of type "integer"'}]
        assert (await client("POST", "/api/v1/workflows/none/runs", json={})).status == 404
        for body in (b"{", b'{"input": []}', b'{"inputs": {}}', b'{"priority": "urgent"}', b'{"timeout": -1}'):
            assert (await client("POST", "/api/v1/workflows/adder/runs", data=body)).status in {400, 422}
        big = io.BytesIO(msgspec.json.encode({"input": {"n": 1, "x": "y" * 5_000_000}}))
        assert (await client("POST", "/api/v1/workflows/adder/runs", data=big)).status == 413
    assert await stream(place, "RUNS") == []


async def test_a_run_is_on_disk_when_it_is_accepted(place: Place, client: Client) -> None:
    async with executor(place):
        await eventually(lambda: ready(client))
        got = await client("POST", "/api/v1/workflows/adder/runs", json={"input": {"n": 1}, "priority": "high"})
        assert (got.status, got.json["status"]) == (202, "queued")
        assert got.headers["Location"] == f"/api/v1/runs/{got.json['id']}"
        (envelope,) = await stream(place, "RUNS")
    requested = msgspec.json.decode(envelope.data, type=RunRequested)
    assert (requested.workflow, requested.version, requested.input) == ("adder", "v1", {"n": 1})
    assert (requested.priority, requested.timeout, requested.requested_by) == ("high", 60.0, "platform-key")


async def test_a_request_for_a_run_is_audited_once_and_while_its_caller_still_waits(place: Place, client: Client) -> None:
    async def audited() -> list[Audited]:
        said = [open_message(one) for one in await stream(place, "AUDIT")]
        return [one for one in said if isinstance(one, Audited) and (one.category, one.verb) == ("run", "request")]

    async with executor(place) as bus:
        await eventually(lambda: ready(client))
        asked = asyncio.create_task(client("POST", "/api/v1/workflows/adder/runs?wait=20", json={"input": {"n": 1}}))
        (said,) = await eventually(audited)
        assert not asked.done()
        run = await succeed(place, bus)
        assert (await asked).json["id"] == run
        assert (said.target, said.outcome, said.detail) == ("adder", "ok", {"run": run})
        refused = await client("POST", "/api/v1/workflows/adder/runs?wait=20", json={"input": {"n": "x"}})
        assert refused.status == 422
        assert [one.outcome for one in await audited()] == ["ok", "invalid"]


async def test_a_waiting_caller_gets_the_whole_run_however_it_ends(place: Place, client: Client) -> None:
    async with executor(place) as bus:
        await eventually(lambda: ready(client))
        asked = asyncio.create_task(client("POST", "/api/v1/workflows/adder/runs?wait=20", json={"input": {"n": 1}}))
        run = await succeed(place, bus)
        got = await asked
        assert (got.status, got.json["id"], got.json["status"]) == (200, run, "succeeded")

        late = asyncio.create_task(client("POST", "/api/v1/workflows/adder/runs?wait=20", json={"input": {"n": 2}}))

        async def second() -> list[str]:
            return [one.subject for one in await stream(place, "RUNS") if one.subject != run]

        others = await eventually(second)
        assert isinstance(others, list)
        error = RunError("ValueError", "no")
        failed = RunFailed(run=others[0], attempt=1, reason="error", error=error, duration_ms=1.0, usage=RunUsage())
        await bus.journal.publish(bus.seal(failed, org="default"))
        assert (await late).json["status"] == "failed"
        before = time.monotonic()
        unended = await client("POST", "/api/v1/workflows/adder/runs?wait=0.3", json={"input": {"n": 3}})
        assert unended.status == 202
        assert 0.25 < time.monotonic() - before < 15


async def test_a_request_in_flight_is_answered_while_the_gateway_stops(place: Place) -> None:
    async with executor(place), aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(running(place, "gateway", MILLRACE_PORT="0"))
        client = Client(session, runtime.health.document()["url"], place.credentials.admin_key)
        await eventually(lambda: ready(client))
        asked = asyncio.create_task(client("POST", "/api/v1/workflows/adder/runs?wait=1.5", json={"input": {"n": 1}}))

        async def on_disk() -> list[Envelope]:
            return await stream(place, "RUNS")

        await eventually(on_disk)
        await stack.aclose()
        assert asked.done()
        assert (await asked).status == 202
        with pytest.raises(aiohttp.ClientConnectionError):
            await client("GET", "/healthz")


async def test_an_idempotency_key_asks_once(place: Place, client: Client) -> None:
    path = "/api/v1/workflows/adder/runs"
    key = client.key | {"Idempotency-Key": "k-1"}
    async with executor(place) as bus:
        await eventually(lambda: ready(client))
        asked = [client("POST", path, json={"input": {"n": 1}}, headers=key) for _ in range(8)]
        answers = await asyncio.gather(*asked)
        started = [got for got in answers if got.status == 202]
        assert started
        assert {got.json["id"] for got in started} == {started[0].json["id"]}
        # Those that came while the first was being served.
        assert {got.status for got in answers} <= {202, 409}
        assert (await client("POST", path, json={"input": {"n": 2}}, headers=key)).status == 422
        elsewhere = await client("POST", path + "?org=other", json={"input": {"n": 1}}, headers=key)
        assert elsewhere.status == 404
        await succeed(place, bus)
        again = await client("POST", path, json={"input": {"n": 1}}, headers=key)
        assert (again.status, again.json["status"]) == (200, "succeeded")
    assert len([one for one in await stream(place, "RUNS") if one.type == "run.requested"]) == 1


async def test_a_request_is_told_that_the_first_one_with_its_key_is_still_being_served(place: Place, client: Client) -> None:
    path = "/api/v1/workflows/adder/runs"
    key = client.key | {"Idempotency-Key": "k-1"}

    async def ask(n: int) -> Any:
        return await client("POST", path, json={"input": {"n": n}}, headers=key)

    async with executor(place):
        await eventually(lambda: ready(client))
        async with paused(place.broker_pid):
            first = asyncio.create_task(ask(1))
            second = asyncio.create_task(ask(1))
            done, _ = await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            assert (refused.result().status, refused.result().headers["Retry-After"]) == (409, "1")
            assert (await ask(2)).status == 422
        (served,) = {first, second} - done
        assert (await served).status == 202
        assert (await ask(1)).json["id"] == served.result().json["id"]
        # A key alone is nobody's for ever: the next request with it is served as the first was.
        assert (await client("POST", path, json={"input": {"n": 1}}, headers=client.key)).status == 202
    assert len([one for one in await stream(place, "RUNS") if one.type == "run.requested"]) == 2


async def test_an_idempotency_key_stands_for_the_whole_body_however_it_is_written(place: Place, client: Client) -> None:
    path = "/api/v1/workflows/adder/runs"
    key = client.key | {"Idempotency-Key": "k-1"}
    asked = {"input": {"n": 1}, "timeout": 5, "priority": "low", "deadline": 60, "concurrency_key": "a"}
    asked["run_at"] = rfc3339(utc_now() + timedelta(hours=1))
    others = {"timeout": 6, "priority": "high", "deadline": 61, "concurrency_key": "b", "run_at": None}
    async with executor(place) as bus:
        await eventually(lambda: ready(client))
        first = await client("POST", path, json=asked, headers=key)
        turned = dict(reversed(asked.items()))
        for ended in (False, True):
            again = await client("POST", path, json=turned, headers=key)
            assert (again.status, again.json["id"]) == (200 if ended else 202, first.json["id"])
            for name, value in others.items():
                got = await client("POST", path, json=asked | {name: value}, headers=key)
                assert (got.status, got.json["errors"][0]["path"]) == (422, "Idempotency-Key"), name
            await succeed(place, bus)
    assert len([one for one in await stream(place, "RUNS") if one.type == "run.requested"]) == 1


async def test_two_simultaneous_requests_with_one_key_and_other_bodies_make_one_run(place: Place, client: Client) -> None:
    path = "/api/v1/workflows/adder/runs"
    key = client.key | {"Idempotency-Key": "k-1"}
    async with executor(place):
        await eventually(lambda: ready(client))
        asked = [client("POST", path, json={"input": {"n": n}}, headers=key) for n in (1, 2) * 4]
        answers = [got.status for got in await asyncio.gather(*asked)]
        first = answers.index(202) % 2
        assert [status in {202, 409} for status in answers[first::2]] == [True] * 4
        assert answers[1 - first :: 2] == [422] * 4
    assert len(await stream(place, "RUNS")) == 1


async def test_a_run_is_asked_for_again_with_its_input_wherever_that_is_kept(place: Place, client: Client) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"n": 5}'

    async with executor(place) as bus, bus_of(place, "events") as events:
        await eventually(lambda: ready(client))
        blob = await Blobs(events.client, "bodies").put(parts())
        for kept, status in ((blob.sha256, 202), ("0" * 64, 409)):
            run = new_id()
            requested = RunRequested(
                run=run, workflow="adder", version="v1", requested_by="s", timeout=1.0, input={"$ref": kept}, input_ref=kept
            )
            await events.publish(events.seal(requested, org="default"))
            await succeed(place, bus, run)
            got = await client("POST", f"/api/v1/runs/{run}/rerun")
            assert got.status == status, got.json
            if status == 202:
                again = next(one for one in await stream(place, "RUNS") if one.subject == got.json["id"])
                message = msgspec.json.decode(again.data, type=RunRequested)
                assert (message.input, message.input_ref, message.rerun_of) == (None, kept, run)


async def test_cancelling_is_durable_and_refused_after_the_end(place: Place, client: Client) -> None:
    async with executor(place) as bus:
        await eventually(lambda: ready(client))
        run = (await client("POST", "/api/v1/workflows/adder/runs", json={"input": {"n": 1}})).json["id"]
        cancel = f"/api/v1/runs/{run}/cancel"
        assert (await client("POST", cancel + "?org=other")).status == 404
        assert (await client("POST", f"/api/v1/runs/{new_id()}/cancel")).status == 404
        got = await client("POST", cancel)
        assert (got.status, got.json) == (202, {"id": run, "status": "cancelling"})
        assert (await client("POST", cancel)).status == 202
        requests = [one for one in await stream(place, "RUNS") if one.type == "run.cancel_requested"]
        assert len(requests) == 1
        assert requests[0].causationid == requests[0].correlationid == run
        asked = msgspec.json.decode(requests[0].data, type=RunCancelRequested)
        assert asked.requested_by == "platform-key"
        await succeed(place, bus, run)
        assert (await client("POST", cancel)).status == 409
        rerun = await client("POST", f"/api/v1/runs/{run}/rerun")
        assert rerun.status == 202
        assert rerun.json["id"] != run
        audited = [msgspec.json.decode(one.data, type=Audited) for one in await stream(place, "AUDIT")]
    outcomes = [(one.verb, one.outcome) for one in audited if one.category == "run" and one.target == run]
    assert outcomes == [
        ("cancel", "not_found"),
        ("cancel", "ok"),
        ("cancel", "ok"),
        ("cancel", "conflict"),
        ("rerun", "ok"),
    ]


async def test_a_file_streams_in_and_out_unchanged(place: Place) -> None:
    files: dict[str, PutFile] = {}

    def shown(put: PutFile) -> FileView:
        return FileView(path=put.path, sha256=put.sha256, size=put.size, updated_at="")

    async def put_file(command: PutFile, _deps: Any) -> FileView:
        files[command.path] = command
        return shown(command)

    async def get_file(question: GetFile, _deps: Any) -> FileView:
        if question.path not in files:
            raise NotFound("no such file")
        return shown(files[question.path])

    content = os.urandom(3_000_000)
    path = "/api/v1/workspace/files/a/b%20c.bin"
    async with (
        answering(place, "executor", {PutFile: put_file, GetFile: get_file}),
        gateway(place, MILLRACE_MAX_FILE="4000000") as client,
    ):
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        put = await client("PUT", path, data=io.BytesIO(content))
        assert (put.status, put.json["path"], put.headers["ETag"]) == (200, "a/b c.bin", tag)
        assert files["a/b c.bin"].expected is None
        got = await client("GET", path)
        assert (got.body == content, got.headers["ETag"], got.headers["Content-Length"]) == (True, tag, "3000000")
        head = await client("HEAD", path)
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "3000000")
        assert (await client("GET", path, headers=client.key | {"If-None-Match": tag})).status == 304
        for range_, condition, start, end in (
            ("bytes=2900000-", {}, 2_900_000, 3_000_000),
            ("bytes=131000-132000", {"If-Range": tag}, 131_000, 132_001),
            ("bytes=-1", {}, 2_999_999, 3_000_000),
        ):
            got = await client("GET", path, headers=client.key | {"Range": range_} | condition)
            assert (got.status, got.body == content[start:end]) == (206, True)
            assert got.headers["Content-Range"] == f"bytes {start}-{end - 1}/3000000"
        for headers in ({"Range": "bytes=0-0,5-6"}, {"Range": "bytes=0-0", "If-Range": '"other"'}):
            got = await client("GET", path, headers=client.key | headers)
            assert (got.status, len(got.body), got.headers["Accept-Ranges"]) == (200, 3_000_000, "bytes")
        got = await client("GET", path, headers=client.key | {"Range": "bytes=3000000-"})
        assert (got.status, got.headers["Content-Range"]) == (416, "bytes */3000000")
        assert (await client("HEAD", path, headers=client.key | {"Range": "bytes=0-0"})).status == 200
        assert (await client("GET", "/api/v1/workspace/files/none")).status == 404
        assert (await client("PUT", path, data=b"", headers=client.key | {"If-Match": tag})).status == 200
        assert files["a/b c.bin"].expected == tag.strip('"')
        assert (await client("GET", path)).body == b""
        assert (await client("PUT", path, data=io.BytesIO(bytes(4_000_001)))).status == 413

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(41):
                yield bytes(100_000)

        assert (await client("PUT", path, data=endless())).status == 413
