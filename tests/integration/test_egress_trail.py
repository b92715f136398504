"""What a run reached is logged, what it was denied is audited and told to its author, however often it tries."""

from contextlib import aclosing
from pathlib import Path

import pytest
import structlog.testing

from services.executor.runs.egress_trail import TARGETS, TOLD, EgressTrail
from services.executor.runs.output import RunOutput
from services.executor.sandbox.egress.network import Record
from shared.envelope import Envelope, open_envelope, open_message
from shared.errors import Unavailable
from shared.messages import Audited, LineChunk
from shared.ordered_reader import OrderedReader
from shared.questions.runs import ListLines
from tests.integration.test_egress_clients import Closed
from tests.support.egress import echo, server
from tests.support.inside import bus_of, eventually
from tests.support.river import river
from tests.support.servers import Place

WORKFLOW = b"""
import urllib.request

from millrace import workflow


@workflow(name="look")
def look(urls: list) -> list:
    said = []
    for url in urls:
        try:
            said.append(urllib.request.urlopen(url).status)
        except OSError as error:
            said.append(getattr(error, "code", None) or str(error))
    return said
"""


async def audit(place: Place, count: int) -> list[tuple[Envelope, Audited]]:
    """The first so many records of the audit stream."""
    found: list[tuple[Envelope, Audited]] = []
    async with bus_of(place, "admin") as admin, aclosing(OrderedReader(admin.client, "AUDIT").batches()) as batches:
        while len(found) < count:
            envelopes = [open_envelope(one.data) for one in await anext(batches)]
            found += [(envelope, open_message(envelope, Audited)) for envelope in envelopes]
    return found


async def test_a_denial_is_audited_in_its_organization_and_told_to_the_author(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.app.Children", Closed)
    async with server(echo) as port, river(place, data, MILLRACE_EGRESS_ALLOW=f"default=127.0.0.1:{port}") as outside:
        await outside.put_file("look.py", WORKFLOW)
        urls = ["http://169.254.169.254/latest/meta-data"] * 3 + ["http://localhost:1/"]
        run = await outside.request("look", input={"urls": urls})
        assert (await outside.run(run, "succeeded")).result == [403, 403, 403, 403]
        records = await audit(place, 3)
        assert {envelope.org for envelope, _ in records} == {"default"}
        assert {envelope.correlationid for envelope, _ in records} == {(await outside.run(run, "succeeded")).correlation_id}
        said = [(one.category, one.verb, one.actor, one.target, one.outcome, one.detail["reason"], one.detail["count"])
                for _, one in records]  # fmt: skip
        metadata = ("egress", "denied", f"run:{run}", "169.254.169.254:80", "permission_denied", "metadata")
        assert sorted(said) == [
            (*metadata, 1),
            (*metadata, 2),
            ("egress", "denied", f"run:{run}", "localhost:1", "permission_denied", "loopback", 1),
        ]

        async def told() -> bool:
            lines = (await outside.bus.ask(ListLines(org="default", id=run))).items
            return [(one.line.level, one.line.message) for one in lines] == [("warning", "egress.denied")] * 3

        assert await eventually(told)


class Trail:
    """A trail whose audit is a list."""

    def __init__(self) -> None:
        self.audited: list[Audited] = []
        self.chunks: list[LineChunk] = []
        self.reached = EgressTrail("r1", "acme", self._audit, RunOutput("r1", "w", 1, self._keep))

    async def _audit(self, audited: Audited) -> None:
        self.audited.append(audited)

    async def _keep(self, chunk: LineChunk) -> None:
        self.chunks.append(chunk)


def connected(number: int = 1) -> Record:
    return Record(
        outcome="connected", reason="closed", host="a.example", port=443, address="1.1.1.1", sent=number, received=2, duration_ms=3
    )


def denied(port: int) -> Record:
    return Record(outcome="denied", reason="private", host="10.0.0.1", port=port, address="10.0.0.1", duration_ms=0)


async def test_every_connection_is_logged_with_its_bytes_and_a_multitude_is_summed_up() -> None:
    trail = Trail()
    with structlog.testing.capture_logs() as logs:
        for number in range(TOLD + 5):
            trail.reached.record(connected(number))
        await trail.reached.finish()
    assert logs[0] == {
        "event": "egress.connected", "log_level": "info", "run": "r1", "org": "acme", "host": "a.example", "port": 443,
        "address": "1.1.1.1", "reason": "closed", "sent": 0, "received": 2, "duration_ms": 3,
    }  # fmt: skip
    assert len(logs) == TOLD + 1
    assert logs[-1] == {
        "event": "egress.more", "log_level": "info", "run": "r1", "org": "acme", "connections": 5,
        "sent": sum(range(TOLD, TOLD + 5)), "received": 10,
    }  # fmt: skip
    assert trail.audited == []


async def test_a_scan_is_told_in_bounds_and_nothing_of_it_is_forgotten() -> None:
    trail = Trail()
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            for port in range(1, 201):
                trail.reached.record(denied(port))
        await trail.reached.finish()
    assert len(logs) == len(trail.audited) == 2 * (TARGETS + 1)
    assert sum(one.detail["count"] for one in trail.audited) == 600


async def test_an_audit_that_cannot_be_stored_costs_a_log_line_and_not_the_run() -> None:
    async def away(_audited: Audited) -> None:
        raise Unavailable("the broker is not connected")

    trail = Trail()
    reached = EgressTrail("r1", "acme", away, RunOutput("r1", "w", 1, trail._keep))
    with structlog.testing.capture_logs() as logs:
        reached.record(denied(1))
        await reached.finish()
    assert [one["event"] for one in logs] == ["egress.denied", "audit.lost"]
