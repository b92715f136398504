"""Expressions in their confined processes: what they give, and that none of them hurts anybody but itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.events import domain
from shared.errors import Unavailable
from shared.expressions import process, worker
from shared.expressions.pool import MOST_SLOW, QUICK, SLOW, Expressions, Trouble
from shared.expressions.syntax import pruned, syntax_of
from shared.health import Health
from tests.unit.test_routing import INTEGRATION, WITH, WITHOUT

THIRTY = "[" + ", ".join(["1"] * 30) + "]"
LOOPS = f"{THIRTY}.map(a, {THIRTY}.map(b, {THIRTY}.map(c, size({THIRTY}.map(d, d)))))"
"""Four loops within each other, the innermost hidden from no bound."""
THREE = "event.l.map(a, event.l.map(b, event.l.map(c, [a, b, c])))"
"""Within the bounds, and as long as its lists make it."""
LONG = {"event": {"l": list(range(400))}}
EVENT = {
    "event": {"data": {"action": "opened", "n": 3, "labels": [{"name": "bug"}], "none": None, "a b": 1}, "type": "t"},
    "integration": None,
}


@pytest_asyncio.fixture
async def expressions() -> AsyncIterator[Expressions]:
    made = Expressions(Health("events"))
    await made.open()
    yield made
    await made.close()


async def outcome(expressions: Expressions, org: str, source: str, variables: dict[str, Any] | None = None) -> Any:
    try:
        return await expressions.value(org, source, EVENT if variables is None else variables)
    except (Trouble, Unavailable) as error:
        return error


# -- what they give -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('event.data.action == "opened"', True),
        ("event.data.labels.exists(l, l.name == 'bug')", True),
        ("event.data.n + 1", 4),
        ("event.data.n", 3),
        ("event.data.none", None),
        ("event.data.labels", [{"name": "bug"}]),
        ("has(event.data.missing)", False),
        ('event["data"]["a b"]', 1),
        ("integration == null", True),
        ("size(event.data.action)", 6),
        ("event.type", "t"),
        ("timestamp('2026-01-01T00:00:00Z')", "2026-01-01T00:00:00Z"),
    ],
)
async def test_an_expression_gives_json(expressions: Expressions, source: str, value: Any) -> None:
    assert await expressions.value("acme", source, EVENT) == value


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("event.data.missing == 1", "missing"),
        ("event.data.action.x", "overload"),
        ("event.data.action ==", "parse"),
        ("nobody", "nobody"),
        ("1/0", "division"),
        ("9223372036854775807 + 1", "overflow"),
        ("{1.5: 2}", ""),
        ("event.data.n == 1 ? T{a: 1} : T{b: 2}", ""),
        ('"a".matches("(a{1000}){1000}")', "regex"),
    ],
)
async def test_what_goes_wrong_in_an_expression_is_told_of_it(expressions: Expressions, source: str, said: str) -> None:
    with pytest.raises(Trouble, match=f"(?i){said}"):
        await expressions.value("acme", source, EVENT)


@pytest.mark.parametrize(
    ("filter_", "integration", "passes"),
    [
        ("event.data.ref == 'main' && 'a' in integration.config.sites", INTEGRATION, True),
        ("integration.config.limits.pages > 3", INTEGRATION, False),
        ("event.integration.entity_id == integration.entity_id", INTEGRATION, True),
        ("integration == null", None, True),
        ("integration == null", INTEGRATION, False),
    ],
)
async def test_a_filter_sees_the_integration_of_the_source(
    expressions: Expressions, filter_: str, integration: Any, passes: bool
) -> None:
    assert await expressions.value("acme", filter_, domain.filter_variables(WITH, integration)) is passes


async def test_a_filter_that_wants_an_integration_where_there_is_none_says_so(expressions: Expressions) -> None:
    with pytest.raises(Trouble):
        await expressions.value("acme", "integration.config.x == 1", domain.filter_variables(WITHOUT, None))


async def test_many_at_once_each_have_their_own_answer(expressions: Expressions) -> None:
    asked = [expressions.value(f"org{n % 7}", "event.n * 2 == 2 * n", {"event": {"n": n}, "n": n + n % 2}) for n in range(2000)]
    assert await asyncio.gather(*asked) == [n % 2 == 0 for n in range(2000)]


NAMES = st.sampled_from(["a", "b", "size", "x"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["a", "x"]))
VALUES = st.recursive(LEAVES, lambda some: st.lists(some, max_size=2) | st.dictionaries(NAMES, some, max_size=3), max_leaves=8)
PATHS = st.lists(NAMES, max_size=3).map(lambda names: ".".join(["event", *names]))
SOURCES = st.recursive(
    PATHS | st.sampled_from(["1", "'a'", "integration", "'event.a'", "r'\\'"]),
    lambda one: st.one_of(
        st.builds("{}.exists(event, event.a == 1)".format, one),
        st.builds("{}.map(x, x.a)".format, one),
        st.builds("has({}.a)".format, one),
        st.builds("{} == {}".format, one, one),
        st.builds("{}['a']".format, one),
        st.builds("({}).a".format, one),
        st.builds("[{}, {}]".format, one, one),
        st.builds("size({})".format, one),
        st.builds("{}.size()".format, one),
        st.builds("{} // event.b\n in {}".format, one, one),
        st.builds("({} == 1 ? {} : {})".format, one, one, one),
    ),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(source=SOURCES, event=st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_not_looked_at_need_not_be_there(engine: worker.Engine, source: str, event: dict[str, Any]) -> None:
    variables = {"event": event, "integration": None}
    whole = engine.answer(worker.EVALUATE, source, msgspec.json.encode(variables))
    part = engine.answer(worker.EVALUATE, source, msgspec.json.encode(pruned(variables, syntax_of(source).sees)))
    if whole[0]:
        whole, part = ((is_value, _ordered(msgspec.json.decode(told))) for is_value, told in (whole, part))
    assert part == whole, (source, event)


def _ordered(value: Any) -> Any:
    """Return a value in one order: the library's maps have none, nor has a list that is made of one."""
    if isinstance(value, dict):
        return sorted((name, repr(_ordered(one))) for name, one in value.items())
    return sorted(repr(_ordered(one)) for one in value) if isinstance(value, list) else value


@pytest.fixture(scope="module")
def engine() -> worker.Engine:
    """In this process: what is generated here is small and harmless."""
    return worker.Engine(str(process.engine_path()), longest_value=1 << 20)


# -- hostile ones ---------------------------------------------------------------------------------------------------------


async def test_loops_within_loops_are_refused_before_they_are_tried(expressions: Expressions) -> None:
    for asking in (expressions.check("acme", LOOPS), expressions.value("acme", LOOPS, EVENT)):
        with pytest.raises(Trouble, match="nest deeper"):
            await asking


async def test_a_hundred_thousand_terms_are_refused(expressions: Expressions) -> None:
    for terms in (20_000, 100_000):
        with pytest.raises(Trouble, match="characters"):
            await expressions.check("acme", "+".join(["1"] * terms))


@pytest.mark.parametrize("source", ["+".join(["1"] * 2000), "(" * 33 + "1" + ")" * 33, "!" * 1001 + "true", "[" * 2000, "(?" * 40])
async def test_what_is_too_much_for_a_parser_is_not_parsed(expressions: Expressions, source: str) -> None:
    with pytest.raises(Trouble):
        await expressions.check("acme", source)
    assert expressions._slow.starts == 0


async def test_what_takes_too_long_is_ended_and_told(expressions: Expressions) -> None:
    with pytest.raises(Trouble, match="longer than 1 s"):
        await expressions.value("acme", THREE, LONG)
    assert await outcome(expressions, "acme", "event.l[0] == 0", LONG) is True


async def test_what_takes_all_memory_is_ended_and_told() -> None:
    # A machine that has much else to do may take longer for so much memory than an expression has.
    expressions = Expressions(Health("events"), slow=msgspec.structs.replace(SLOW, seconds=20.0))
    await expressions.open()
    try:
        big = {"event": {"s": "x" * 1_000_000}}
        with pytest.raises(Trouble, match="memory"):
            await expressions.value("acme", f"{THIRTY}.map(a, {THIRTY}.map(b, event.s + event.s))", big)
        assert await outcome(expressions, "acme", "1 == 1") is True
    finally:
        await expressions.close()


async def test_what_crashes_the_library_is_told_and_nobody_else_hears_of_it(crashing: str, expressions: Expressions) -> None:
    others = [expressions.value("others", f"event.data.n == {n}", EVENT) for n in range(200)]
    hostile = [outcome(expressions, "evil", f"{crashing} || {n} == 1") for n in range(8)]
    *said, answers = await asyncio.gather(*hostile, asyncio.gather(*others))
    assert answers == [n == 3 for n in range(200)]
    assert all(isinstance(one, Trouble | Unavailable) for one in said)


@pytest.fixture(params=[signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def crashing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, data: Path) -> str:
    """An expression that ends its process as a bug of the library would: the worker is told to, where it stands for one."""
    begins = "        try:\n            program = self.compiled(source)\n"
    bug = f"        if 'crash' in source: signal.signal({request.param}, signal.SIG_DFL); signal.raise_signal({request.param})\n"
    # Raising takes calls that a crash does not need.
    altered(monkeypatch, data, (begins, bug + begins), ('"gettid",', '"gettid", "tgkill", "rt_sigaction", "getpid",'))
    return "event.data.action == 'crash'"


def altered(monkeypatch: pytest.MonkeyPatch, data: Path, *changes: tuple[str, str]) -> None:
    """Have workers that are started from now on run a changed program."""
    code = Path(worker.__file__).read_text()
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    (data / "worker.py").write_text(code)
    monkeypatch.setattr(worker, "__file__", str(data / "worker.py"))


TOKENS = r"""
event event.l event.l.map(a,a) a 1 -9223372036854775808 9223372036854775807 1e308 18446744073709551615u 'a' b'\xff' r'\' '' ""
null true [ ] ( ) { } . , ? : + - * / % ! && || == < in [1,2] {'a':1} .map(a, .exists(a, .matches( '(a+)+$' size( [0] ['l']
.startsWith( // ` é timestamp(
timestamp('9999-12-31T23:59:59Z') duration('9223372036s') duration( string( int( uint( double( bytes( has( type( dyn(
max(
""".split()  # noqa: SIM905 - a list of them is four times as long
TEXTS = st.lists(st.sampled_from([*TOKENS, "\n", "\0", "\u2028"]), max_size=25).map(" ".join)


@settings(max_examples=40)
@given(sources=st.lists(TEXTS, min_size=20, max_size=20))
async def test_whatever_is_written_has_a_value_or_a_trouble(fuzzed: Expressions, sources: list[str]) -> None:
    answers = await asyncio.gather(*(outcome(fuzzed, "acme", source) for source in sources))
    assert not [one for one in answers if isinstance(one, Unavailable)]
    assert await fuzzed.value("others", "event.data.n == 3", EVENT) is True


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fuzzed() -> AsyncIterator[Expressions]:
    made = Expressions(Health("events"))
    await made.open()
    yield made
    await made.close()


async def test_the_same_expression_is_refused_for_a_while(expressions: Expressions) -> None:
    assert isinstance(await outcome(expressions, "evil", THREE, LONG), Trouble)
    starts = expressions._quick.starts + expressions._slow.starts
    for _ in range(50):
        assert isinstance(await outcome(expressions, "evil", THREE, LONG), Trouble)
    assert expressions._quick.starts + expressions._slow.starts <= starts + 1
    # It is refused for whom it did harm; elsewhere it may be harmless.
    assert await outcome(expressions, "acme", THREE, {"event": {"l": [1]}}) == [[[[1, 1, 1]]]]


async def test_who_takes_long_waits_in_a_line_of_its_own(expressions: Expressions) -> None:
    """Many of them, each different, each within its time: others' answers do not wait for them."""
    middling = {"event": {"l": list(range(14))}}
    hostile = [asyncio.create_task(outcome(expressions, "evil", f"{THREE} == [{n}]", middling)) for n in range(30)]
    await asyncio.wait(hostile, return_when=asyncio.FIRST_COMPLETED)
    starts, beside = expressions._quick.starts, 0
    for n in range(5):
        asked = (expressions.value("others", f"event.data.n == {n}", EVENT) for n in range(100))
        assert sum(await asyncio.gather(*asked)) == 1
        beside += not all(one.done() for one in hostile)
    assert beside
    # On a machine that has much else to do one that is quick may take its time; thirty who are not would each end the process.
    assert expressions._quick.starts <= starts + 1
    answers = await asyncio.gather(*hostile)
    assert all(one is False for one in answers), answers


async def test_an_organization_holds_no_more_than_its_share_of_what_waits(expressions: Expressions) -> None:
    middling = {"event": {"l": list(range(14))}}
    assert await outcome(expressions, "evil", f"{THREE} == [0]", middling) is False
    answers = await asyncio.gather(*(outcome(expressions, "evil", f"{THREE} == [{n}]", middling) for n in range(MOST_SLOW + 10)))
    assert sum(isinstance(one, Unavailable) for one in answers) >= 8
    assert not any(isinstance(one, Trouble) for one in answers)


async def test_a_value_and_what_is_looked_at_have_bounds(expressions: Expressions) -> None:
    with pytest.raises(Trouble, match="bytes of JSON"):
        await expressions.value("acme", "[event.s, event.s]", {"event": {"s": "x" * 40_000}})
    with pytest.raises(Trouble, match="larger than 2 MiB"):
        await expressions.value("acme", "event.s == ''", {"event": {"s": "x" * (2 << 20)}})
    # What is not looked at does not count.
    assert await expressions.value("acme", "event.n == 1", {"event": {"n": 1, "s": "x" * (30 << 20)}}) is True


# -- the process ----------------------------------------------------------------------------------------------------------


async def test_a_killed_process_is_started_again_and_nothing_is_lost(expressions: Expressions) -> None:
    for _ in range(3):
        assert expressions._quick.pid is not None
        asked = [asyncio.ensure_future(expressions.value("acme", f"event.data.n == {n}", EVENT)) for n in range(500)]
        await asyncio.sleep(0)
        os.kill(expressions._quick.pid, signal.SIGKILL)
        assert sum(await asyncio.gather(*asked)) == 1


async def test_a_stopped_process_is_given_up() -> None:
    expressions = Expressions(Health("events"), quick=msgspec.structs.replace(QUICK, wall=0.5))
    await expressions.open()
    assert expressions._quick.pid is not None
    os.kill(expressions._quick.pid, signal.SIGSTOP)
    assert await expressions.value("acme", "event.data.n == 3", EVENT) is True
    await expressions.close()


async def test_a_process_that_cannot_be_started_is_unavailable_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "engine_path", lambda: Path("/nowhere/cel.so"))
    health = Health("events")
    expressions = Expressions(health)
    await expressions.open()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await expressions.value("acme", "event.data.n == 3", EVENT)
    assert "nowhere" in (health.problem("expressions") or "")
    monkeypatch.undo()
    await asyncio.sleep(1.1)
    assert await expressions.value("acme", "event.data.n == 3", EVENT) is True
    assert health.problem("expressions") is None
    await expressions.close()


async def test_the_process_ends_with_the_service_however_that_ends() -> None:
    code = (
        "import asyncio, sys\n"
        "from shared.expressions.process import started\n"
        "async def main():\n"
        "    print((await started(seconds=1, memory=1 << 27)).pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'sdk'}"}, stdout=subprocess.PIPE
    )
    assert service.stdout is not None
    pid = int(await service.stdout.readline())
    pidfd = os.pidfd_open(pid)
    service.kill()
    await service.wait()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    async with asyncio.timeout(60):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


def test_all_of_it_works_on_the_loop_of_the_services() -> None:
    async def main() -> None:
        expressions = Expressions(Health("events"))
        await expressions.open()
        assert await expressions.value("acme", "event.data.n == 3", EVENT) is True
        with pytest.raises(Trouble, match="longer than 1 s"):
            await expressions.value("evil", THREE, LONG)
        os.kill(expressions._quick.pid or 0, signal.SIGKILL)
        assert await expressions.value("acme", "event.data.n == 3", EVENT) is True
        await expressions.check("acme", "1 == 1")
        pids = expressions.state()["pids"]
        await expressions.close()
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    # In a thread: this one has the loop of the tests.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(uvloop.run, main()).result(60)


async def test_closing_leaves_no_process(expressions: Expressions) -> None:
    await expressions.check("acme", "1 == 1")
    pids = expressions.state()["pids"]
    assert len(pids) == 2
    await expressions.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    with pytest.raises(Unavailable):
        await expressions.value("acme", "1 == 1", EVENT)


async def test_a_process_that_has_grown_makes_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    altered(monkeypatch, data, ("_TIRED = 64 << 20", "_TIRED = -1 << 30"))
    expressions = Expressions(Health("events"))
    await expressions.open()
    for _ in range(5):
        asked = (expressions.value("acme", f"event.data.n == {n}", EVENT) for n in range(20))
        assert sum(await asyncio.gather(*asked)) == 1
    assert expressions._quick.starts > 3
    await expressions.close()


TRIED = """
import os, socket, sys, json
sys.argv[1] = json.dumps(setting)
null, sizes = os.open(os.devnull, os.O_RDWR), os.open("/proc/self/statm", os.O_RDONLY)
walls = worker.confine(setting, null, sizes)
tries = {
    "file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "folder": lambda: os.listdir("/"),
    "write": lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY),
    "socket": lambda: socket.socket(),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "pipe": lambda: os.pipe(),
    "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "user": lambda: os.setuid(0),
    "memory": lambda: bytes(1 << 30),
}
held = []
for name, attempt in tries.items():
    try:
        attempt()
    except (OSError, MemoryError):
        held.append(name)
worker._write(json.dumps({"walls": walls, "held": held, "left": sorted(set(tries) - set(held))}).encode())
"""


async def test_the_process_can_reach_nothing() -> None:
    ours, theirs = socket.socketpair()
    setting = {"uid": process.UID, "parent": os.getpid(), "memory": 64 << 20, "nice": 0}
    folder = str(Path(worker.__file__).parent)
    code = f"import sys; sys.path += {[*process._paths(), folder]!r}; setting = {setting!r}; import worker\n{TRIED}"
    child = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", code, "{}", stdin=theirs)
    theirs.close()
    await child.wait()
    told = json.loads(ours.recv(65536)[4:])
    ours.close()
    assert told["left"] == []
    assert {"landlock", "limits", "seccomp"} <= set(told["walls"])
    assert ("user" in told["walls"]) == (os.geteuid() == 0)


async def test_the_process_has_every_wall_no_environment_and_few_descriptors(
    expressions: Expressions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = expressions._quick.pid
    if os.geteuid() == 0:
        assert set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")) == {b""}
        assert len(os.listdir(f"/proc/{pid}/fd")) <= 6
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    bounded = {line[:26].strip(): line[26:47].strip() for line in limits}
    assert [bounded[f"Max {what}"] for what in ("open files", "processes", "file size", "core file size")] == ["0"] * 4
    assert int(bounded["Max address space"]) < 256 << 20


async def test_the_slow_process_ends_when_nothing_comes() -> None:
    expressions = Expressions(Health("events"), slow=msgspec.structs.replace(SLOW, idle=0.1))
    await expressions.open()
    await expressions.check("acme", "1 == 1")
    pid = expressions._slow.pid
    pidfd = os.pidfd_open(pid or 0)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    async with asyncio.timeout(60):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
    await expressions.check("acme", "2 == 2")
    await expressions.close()
