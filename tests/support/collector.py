"""A collector of traces, as an installation has one: takes OTLP over HTTP, and holds the spans."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """One span as it came; ids are hexadecimal, times in nanoseconds."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool


class Collector:
    """The spans that were taken, at `url`. `answers` is the status of every answer, `slow` holds them back while it is not set."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Collected] = []
        self.status = 200
        self.requests = 0
        self.raw = bytearray()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._arrived = asyncio.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process sends its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def of(self, trace: str) -> list[Collected]:
        """Return the spans of a trace, or of a chain by its correlation id, in the order of their beginning."""
        return sorted((one for one in self.spans if one.trace == trace.replace("-", "")), key=lambda one: one.start)

    async def until(self, claim: Callable[[], Any], *, within: float = 60.0) -> Any:
        """Wait until a claim about the spans is true; returns its answer."""
        async with asyncio.timeout(within), self._arrived:
            while not (answer := claim()):
                await self._arrived.wait()
            return answer

    async def take(self, request: web.Request) -> web.Response:
        """Take a request of an exporter."""
        body = await request.read()
        await self.go_on.wait()
        self.requests += 1
        if self.status != 200:
            return web.Response(status=self.status)
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.raw += body
        async with self._arrived:
            self.spans += _collected(ExportTraceServiceRequest.FromString(body))
            self._arrived.notify_all()
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector for the block."""
    application = web.Application(client_max_size=64 * 1024 * 1024)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    held = Collector("")
    application.router.add_post("/v1/traces", held.take)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    held.url = f"http://{host}:{port}"
    try:
        yield held
    finally:
        held.go_on.set()
        await runner.cleanup()


def is_complete(spans: list[Collected]) -> bool:
    """Return whether all parents are there: other processes send in their own time."""
    known = {one.id for one in spans}
    return all(not one.parent or one.parent in known for one in spans)


def check_whole(spans: list[Collected], *roots: str) -> None:
    """See that every span but the roots has a parent in the trace, and does not begin before it."""
    known = {one.id: one for one in spans}
    assert len(known) == len(spans)
    assert sorted(one.name for one in spans if not one.parent) == sorted(roots)
    for one in spans:
        assert one.end >= one.start
        if one.parent:
            assert one.parent in known, (one.name, one.service)
            assert one.start >= known[one.parent].start, (one.name, known[one.parent].name)


def written(spans: list[Collected], type_: str, times: int) -> bool:
    """Return whether so many messages of a type are archived, and by their service as well."""
    groups = [one.attributes["messaging.consumer.group.name"] for one in spans if one.name == f"write {type_}"]
    return (
        sum(group.startswith("logs.") for group in groups) == times and sum(group == "executor.runs" for group in groups) == times
    )


def _collected(request: Any) -> list[Collected]:
    found = []
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            found += [
                Collected(
                    service=service,
                    name=one.name,
                    kind=KINDS[one.kind],
                    trace=one.trace_id.hex(),
                    id=one.span_id.hex(),
                    parent=one.parent_span_id.hex(),
                    start=one.start_time_unix_nano,
                    end=one.end_time_unix_nano,
                    attributes=_attributes(one.attributes),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in one.links],
                    failed=one.status.code == 2,
                )
                for one in scope.spans
            ]
    return found


def _attributes(given: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in given}
