"""The short drills of a cluster: brokers and the primary database are killed, or a broker is cut off, and no webhook is lost."""

from __future__ import annotations

import pytest

from tests.support.drills import said_by

# About a minute each alone; on a machine that runs other tests beside it, several.
BOUND = 420.0


@pytest.mark.parametrize(
    ("options", "away"), [((), ["(leader)", "(primary)"]), (("--cut",), ["(leader)"])], ids=["killed", "cut off"]
)
async def test_no_webhook_is_lost_when_what_leads_is_away(options: tuple[str, ...], away: list[str]) -> None:
    said = await said_by("tests.chaos.cluster", BOUND, *options)
    assert (said["clean"], said["exit"]) == (True, 0), said["text"]
    assert [said[kind] for kind in ("lost", "duplicated", "stuck", "failed", "disagrees", "refused")] == [0] * 6, said["text"]
    assert all(cell["accepted"] for cell in said["cells"]), said["text"]
    assert [cell["target"].partition(" ")[2] for cell in said["cells"]] == away
