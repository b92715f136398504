"""The short drill of a cluster: the broker that leads and the primary database are killed, and no webhook is lost."""

from __future__ import annotations

from tests.support.drills import said_by

# About a minute alone; on a machine that runs other tests beside it, several.
BOUND = 420.0


async def test_no_webhook_is_lost_when_a_broker_and_the_primary_database_are_killed() -> None:
    said = await said_by("tests.chaos.cluster", BOUND)
    assert (said["clean"], said["exit"]) == (True, 0), said["text"]
    assert [said[kind] for kind in ("lost", "duplicated", "stuck", "failed", "disagrees", "refused")] == [0] * 6, said["text"]
    assert all(cell["accepted"] for cell in said["cells"]), said["text"]
    assert [cell["target"].partition(" ")[2] for cell in said["cells"]] == ["(leader)", "(primary)"]
