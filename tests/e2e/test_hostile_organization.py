"""One organization does its worst, all at once, on a whole stack: another one loses no webhook and no run."""

from __future__ import annotations

from bench.hostile import measure
from tests.support.places import open_folder


async def test_another_organization_loses_nothing_and_no_process_ends() -> None:
    with open_folder() as folder:
        found = (await measure(folder, 1.0, per_second=20, together=True)).more
    assert found["beside"]["sent"] > 100
    assert (found["beside"]["lost"], found["beside"]["refused"]) == (0, {}), found
    assert (found["restarted"], found["readyz"]) == ([], 200), found
    for act, answers in found["acts"].items():
        assert not any(status.startswith("5") for status in answers), (act, answers)
        assert "trouble" not in answers, (act, answers)
