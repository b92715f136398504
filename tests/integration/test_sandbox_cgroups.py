"""What control groups hold a run to, and where they can be made. Each test says what it needs of the machine."""

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.executor.sandbox import memory
from services.executor.sandbox.cgroups import Cgroup, Cgroups
from services.executor.sandbox.hierarchies import Control, Mounted, Share, furnish, open_for, own_hierarchies
from services.executor.sandbox.interface import Outcome
from services.executor.sandbox.process import ChildLimits
from tests.support.sandbox import FORKING, KINDS, OF_A, UID, Bench, reachable_interpreter, started_bench, value

SHARE = Share(memory=64 << 20, processes=16, cores=0.5)
pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


def holds(*names: str) -> bool:
    groups = Cgroups(SHARE)
    try:
        return set(names) <= set(groups.held)
    finally:
        groups.close()


def needs(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not holds(*names), reason=f"control groups for {' and '.join(names)} cannot be made here")


@pytest.fixture
def group() -> Iterator[Cgroup]:
    groups = Cgroups(SHARE)
    try:
        yield groups.take()
    finally:
        groups.close()


def test_what_is_not_held_is_told_with_a_reason() -> None:
    groups = Cgroups(SHARE)
    try:
        assert set(groups.held) | groups.refused.keys() == {"memory", "pids", "cpu"}
        assert not set(groups.held) & groups.refused.keys()
        assert all(groups.refused.values())
    finally:
        groups.close()


def test_without_any_hierarchy_nothing_is_held_and_all_is_told() -> None:
    groups = Cgroups(SHARE, [])
    assert (groups.held, set(groups.refused)) == ((), {"memory", "pids", "cpu"})
    groups.close()


def test_a_hierarchy_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    missing = Mounted(tmp_path, tmp_path / "not there", frozenset({"pids"}), is_v2=False)
    groups = Cgroups(SHARE, [missing])
    assert groups.held == ()
    assert "cannot be changed" in groups.refused["pids"]
    groups.close()


@needs("memory")
def test_groups_of_a_supervisor_that_is_gone_are_cleared_and_those_of_one_that_lives_are_not() -> None:
    living, gone = Cgroups(SHARE), Cgroups(SHARE)
    folders = {one: [tree.folder for tree in one._trees] for one in (living, gone)}
    while gone._locks:
        os.close(gone._locks.pop())  # as the kernel does when a process dies
    other = Cgroups(SHARE)
    try:
        assert not any(folder.exists() for folder in folders[gone])
        assert all(folder.exists() for folder in folders[living])
    finally:
        living.close()
        other.close()
    assert not any(folder.exists() for folder in folders[living])


def process(script: str, group: Cgroup | None = None) -> "subprocess.Popen[bytes]":
    """A process, in a group from its first line on."""
    doors = [] if group is None else list(group.doors)
    if group is not None:
        group.renew()
        script = f"import os\nfor door in {doors}: os.write(door, b'0')\n{script}"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=doors
    )


@needs("pids")
def test_more_processes_than_a_group_may_have_are_refused_and_counted(group: Cgroup) -> None:
    one = process(
        "import os, sys\nsys.stdin.read(1)\ntry:\n while True:\n  if os.fork() == 0: sys.stdin.read()\nexcept OSError: print('no')",
        group,
    )
    try:
        assert not group.has_refused()
        assert one.stdin is not None
        assert one.stdout is not None
        one.stdin.write(b"x")
        one.stdin.flush()
        assert one.stdout.readline() == b"no\n"
        assert group.has_refused()
    finally:
        emptied(group, one)
    assert group.is_empty()
    fresh = process("import sys; print(0, flush=True); sys.stdin.read()", group)
    assert fresh.stdout is not None
    assert fresh.stdout.readline()
    assert not group.is_empty()
    assert not group.has_refused()  # what the last one did is not the next one's
    emptied(group, fresh)


def emptied(group: Cgroup, one: "subprocess.Popen[bytes]") -> None:
    """End all that is in a group that holds nothing but one process of the test's and its descendants."""
    while members := set((group.folders["pids"] / "cgroup.procs").read_text().split()):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        one.poll()
    one.wait()
    for pipe in (one.stdin, one.stdout):
        if pipe is not None:
            pipe.close()


@needs("pids")
def test_a_group_that_was_given_back_in_doubt_is_used_again_once_it_is_empty() -> None:
    groups = Cgroups(SHARE)
    try:
        first = groups.take()
        one = process("import sys; print(0, flush=True); sys.stdin.read()", first)
        assert one.stdout is not None
        assert one.stdout.readline()
        groups.give_in_doubt(first)
        assert groups.take() is not first
        one.communicate()
        assert groups.take() is first
        groups.give(first)
        assert groups.take() is first
    finally:
        groups.close()


@needs("pids")
def test_a_group_that_could_not_be_made_or_entered_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    groups = Cgroups(SHARE)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refused)
            with pytest.raises(OSError, match="Too many open files"):
                groups.take()
        first = groups.take()
        groups.give(first)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pread", refused)
            with pytest.raises(OSError, match="Too many open files"):
                groups.take()
        assert groups.take() is first
    finally:
        groups.close()


@needs("cpu")
def test_two_busy_loops_of_one_group_get_its_cores_and_no_more(group: Cgroup) -> None:
    script = """
import os, sys, time
other = os.fork()
sys.stdin.read(1)
end = time.monotonic() + 1
while time.monotonic() < end: pass
if other == 0: os._exit(0)
os.wait()
print(sum(os.times()[:4]))
"""
    one = process(script, group)
    said, _ = one.communicate(b"xx")
    assert float(said) < 0.5 * 1.5 + 0.2  # half a core for a second, a period more to begin with, and starting


@needs("cpu")
def test_a_run_that_goes_on_for_long_weighs_less_and_the_next_in_its_group_does_not(group: Cgroup) -> None:
    weight = next(file for name in ("cpu.weight", "cpu.shares") if (file := group.folders["cpu"] / name).exists())
    young = int(weight.read_text())
    group.grow_old()
    assert int(weight.read_text()) * 4 == young
    group.renew()
    assert int(weight.read_text()) == young


def unified() -> Mounted | None:
    return next((one for one in own_hierarchies() if one.is_v2), None)


@pytest.fixture
def v2() -> Iterator[tuple[Mounted, dict[str, Control]]]:
    """Version 2 with any controller that is not bound to version 1: what it is does not matter to where groups can be."""
    where = unified()
    if where is None or where.own != where.top or not os.access(where.top, os.W_OK):
        pytest.skip("the root of a cgroup2 hierarchy cannot be changed here")
    names = (where.top / "cgroup.controllers").read_text().split()
    if not names or (where.top / "cgroup.subtree_control").read_text().split():
        pytest.skip("no controller of version 2 is free to try with")
    try:
        yield where, {names[0]: Control({})}
    finally:
        (where.top / "cgroup.subtree_control").write_text(f"-{names[0]}")


def test_version_2_lets_members_into_groups_and_none_beside_them(v2: tuple[Mounted, dict[str, Control]]) -> None:
    where, wanted = v2
    folder = where.top / f"mr-test-{os.getpid()}"
    folder.mkdir()
    assert open_for(where.top, wanted, is_v2=True) == (wanted, {})
    tree = furnish(folder, wanted, is_v2=True)
    group = Cgroup(dict.fromkeys(wanted, tree.make("0")), {}, wanted)
    one = process("import sys; print(0, flush=True); sys.stdin.read()", group)
    try:
        assert one.stdout is not None
        assert one.stdout.readline()
        assert (folder / "0" / "cgroup.procs").read_text().split() == [str(one.pid)]
        with pytest.raises(OSError, match="busy"):
            (folder / "cgroup.procs").write_text(str(one.pid))
    finally:
        one.communicate()
        group.close()
        for name in ("0", "."):
            (folder / name).rmdir() if name != "." else folder.rmdir()


def test_version_2_cannot_give_on_where_a_process_sits_and_the_way_out_is_told(v2: tuple[Mounted, dict[str, Control]]) -> None:
    where, wanted = v2
    assert open_for(where.top, wanted, is_v2=True) == (wanted, {})
    own = where.top / f"mr-test-{os.getpid()}"
    own.mkdir()
    one = process("import sys; sys.stdin.read()")
    try:
        (own / "cgroup.procs").write_text(str(one.pid))
        given, refused = open_for(own, wanted, is_v2=True)
        assert given == {}
        assert all("DelegateSubgroup" in told and "busy" in told for told in refused.values())
    finally:
        one.communicate()
        own.rmdir()


FULL = {
    "processes": """
        import os, time
        @workflow
        def main():
            while True:
                if os.fork() == 0: time.sleep(60)
    """,
    "threads": """
        import threading, time
        @workflow
        def main():
            while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    """,
}
GOES_ON = "import time\n@workflow\ndef main():\n    time.sleep(0.02)\n    return 1"


async def beside(bench: Bench, text: str) -> Outcome:
    """Run a neighbour again and again until a run of `text` ends; each must succeed. Answers that run's end."""
    bad = asyncio.create_task(bench.run(text))
    while not bad.done():
        assert value(await bench.run(GOES_ON)) == 1
    return bad.result()


@pytest.mark.parametrize(("kind", "what"), [(kind, what) for kind in KINDS for what in FULL if (kind, what) != ("B", "processes")])
@needs("pids")
async def test_who_starts_too_many_is_told_so_and_neighbours_go_on(kind: str, what: str) -> None:
    # Each thread takes up to 72 MB of addresses for stack and heap.
    async with started_bench(kind=kind, size=2, limits=ChildLimits(processes=40, memory_mb=8192)) as bench:
        assert "pids" in bench.children.held
        outcome = await beside(bench, FULL[what])
    assert (outcome.status, outcome.reason) == ("failed", "limit")
    assert outcome.error is not None
    assert "as many processes and threads at a time as a run may" in outcome.error.message


@pytest.mark.parametrize("kind", OF_A)
async def test_without_a_group_a_fork_bomb_is_bounded_and_told_as_well(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EVERY", 0.02)
    text = """
        import os, time
        @workflow
        def main():
            try:
                while True:
                    if os.fork() == 0: time.sleep(60)
            except OSError:
                time.sleep(0.3)
                raise
    """
    async with started_bench(kind=kind, size=2, limits=ChildLimits(processes=40), cgroups=False) as bench:
        assert bench.children.held == ()
        outcome = await beside(bench, text)
    assert (outcome.status, outcome.reason) == ("failed", "limit")


async def test_a_run_that_came_nowhere_near_its_bounds_is_not_said_to_be_full() -> None:
    async with started_bench(limits=ChildLimits(processes=40)) as bench:
        outcome = await bench.run("@workflow\ndef main(): raise RuntimeError('mine')")
    assert outcome.error is not None
    assert (outcome.reason, outcome.error.message) == ("error", "mine")


@pytest.mark.parametrize("kind", FORKING)
@needs("cpu")
async def test_a_run_gets_no_more_cpu_than_its_cores_however_many_it_starts(kind: str) -> None:
    text = """
        import os, time
        @workflow
        def main():
            started, began = os.getpid(), time.monotonic()
            for _ in range(3):
                if os.fork() == 0: break
            while time.monotonic() < began + 1: pass
            if os.getpid() != started: os._exit(0)
            while True:
                try: os.wait()
                except OSError: break
            return sum(os.times()[:4]) / (time.monotonic() - began)
    """
    async with started_bench(kind=kind, limits=ChildLimits(cores=0.5)) as bench:
        cores = value(await bench.run(text))
    assert isinstance(cores, float)
    assert cores < 0.9
