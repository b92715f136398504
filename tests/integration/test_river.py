"""From a received webhook to the end of its run, over the events and executor services in this process."""

from __future__ import annotations

from pathlib import Path

from shared import aggregate
from shared.envelope import new_id
from tests.support.inside import bus_of
from tests.support.river import river
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import workflow, log

@workflow(name="greet")
def greet(event: dict) -> dict:
    log.info("greeting", ref=event["data"]["ref"])
    return {"ref": event["data"]["ref"]}
"""


async def test_a_broken_file_is_refused_with_its_line_and_the_last_good_version_serves(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription()
        broken = await outside.put_file("greet.py", b"from millrace import workflow\n\ndef broken(:\n")
        assert [(problem.path, problem.line) for problem in broken.problems] == [("greet.py", 3)]
        delivery = await outside.delivery(await outside.webhook(source, {"ref": "x"}), "routed")
        assert (await outside.run(delivery.runs[0].id, "succeeded")).result == {"ref": "x"}


async def test_a_repeat_that_the_broker_has_forgotten_yields_nothing(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription()
        id_ = new_id()
        first = await outside.delivery(await outside.webhook(source, {"ref": "x"}, delivery=id_), "routed")
        await outside.run(first.runs[0].id, "succeeded")
        # Another message id stands for a broker that does not remember the first one any more.
        await outside.webhook(source, {"ref": "x"}, delivery=id_, said=new_id())
        marker = await outside.webhook(source, {"ref": "y"})
        await outside.delivery(marker, "routed")
        async with bus_of(place, "events") as bus:
            said = [stored.envelope.type async for stored in aggregate.history(bus.client, "event", source.id)]
        assert said.count("event.accepted") == 2
