"""While one run misbehaves the others go on, with their right results."""

import asyncio
import os
import textwrap

import msgspec
import pytest

from bench.neighbours import KINDS as MISBEHAVIOURS
from services.executor.sandbox.process import ChildLimits
from services.executor.sandbox.ration import Ration
from tests.support.sandbox import GATED, UID, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")
NEIGHBOUR = "import time\n@workflow\ndef main(n: int):\n    time.sleep(0.01)\n    return [n, 'done']"
TURNS = 25


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
@pytest.mark.parametrize("kind", GATED)
async def test_neighbours_of_a_run_that_misbehaves_succeed(kind: str, misbehaviour: str) -> None:
    async with started_bench(kind=kind, size=2, limits=ChildLimits(memory_mb=256, processes=40)) as bench:
        bad = bench.job(
            "import os, signal, threading, time\n@workflow\ndef main():\n"
            + textwrap.indent(textwrap.dedent(MISBEHAVIOURS[misbehaviour]), "    "),
            timeout=60,
        )
        ended: list[str] = []

        async def misbehave() -> None:
            while True:
                ended.append((await bench.children.run(bad, Recorded())).status)

        going = asyncio.create_task(misbehave())
        job = bench.job(NEIGHBOUR)
        try:
            for number in range(TURNS):
                one, other = await asyncio.gather(
                    *(bench.children.run(msgspec.structs.replace(job, input={"n": n}), Recorded()) for n in (number, -number))
                )
                assert [value(one), value(other)] == [[number, "done"], [-number, "done"]]
            assert not going.done()
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
        assert "succeeded" not in ended


async def send(ration: Ration, frames: int) -> float:
    """Send so many frames as a child does: stand still as long as the ration says; return for how many seconds that was."""
    stood = 0.0
    for _ in range(frames):
        if (pause := ration.spend(150)) is not None:
            await asyncio.sleep(pause)
            stood += pause
    return stood


async def test_who_talks_without_end_waits_and_who_says_a_little_does_not() -> None:
    loop = asyncio.get_running_loop()
    little, much = Ration(), Ration()
    assert await send(little, 1000) < 0.5
    began = loop.time()
    await send(much, 10_000)
    assert loop.time() - began > 0.5  # what takes 0.23 s of the supervisor is spread over as long as ten times that, less the first


async def test_others_have_their_turn_while_one_child_floods() -> None:
    ration = Ration()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going = asyncio.create_task(other())
    await send(ration, 2000)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    assert turns >= 50


async def test_modes_and_times_of_files_of_the_same_user_cannot_be_changed_where_landlock_alone_guards_them() -> None:
    async with started_bench("B") as bench:
        mine = bench.folder / "mine"
        mine.write_text("of the user that runs have, as all files are where the executor is not root")
        if UID is not None:
            os.chown(mine, UID, UID)
        os.utime(mine, (1, 1))
        text = f"""
            import os
            @workflow
            def main() -> list:
                found = []
                mine = {str(mine)!r}
                for attempt in (lambda: os.chmod(mine, 0), lambda: os.utime(mine), lambda: os.chown(mine, -1, -1)):
                    try:
                        attempt()
                    except PermissionError:
                        continue
                    found.append("done")
                return found
        """
        assert value(await bench.run(text)) == []
        assert (mine.stat().st_mode & 0o777, mine.stat().st_mtime) == (0o644, 1)
