"""The short drill of waits: each run goes on once, with its own event, whoever is killed meanwhile."""

from tests.chaos.waits.evidence import WRONGS
from tests.support.drills import said_by

# About half a minute alone; on a machine that runs other tests beside it, several.
BOUND = 420.0


async def test_kills_leave_each_run_with_its_own_event_once() -> None:
    outcome = await said_by("tests.chaos.waits", BOUND)
    assert {kind: outcome[kind] for kind in WRONGS} == dict.fromkeys(WRONGS, 0), outcome["text"]
    assert (outcome["runs"], outcome["matched"], outcome["late"]) == (100, 100, 10)
    assert outcome["events"] > 110
    assert sum(outcome["kills"].values()) > 1
    assert (outcome["clean"], outcome["exit"]) == (True, 0), outcome["text"]
