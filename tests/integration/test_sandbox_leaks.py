"""Hundreds of runs of every kind of end leave nothing; `bench/leaks.py` is the same with ten thousand."""

from pathlib import Path

import pytest

from bench.leaks import WAYS, measure
from tests.support.sandbox import UID, reachable_interpreter

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


async def test_runs_of_every_kind_of_end_leave_no_process_descriptor_slot_group_or_file(data: Path) -> None:
    found = (await measure(data, 0, runs=25 * len(WAYS))).more
    assert not any(found["left_while_warm"].values()), found
    assert not any(found["left_when_closed"].values()), found
    assert {end.partition(":")[0] for end in found["ends"]} == {"well", *WAYS}
    assert found["ends"]["well: succeeded/None"] == 24 * len(WAYS)
