"""The code of adapters: one organization leaves places for others, and what the platform takes time for is not the code's fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from services.executor.environments.builds import Locked
from services.executor.sandbox.interface import Capabilities, DeclaredAdapter, Job, Outcome
from services.executor.workspaces import adapter_jobs, adapters
from services.executor.workspaces.adapter_jobs import AT_ONCE, LOST_IN_A_ROW, AdapterJobs, Asker
from services.executor.workspaces.adapters import AdapterDeps, ask_adapter
from services.executor.workspaces.bundles import Bundle, Manifest
from shared.encryption import Keyring
from shared.errors import Unavailable
from shared.questions.adapters import AdapterRequest, AskAdapter


def asked(act: Literal["receive", "handshake", "parse"] = "parse", org: str = "one", version: str = "v1") -> AskAdapter:
    request = AdapterRequest(method="POST", url="/hooks/a", headers=[], query=[])
    return AskAdapter(
        org=org, owner=org, adapter="acme", version=version, act=act, source="a", settings={}, sealed={}, request=request
    )


async def taken(jobs: AdapterJobs, stack: contextlib.AsyncExitStack, org: str, asker: Asker) -> int:
    """Take all places that an organization gets; return how many."""
    count, until = 0, asyncio.get_running_loop().time() + 60
    holding: set[asyncio.Task[Any]] = set()

    async def hold() -> None:
        with jobs.admitted(org, asker):
            async with jobs.place(org, asker, until):
                await asyncio.Event().wait()

    while True:
        task = asyncio.create_task(hold())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if task.done():
            assert isinstance(task.exception(), Unavailable)
            break
        holding.add(task)
        count += 1

    async def free() -> None:
        for one in holding:
            one.cancel()
        await asyncio.gather(*holding, return_exceptions=True)

    stack.push_async_callback(free)
    return count


async def test_organizations_that_take_all_they_get_leave_places_for_others_and_parsing_leaves_all_of_verifying() -> None:
    jobs = AdapterJobs()
    async with contextlib.AsyncExitStack() as stack:
        verifying = [await taken(jobs, stack, f"org-{number}", "gateway") for number in range(4)]
        assert verifying[0] == adapter_jobs.MOST["gateway"]
        assert min(verifying) >= 2
        parsing = [await taken(jobs, stack, f"org-{number}", "events") for number in range(4)]
        assert parsing[0] == adapter_jobs.MOST["events"]
        assert min(parsing) >= 1
    assert await _all_again(jobs) == verifying[0]


async def _all_again(jobs: AdapterJobs) -> int:
    async with contextlib.AsyncExitStack() as stack:
        return await taken(jobs, stack, "org-3", "gateway")


async def test_a_place_that_does_not_come_in_time_is_unavailable_and_given_back() -> None:
    jobs = AdapterJobs()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(AT_ONCE):
            await stack.enter_async_context(jobs.place("one", "events", asyncio.get_running_loop().time() + 60))
        with pytest.raises(Unavailable, match="busy"):
            async with jobs.place("one", "events", asyncio.get_running_loop().time()):
                pass
    async with jobs.place("one", "events", asyncio.get_running_loop().time()):
        pass


def lose(jobs: AdapterJobs, of: AskAdapter) -> None:
    for _ in range(LOST_IN_A_ROW):
        with jobs.trial(of) as outcome:
            outcome.append(True)


def test_code_that_hangs_while_it_parses_rests_from_that_alone_and_another_version_does_not() -> None:
    jobs = AdapterJobs()
    lose(jobs, asked("parse"))
    with pytest.raises(Unavailable, match="hung or crashed"), jobs.trial(asked("parse")):
        pass
    for other in (asked("receive"), asked("handshake"), asked("parse", version="v2"), asked("parse", org="two")):
        with jobs.trial(other) as outcome:
            outcome.append(False)


def test_a_trial_that_never_reached_the_code_lets_the_next_one_show_how_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_jobs, "RESTS", 0.0)
    jobs = AdapterJobs()
    lose(jobs, asked())
    monkeypatch.setattr(adapter_jobs, "RESTS", 60.0)
    with pytest.raises(Unavailable, match="no process"), jobs.trial(asked()):
        raise Unavailable("no process")
    with jobs.trial(asked()) as outcome:
        outcome.append(False)


class Installation:
    """An executor whose packages and processes come when they are let."""

    def __init__(self) -> None:
        self.adapter_jobs = AdapterJobs()
        self.keyring = Keyring((bytes(32),))
        self.has_packages, self.has_process = asyncio.Event(), asyncio.Event()
        self.built = self.began = 0
        locked = Locked("requirements.txt", "r", "l", "identity")
        where = {"module": "adapters.acme", "function": "Acme", "path": "adapters/acme.py", "line": 1, "doc": ""}
        found = DeclaredAdapter(name="acme", declaration=cast("Any", None), **cast("dict[str, Any]", where))
        self.bundle = Bundle(Path("/bundle"), Manifest({}, [], environments={"": locked}, adapters=[found]))
        self.bundles = self.builds = self.sandbox = self
        self.bodies = None

    async def get(self, _version: str) -> Bundle:
        return self.bundle

    @contextlib.contextmanager
    def held(self, _folder: Path | None) -> Iterator[None]:
        yield

    def found(self, _locked: Locked) -> Path | None:
        return Path("/packages") if self.has_packages.is_set() else None

    async def folder(self, _locked: Locked) -> Path:
        self.built += 1
        await self.has_packages.wait()
        return Path("/packages")

    async def run(self, _job: Job, capabilities: Capabilities) -> Outcome:
        await self.has_process.wait()
        await capabilities.begin()
        self.began += 1
        # Longer than a question waits for a process, and shorter than code may take.
        await asyncio.sleep(0.3)
        return cast("Outcome", SimpleNamespace(status="succeeded", result=b'{"events": []}'))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "PATIENCE", 0.1)
    monkeypatch.setattr(adapters, "CODE_TIMEOUT", 1.0)


async def test_questions_that_come_while_packages_are_built_for_long_do_not_wait(quick: None) -> None:
    made = Installation()
    deps = cast("AdapterDeps", made)
    with pytest.raises(Unavailable, match="is being made ready"):
        await ask_adapter(asked(), deps)
    waiting = [asyncio.create_task(ask_adapter(asked(), deps)) for _ in range(5)]
    async with asyncio.timeout(0.05):
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in answers} == {Unavailable}
    await made.adapter_jobs.close()


async def test_packages_are_built_without_a_place_once_for_all_that_ask_and_are_no_fault_of_the_code(quick: None) -> None:
    made = Installation()
    made.has_process.set()
    deps = cast("AdapterDeps", made)
    for _ in range(LOST_IN_A_ROW + 1):
        with pytest.raises(Unavailable, match="is being made ready"):
            await ask_adapter(asked(), deps)
    assert made.built == 1
    async with contextlib.AsyncExitStack() as stack:
        assert await taken(made.adapter_jobs, stack, "one", "events") == adapter_jobs.MOST["events"]
    made.has_packages.set()
    answer = await ask_adapter(asked(), deps)
    assert answer.outcome == "events"
    await made.adapter_jobs.close()


async def test_the_wait_for_a_process_is_no_part_of_the_code_s_time_and_no_fault_of_it(quick: None) -> None:
    made = Installation()
    made.has_packages.set()
    deps = cast("AdapterDeps", made)
    for _ in range(LOST_IN_A_ROW + 1):
        with pytest.raises(Unavailable, match="no process was free"):
            await ask_adapter(asked(), deps)
    assert made.began == 0
    made.has_process.set()
    assert (await ask_adapter(asked(), deps)).outcome == "events"
