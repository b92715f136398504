"""What authors' code can do to a sandbox, by what goes wrong."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.executor.sandbox import attempt
from services.executor.sandbox.children import Children
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Cancellation, Outcome
from tests.support.inside import eventually
from tests.support.programs import output
from tests.support.sandbox import FORKING, KINDS, UID, Bench, Recorded, reachable_interpreter, started_bench, value

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


starts_processes = pytest.mark.parametrize("bench", FORKING, indirect=True)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "GRACE", 0.5)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_coroutine_and_a_plain_function_answer_alike(bench: Bench) -> None:
    for word in ("async def", "def"):
        outcome = await bench.run(f"@workflow\n{word} main(n: int, to: str = 'you'):\n    return [n + 1, to]", n=1)
        assert value(outcome) == [2, "you"]
        assert outcome.reason is None
        assert outcome.usage.max_rss_mb > 5
        assert outcome.duration_ms < 60_000


async def test_what_a_run_uses_of_the_cores_is_known_while_it_goes_on(bench: Bench) -> None:
    body = """
        import time
        @workflow
        def main(seconds: float):
            while time.process_time() < seconds:
                pass
    """
    before = bench.children.cpu_seconds()
    going_on = asyncio.create_task(bench.run(body, seconds=1.5))

    async def seen() -> bool:
        return bench.children.cpu_seconds() - before > 0.2 and not going_on.done()

    await eventually(seen)
    outcome = await going_on
    assert outcome.usage.cpu_ms > 1000
    assert bench.children.cpu_seconds() - before == pytest.approx(outcome.usage.cpu_ms / 1000, abs=0.01)


async def test_a_run_cannot_lower_its_peak_memory_by_its_name(bench: Bench) -> None:
    body = """
        import ctypes
        @workflow
        def main():
            ctypes.CDLL(None).prctl(15, b"VmHWM: 0 kB")
            return open("/proc/self/comm").read()
    """
    outcome = await bench.run(body)
    assert value(outcome) == "VmHWM: 0 kB\n"
    assert outcome.usage.max_rss_mb > 5


async def test_an_event_loop_needs_nothing_that_the_kernel_counts_over_all_runs(bench: Bench) -> None:
    body = """
        import asyncio, os, socket
        @workflow
        async def main():
            ours, theirs = socket.socketpair()
            reader, _ = await asyncio.open_connection(sock=ours)
            theirs.sendall(b"word\\n")
            word = await reader.readline()
            kinds = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(256) if os.path.lexists(f"/proc/self/fd/{fd}")]
            return [word.decode(), [kind for kind in kinds if "eventpoll" in kind or "inotify" in kind]]
    """
    assert value(await bench.run(body)) == ["word\n", []]


async def test_input_that_does_not_fit_fails_by_path(bench: Bench) -> None:
    outcome = await bench.run("@workflow\ndef main(n: list[int]): pass", n=[1, "x"], m=2)
    assert outcome.error is not None
    assert (outcome.status, outcome.reason, outcome.error.type) == ("failed", "error", "InputError")
    assert "input.n.1: should be an integer, not 'x'" in outcome.error.message
    assert "input.m: is not a known name" in outcome.error.message


@pytest.mark.usefixtures("short_grace")
async def test_a_loop_that_ignores_sigterm_is_killed_in_time(bench: Bench) -> None:
    body = """
        import signal
        @workflow
        def main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True: pass
    """
    began = time.monotonic()
    outcome = await bench.run(body, timeout=0.3)
    assert (outcome.status, outcome.reason) == ("timed_out", "timeout")
    assert 0.7 < time.monotonic() - began < 30
    assert outcome.usage.cpu_ms > 0  # of 800 ms; a busy machine gives it little


@pytest.mark.parametrize(
    "body",
    [
        "async def main():\n    try: log.info('up'); await asyncio.sleep(60)\n    finally: log.info('cleaned')",
        "def main():\n    try: log.info('up'); time.sleep(60)\n    finally: log.info('cleaned')",
        "async def main():\n    try: log.info('up'); time.sleep(60)\n    finally: log.info('cleaned')",
    ],
    ids=["coroutine", "function", "coroutine-that-blocks"],
)
async def test_a_timeout_lets_finally_run(bench: Bench, body: str) -> None:
    async def reached() -> tuple[Outcome, list[str]] | None:
        """Run it again where its time was over before the author's code was there."""
        into = Recorded()
        ended = await bench.run(f"import asyncio, time\n@workflow\n{body}", into, timeout=0.3)
        events = [event for _, event, _ in into.logs]
        return (ended, events) if "up" in events else None

    found = await eventually(reached)
    assert isinstance(found, tuple)
    outcome, events = found
    assert (outcome.status, outcome.reason) == ("timed_out", "timeout")
    assert outcome.error is not None
    assert 'File "flows/one.py", line 5, in main' in outcome.error.traceback
    assert events == ["up", "cleaned"]


async def test_a_result_after_the_timeout_does_not_count(bench: Bench) -> None:
    body = """
        import time
        @workflow
        def main():
            try: time.sleep(60)
            except BaseException: return "too late"
    """
    outcome = await bench.run(body, timeout=0.3)
    assert (outcome.status, outcome.result) == ("timed_out", None)


async def test_cancelling_by_event_ends_as_cancelled(bench: Bench) -> None:
    cancel = Cancellation()
    into = Recorded()
    job = bench.job("import asyncio\n@workflow\nasync def main():\n    log.info('up')\n    await asyncio.sleep(60)")
    running = asyncio.create_task(bench.children.run(job, into, cancel=cancel))
    await into.logged.wait()
    cancel.set()
    outcome = await running
    assert (outcome.status, outcome.reason, outcome.error) == ("cancelled", None, None)


@starts_processes
async def test_cancelling_the_task_kills_the_tree_first(bench: Bench) -> None:
    body = """
        import os, signal, subprocess, time
        @workflow
        def main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            one = subprocess.Popen(["sleep", "60"])
            other = subprocess.Popen(["sleep", "60"], start_new_session=True)
            log.info("up")
            time.sleep(60)
    """
    into = Recorded()
    running = asyncio.create_task(bench.children.run(bench.job(body), into))
    await into.logged.wait()
    pids = bench.tree
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(alive(pid) for pid in pids)


async def test_a_crash_names_the_signal(bench: Bench) -> None:
    outcome = await bench.run("import ctypes\n@workflow\ndef main(): ctypes.string_at(0)")
    assert outcome.error is not None
    assert (outcome.status, outcome.reason) == ("crashed", "error")
    assert "SIGSEGV" in outcome.error.message


async def test_an_exit_without_a_result_is_a_crash(bench: Bench) -> None:
    outcome = await bench.run("import os\n@workflow\ndef main(): print('bye', flush=True); os._exit(3)")
    assert outcome.error is not None
    assert outcome.status == "crashed"
    assert "code 3" in outcome.error.message


async def test_a_closed_socket_is_a_crash(bench: Bench) -> None:
    outcome = await bench.run("import os, time\n@workflow\ndef main(): os.close(3); time.sleep(60)")
    assert outcome.error is not None
    assert outcome.status == "crashed"
    assert "closed its control socket" in outcome.error.message


async def test_output_past_the_limit_is_cut_and_said_once(bench: Bench) -> None:
    into = Recorded()
    assert value(await bench.run("@workflow\ndef main():\n    for _ in range(50_000): print('x' * 99)", into)) is None
    text = into.texts["stdout"]
    assert text.count("output is cut here") == 1
    assert len(text) < (1 << 20) + 200


async def test_a_flood_of_output_ends_the_run(bench: Bench) -> None:
    outcome = await bench.run("import os\n@workflow\ndef main():\n    while True: os.write(1, bytes(65536))")
    assert (outcome.status, outcome.reason) == ("failed", "limit")


async def test_printed_bytes_become_text_in_whole_lines(bench: Bench) -> None:
    into = Recorded()
    body = """
        import os, sys
        @workflow
        def main():
            os.write(1, b"caf\\xc3"); os.write(1, b"\\xa9 \\xff\\x00\\n")
            print("half a pair \\ud800")
            print("last words", file=sys.stderr, end="")
    """
    assert value(await bench.run(body, into)) is None
    assert into.texts == {"stdout": "café \ufffd\ufffd\nhalf a pair \\ud800\n", "stderr": "last words"}


@starts_processes
async def test_a_forked_process_has_no_say(bench: Bench) -> None:
    text = """
        import os
        @workflow
        def main():
            pid = os.fork()
            if pid == 0:
                log.info("child")
                return "child"
            os.waitpid(pid, 0)
            return "parent"
    """
    into = Recorded()
    assert value(await bench.run(text, into)) == "parent"
    assert into.logs == []


async def test_the_environment_holds_nothing_of_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_KEYS", "secret")
    await bench.children.close()  # that zygote was started before the variable was set
    await bench.children.start()
    text = """
        import importlib.util, os, sys
        @workflow
        def main():
            kinds = [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in (0, 1, 2, 3)]
            return {
                "environ": dict(os.environ), "cwd": os.getcwd(), "kinds": kinds,
                "ours": [n for n in ("services", "shared", "msgspec", "pytest") if importlib.util.find_spec(n)],
                "cli": importlib.util.find_spec("millrace.cli") is not None, "stdin": sys.stdin.read(),
                "fds": len(os.listdir("/proc/self/fd")),
            }
    """
    found = value(await bench.run(text))
    assert isinstance(found, dict)
    scratch = found["environ"].pop("TMPDIR", None)
    assert (scratch is None) == (bench.children.tier == "B")
    assert found["environ"].pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"
    # A template's children know their way out before there is a job; others are told with the job, and this one has none.
    proxies = {found["environ"].pop(name) for name in list(found["environ"]) if name.lower().endswith("_proxy")}
    assert proxies in (set(), {"", "http://127.0.0.1:3128"})
    assert found["environ"] == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    assert found["cwd"] == (scratch or found["cwd"])
    assert found["kinds"] == ["/dev/null", "pipe", "pipe", "socket"]
    assert (found["ours"], found["cli"], found["stdin"]) == ([], False, "")
    assert found["fds"] <= 8  # the four, the event loop's three, and the listing itself


@pytest.mark.skipif(UID is None, reason="only root can drop to another user")
async def test_rights_are_gone_before_the_author_runs(bench: Bench) -> None:
    text = """
        import os, resource
        def refused(call, *args):
            try: call(*args)
            except OSError: return True
            return False
        @workflow
        def main(parent: int):
            status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
            return {
                "ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(),
                "caps": status["CapEff"].strip(), "privs": status["NoNewPrivs"].strip(),
                "core": resource.getrlimit(resource.RLIMIT_CORE),
                "environ": refused(open, f"/proc/{parent}/environ"), "root": refused(os.setuid, 0),
                "kill": refused(os.kill, parent, 0), "shadow": refused(open, "/etc/shadow"),
            }
    """
    assert value(await bench.run(text, parent=os.getpid())) == {
        "ids": [UID] * 6,
        "groups": [],
        "caps": "0000000000000000",
        "privs": "1",
        "core": [0, 0],
        "environ": True,
        "root": True,
        "kill": True,
        "shadow": True,
    }


async def test_a_warm_child_that_died_is_replaced(bench: Bench) -> None:
    pool = bench.children._pool
    await pool.first()
    warm = await pool.waiting[0]
    os.kill(warm.pid, signal.SIGKILL)
    await warm.exited
    assert value(await bench.run("@workflow\ndef main(): return 1")) == 1


async def test_an_input_over_the_limit_fails_without_a_child(bench: Bench) -> None:
    outcome = await bench.run("@workflow\ndef main(a): pass", a="x" * (17 << 20))
    assert (outcome.status, outcome.reason) == ("failed", "limit")


@pytest.mark.skipif(UID is None, reason="only root can drop to another user")
async def test_an_interpreter_out_of_reach_is_refused_by_the_folder_in_the_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").touch(mode=0o755)
    with pytest.raises(SandboxUnavailable, match=r"the folder .* has mode 0700"):
        await Children(tmp_path / "data", uid=UID, interpreter=closed / "python").start()


AS_ANOTHER = """
import asyncio, os, sys
from pathlib import Path
from services.executor.sandbox.children import Children
from services.executor.sandbox.errors import SandboxUnavailable

if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65532, 65532, 65532)
    os.setresuid(65532, 65532, 65532)
assert os.geteuid() != 0
try:
    asyncio.run(Children(Path(sys.argv[1]), uid=os.geteuid() + 1).start())
except SandboxUnavailable as error:
    print(error)
"""


async def test_an_ordinary_user_cannot_start_children_as_another_and_is_told_so(data: Path) -> None:
    data.chmod(0o777)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    _, said = await output(sys.executable, "-c", AS_ANOTHER, str(data / "executor"), environment=environment)
    assert "only root can start children as user" in said
    assert not (data / "executor").exists()
