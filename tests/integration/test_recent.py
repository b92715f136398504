"""A run that has just ended is told from memory, and as the stream and the rows tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.executor.runs import recent
from services.executor.runs.claim import fold
from services.executor.runs.looks import Looks
from services.executor.runs.recent import Recent
from services.executor.runs.run_state import RunState
from services.executor.runs.views import run_view
from services.executor.store import ExecutorStore
from shared.db import open_engine
from shared.errors import NotFound
from shared.messages import RunCancelRequested
from shared.questions.runs import GetRun, ListAttempts
from tests.integration.test_runs import started
from tests.support.inside import eventually
from tests.support.river import river
from tests.support.servers import Place

WORKFLOWS = b"""
import time
from pathlib import Path
from millrace import step, workflow

@workflow
def adds(a: int, b: int) -> dict:
    return {"sum": step.sync("add", int.__add__, a, b), "large": "x" * 100}

@workflow
def fails() -> None:
    raise LookupError("mine")

@workflow
def hold(folder: str) -> None:
    (Path(folder) / "started").touch()
    time.sleep(60)
"""


def plain(what: Any) -> Any:
    """As JSON, read again."""
    return msgspec.json.decode(msgspec.json.encode(what))


async def test_what_is_kept_of_an_end_is_what_the_stream_and_the_rows_tell(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, RunState] = {}
    keep = Recent.keep

    def noting(self: Recent, state: RunState) -> None:
        kept[state.id] = state
        keep(self, state)

    monkeypatch.setattr(Recent, "keep", noting)
    engine = open_engine(place.database_url("executor"), service="executor")
    async with river(place, data) as outside:
        await outside.put_file("flows.py", WORKFLOWS)
        runs = [await outside.request("adds", input={"a": 1, "b": 2}), await outside.request("fails")]
        held = await outside.request("hold", input={"folder": str(shared_folder)})
        await started(shared_folder)
        folded = await fold(outside.bus, held)
        assert folded is not None
        asked = outside.bus.seal(RunCancelRequested(run=held, requested_by="test"), org="default")
        await outside.bus.append(asked, folded.state.last_seq)
        for run, status in zip([*runs, held], ("succeeded", "failed", "cancelled"), strict=True):
            shown = await outside.run(run, status)
            assert plain(shown) == plain(run_view(kept[run]))
            folded = await fold(outside.bus, run)
            assert folded is not None
            assert plain(kept[run]) == plain(folded.state)

            async def row(run: str = run) -> RunState | None:
                state = await ExecutorStore(engine).run("default", run)
                return state if state is not None and state.ended else None

            stored = await eventually(row)
            assert plain(shown) == plain(run_view(stored))
    await engine.dispose()


async def test_an_end_of_a_moment_ago_is_told_without_asking_anybody_and_to_its_organization_only(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with river(place, data) as outside:
        await outside.put_file("flows.py", WORKFLOWS)
        run = await outside.request("adds", input={"a": 1, "b": 2})
        shown = await outside.run(run, "succeeded")
        failed = await outside.request("fails")
        shown_of_failed = await outside.run(failed, "failed")

        async def asked(*_: Any) -> None:
            raise AssertionError("nobody need be asked")

        with monkeypatch.context() as patched:
            patched.setattr(Looks, "state", asked)
            patched.setattr(ExecutorStore, "run", asked)
            assert await outside.bus.ask(GetRun(org="default", id=run)) == shown
            assert len((await outside.bus.ask(ListAttempts(org="default", id=run))).items) == 1
            # Whether another run resumed it is not kept with it: that is looked up, its state is not.
            assert await outside.bus.ask(GetRun(org="default", id=failed)) == shown_of_failed
        with pytest.raises(NotFound):
            await outside.bus.ask(GetRun(org="other", id=run))


async def test_so_many_are_kept_and_none_that_is_large_or_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST", 2)
    kept = Recent(lambda *_: False)
    for number in range(3):
        kept.keep(state(str(number), "succeeded"))
    kept.keep(state("large", "succeeded", result="x" * recent.LARGEST))
    kept.keep(state("on", "running"))
    assert [name for name in ("0", "1", "2", "large", "on") if kept.of("default", name)] == ["1", "2"]


async def test_what_is_kept_is_forgotten_in_time_and_told_to_nobody_once_its_organization_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone: set[str] = set()
    kept = Recent(lambda org, moment: org in gone and moment.year == 2026)
    kept.keep(state("1", "succeeded"))
    assert kept.of("default", "1") is not None
    gone.add("default")
    assert kept.of("default", "1") is None
    gone.clear()
    monkeypatch.setattr(recent, "KEPT_FOR", 0.0)
    kept.keep(state("2", "succeeded"))

    async def is_forgotten() -> bool:
        return kept.of("default", "2") is None

    await eventually(is_forgotten)


def state(run: str, status: str, **told: Any) -> RunState:
    return RunState(
        id=run,
        org="default",
        workflow="w",
        version="v",
        status=status,
        timeout=1.0,
        priority="normal",
        requested_by="t",
        requested_at="2026-01-01T00:00:00Z",
        correlation_id="c",
        causation_id=None,
        last_seq=1,
        **told,
    )
