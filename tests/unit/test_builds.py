"""Jobs of environments: each comes to an end, whatever ends it, and those of one organization touch no other's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.executor.environments import builds
from services.executor.environments.builds import Builds, NotBuiltYet
from services.executor.environments.environments import Failed
from services.executor.environments.lock import Lock
from services.executor.environments.requirements import Requirements, of_text
from shared.errors import Unavailable
from shared.messages.catalog import FileProblem


class Resolver:
    """Resolves nothing: a requirement `stuck` never, `odd` with an error that nobody foresaw, others with a problem."""

    def __init__(self) -> None:
        self.resolved: list[str] = []

    async def resolve(self, org: str, requirements: Requirements, _progress: object) -> Lock:
        self.resolved.append(org)
        if requirements.wanted[0].name == "stuck":
            await asyncio.Event().wait()
        if requirements.wanted[0].name == "odd":
            raise LookupError("nobody foresaw this")
        raise Failed([FileProblem("requirements.txt", 1, "there is none")])


async def _followed(_org: str) -> None: ...


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    monkeypatch.setattr(builds, "GRACE", 0.02)
    return Resolver()


def _of(name: str) -> Requirements:
    return of_text("requirements.txt", name)


async def test_an_error_that_nobody_foresaw_ends_the_job_and_the_next_is_tried(quick: Resolver) -> None:
    jobs = Builds(cast("Any", quick), cast("Any", None), _followed)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await jobs.locked("default", _of("odd"), again=False)
    assert len(quick.resolved) == 2
    assert not jobs.jobs("default")


async def test_many_jobs_of_one_organization_make_no_other_forget_its_own(quick: Resolver) -> None:
    jobs = Builds(cast("Any", quick), cast("Any", None), _followed)
    with pytest.raises(Failed):
        await jobs.locked("default", _of("a"), again=False)
    waiting = [asyncio.create_task(jobs.locked("many", _of(f"stuck=={number}"), again=False)) for number in range(1200)]
    await asyncio.wait(waiting)
    assert all(isinstance(task.exception(), NotBuiltYet) for task in waiting)
    with pytest.raises(Failed):
        await jobs.locked("default", _of("a"), again=False)
    assert quick.resolved.count("default") == 1
    await jobs.close()


async def test_what_waits_and_is_asked_for_no_more_is_not_begun(quick: Resolver) -> None:
    jobs = Builds(cast("Any", quick), cast("Any", None), _followed)
    wanted = [_of(f"stuck=={number}") for number in range(3)]
    for one in wanted:
        with pytest.raises(NotBuiltYet):
            await jobs.locked("default", one, again=False)
    jobs.keep("default", {wanted[2].key})
    await asyncio.sleep(0)
    assert [job.requirements for job in jobs.jobs("default")] == [wanted[0], wanted[2]]
    assert jobs.jobs("default")[1].step == "waiting for other environments"
    await jobs.close()
