"""A workflow in the sandbox and in `millrace.testing` is one thing: same end, result, error, lines and steps."""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from millrace import Connection, Integration, testing, workflow
from millrace._declare import REGISTRY
from millrace._runtime import channel
from services.events.domain import emitted, matches
from services.executor import domain
from services.executor.runs import end_messages
from services.executor.runs.awaiting import EventQuery
from services.executor.sandbox.interface import Cancellation, CompletedCall, Job, StartedRun, StepRecord
from services.executor.sandbox.requests import SERVED
from shared.errors import NotFound, PermissionDenied
from shared.messages import RunFailed, RunSucceeded
from shared.questions.events import EmitEvent
from shared.resources.source import Source, SourceEntry
from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)
TOKEN = "tok_0123456789"
VARIABLES = {"limit": 5, "deep": {"a": [None, True]}}
SECRETS = {"signing": "s3cr3t-s3cr3t", "short": "abc"}
HALO = Integration("halo", {"url": "https://h.example", "n": 1}, "7", "halopsa")
FILES = {"data/seen.txt": "one\ntwo", "flows/other.py": "NUMBER = 1\n", "data/large": "x" * (5 << 19)}
TOPICS = ["tickets"]
STEPS: dict[str | tuple[str, int], Any] = {"known": [1, 2], ("known", 1): {"again": True}}


SIGNALS = {"approval": [{"ok": True}, "second"]}
INCOMING: dict[str, Any] = {
    "shop": [{"id": "e1", "type": "order.made", "time": "2026-01-31T09:30:00Z", "data": {"n": 1}, "headers": {"a": "b"}}]
}
APPROVALS: dict[str, list[Any]] = {"ask": [True, False], "refund": [{"amount": 3}, {"amount": "x"}]}
RUNS: dict[str, Any] = {"double": lambda given: given["n"] * 2, "fixed": [1, None], "broken": ValueError("no")}
TOLD: dict[str, dict[str, Any]] = {
    "double": {"status": "succeeded", "reason": None, "result": 42},
    "fixed": {"status": "succeeded", "reason": None, "result": [1, None]},
    "broken": {"status": "failed", "reason": "error", "error": {"type": "ValueError", "message": "no"}},
}


@dataclass(frozen=True)
class Told:
    """All that is known of an attempt."""

    status: str
    reason: str | None
    result: Any
    error: tuple[str, str, str] | None
    lines: list[Any]
    steps: dict[Any, Any]
    events: list[tuple[str, str, Any]]
    files: dict[str, bytes]
    slept: list[float]
    waits: list[str]
    started: list[tuple[str, Any]]


class Platform(Recorded):
    """Gives what the tests give, by the platform's rules and in its words."""

    def __init__(self) -> None:
        super().__init__()
        self.variables = dict(VARIABLES)
        self.secrets = dict(SECRETS)
        self.files = {path: content.encode() for path, content in FILES.items()}
        self.steps = {
            (key, 0) if isinstance(key, str) else key: msgspec.Raw(json.dumps(result).encode()) for key, result in STEPS.items()
        }

        self.signals = {name: list(answers) for name, answers in SIGNALS.items()}
        self.incoming = {source: list(events) for source, events in INCOMING.items()}
        self.approvals = {name: list(answers) for name, answers in APPROVALS.items()}
        self.slept: list[float] = []
        self.waits: list[str] = []
        self.started: list[tuple[str, Any]] = []
        self.cancelled = Cancellation()

    async def wait(self, of: str, name: str, ordinal: int, position: int | None, seconds: float | None) -> StepRecord | None:
        result: Any = None
        timed_out = False
        if of == "sleep":
            assert seconds is not None
            self.slept.append(seconds)
        elif of == "run":
            if name not in {f"{workflow}-1" for workflow, _ in self.started}:
                raise NotFound(f"{name!r} is no run that this one has started")
            result = {"id": name} | TOLD[name.removesuffix("-1")]
        elif of == "ask" and self.approvals.get(name):
            told = {"id": "a", "comment": "", "by": "test", "via": "key", "at": "2026-01-31T09:30:00Z", "remote": None}
            data = self.approvals[name].pop(0)
            result = told | {"approved": data is not False, "data": None if isinstance(data, bool) else data}
        elif of == "signal" and self.signals.get(name):
            result = {"data": self.signals[name].pop(0), "by": "test", "at": "2026-01-31T09:30:00Z"}
        elif seconds is None:
            self.waits.append(name)
            return None
        else:
            timed_out = True
        return StepRecord(msgspec.Raw(json.dumps(result).encode()), timed_out)

    async def wait_for_event(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, asked: msgspec.Raw
    ) -> StepRecord | None:
        query = msgspec.json.decode(asked, type=EventQuery)
        if query.source not in self.incoming:
            raise NotFound(f"there is no source {query.source!r}")
        left = self.incoming[query.source]
        found = next((one for one in left if matches(query.type, one["type"])), None)
        if found is not None:
            left.remove(found)
            return StepRecord(msgspec.Raw(json.dumps({"id": "", "type": "", "source": query.source} | found).encode()))
        if seconds is None:
            self.waits.append(name)
            return None
        return StepRecord(msgspec.Raw(b"null"), timed_out=True)

    async def start_run(self, asked: StartedRun) -> str:
        if asked.workflow not in RUNS:
            raise NotFound(f"there is no workflow {asked.workflow!r} in this organization or in global")
        self.started.append((asked.workflow, asked.input))
        return f"{asked.workflow}-{asked.ordinal + 1}"

    async def give_up(self, of: str, name: str, ordinal: int, position: int | None) -> None:
        self.waits.remove(name)

    async def cancel_run(self) -> None:
        self.cancelled.set()

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
        if name != "halopsa":
            raise NotFound(f"there is no connection {name!r}")
        return {"name": name, "token": TOKEN, "expires_at": "2026-01-31T09:30:00Z"}

    async def integration(self, name: str) -> dict[str, Any]:
        if name not in {"halo", "plain"}:
            raise NotFound(f"there is no integration {name!r}")
        return msgspec.to_builtins(HALO if name == "halo" else Integration("plain", {"url": "p"}, None, None))  # type: ignore[no-any-return]

    async def emit(self, source: str, type_: str, data: msgspec.Raw) -> dict[str, Any]:
        if source not in TOPICS:
            raise NotFound(f"there is no source {source!r}")
        topic = SourceEntry(
            id="s", org="o", key="k", name=source, spec=Source(adapter="topic"), created_at="", updated_at="", version=1
        )
        command = EmitEvent(
            id="c", org="default", actor="run:r1", source=source, type=type_, data=json.loads(bytes(data)), run="r1"
        )
        emitted(command, topic, "d", "2026-01-31T09:30:00Z")
        return await super().emit(source, type_, data)

    async def file_find(self, path: str) -> dict[str, Any]:
        if domain.checked_path(path) not in self.files:
            raise NotFound(f"there is no file {path!r} in the workspace of this organization or of global")
        return await super().file_find(path)

    async def file_write(self, path: str, writing: int, at: int, data: bytes, *, is_last: bool) -> dict[str, Any] | None:
        self._check_own(path)
        return await super().file_write(path, writing, at, data, is_last=is_last)

    async def file_delete(self, path: str) -> None:
        self._check_own(path)
        if path not in self.files:
            raise NotFound(f"there is no file {path}")
        await super().file_delete(path)

    def _check_own(self, path: str) -> None:
        complaint = domain.kept_from_runs(domain.checked_path(path))
        if complaint is not None:
            raise PermissionDenied(f"a run may not write or delete {path!r}: {complaint}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    async with started_bench() as made:
        yield made


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = len(REGISTRY)
    yield
    del REGISTRY[before:]
    sys.modules.pop("flows.one", None)


async def there(bench: Bench, job: Job) -> Told:
    """The attempt in the sandbox, as the executor tells it."""
    platform = Platform()
    recorded = [CompletedCall("step", name, ordinal) for name, ordinal in platform.steps]
    job = msgspec.structs.replace(job, recorded=recorded)
    outcome = await bench.children.run(job, platform, cancel=platform.cancelled)
    if outcome.status == "waiting":
        message: Any = None
    else:
        message = end_messages.of_outcome("r1", 1, outcome)
    steps = {name if not ordinal else (name, ordinal): json.loads(bytes(kept)) for (name, ordinal), kept in platform.steps.items()}
    error, reason = None, None
    if isinstance(message, RunFailed):
        error, reason = (message.error.type, message.error.message, message.error.traceback), message.reason
    result = None
    if isinstance(message, RunSucceeded):
        result = json.loads(bytes(message.result) if message.result_ref is None else platform.results[message.result_ref])
    return Told(
        "succeeded" if isinstance(message, RunSucceeded) else "failed" if isinstance(message, RunFailed) else outcome.status,
        reason,
        result,
        error,
        platform.logs,
        steps,
        platform.events,
        platform.files,
        platform.slept,
        platform.waits,
        platform.started,
    )


def here(job: Job) -> Told:
    """The attempt in this process."""
    path = Path(job.bundle, job.module)
    spec = importlib.util.spec_from_file_location("flows.one", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["flows.one"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ends = "2026-01-31T09:30:00Z"
    given = {"halopsa": Connection("halopsa", TOKEN, module.datetime.datetime.fromisoformat(ends))}
    outcome = testing.run(
        module.main,
        job.input,
        connections=given,
        integrations={"halo": HALO, "plain": {"url": "p"}},
        variables=VARIABLES,
        secrets=SECRETS,
        files=FILES,
        topics=TOPICS,
        steps=STEPS,
        signals=SIGNALS,
        incoming=INCOMING,
        approvals=APPROVALS,
        runs=RUNS,
    )
    error = None if outcome.error is None else (outcome.error.type, outcome.error.message, outcome.error.traceback)
    lines = [(line.level, line.event, line.fields) for line in outcome.lines]
    events = [(event.source, event.type, event.data) for event in outcome.events]
    ran = (outcome.status, outcome.reason, outcome.result, error, lines, dict(outcome.steps), events, outcome.files)
    started = [(one.workflow, one.input) for one in outcome.started]
    return Told(*ran, outcome.slept, [one.name for one in outcome.waits], started)


ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("def main(): ...", {}),
    "a coroutine": ("async def main(): await asyncio.sleep(0); return [1, 2.5, None, True, 'é']", {}),
    "a coroutine that is returned": ("def main():\n    async def inner(): return 4\n    return inner()", {}),
    "what input accepts": (
        (
            "def main(at: datetime.datetime, many: set[int], kind: typing.Literal['a'] = 'a', **more: int):"
            " return {'at': at, 'many': sorted(many), 'kind': kind, 'more': more}"
        ),
        {"at": "2026-01-31T09:30:00Z", "many": [2, 1, 2], "extra": 3},
    ),
    "no input that fits": ("def main(a: int, b: str = ''): ...", {"a": "x", "c": 1}),
    "no JSON": ("def main(): return {'a': [1, {2}]}", {}),
    "a coroutine nobody awaited": ("def main(): return {'a': asyncio.sleep(0)}", {}),
    "NUL": ("def main(): return 'a\\0'", {}),
    "too large": ("def main(): return 'x' * (65 << 20)", {}),
    "large": ("def main(): return {'a': ['x' * 300_000, [None] * 300_000]}", {}),
    "large, and no JSON": ("def main(): return {'a': ['x' * 300_000, object()]}", {}),
    "just not large": ("def main(): return 'x' * (256 * 1024 - 2)", {}),
    "raised": ("def main():\n    def inner(): raise ValueError('no')\n    inner()", {}),
    "raised through a library": ("async def main(): return json.loads('{')", {}),
    "raised from another": (
        "def main():\n    try: {}['a']\n    except KeyError as error: raise RuntimeError('no') from error",
        {},
    ),
    "a group": ("def main(): raise ExceptionGroup('two', [ValueError(1), TypeError(2)])", {}),
    "an exit": ("def main(): sys.exit(3)", {}),
    "a hostile exception": (
        "def main():\n    class Odd(Exception):\n        def __str__(self): raise SystemExit\n    raise Odd",
        {},
    ),
    "a key that is not there": ("def main(event: dict): return event['data']['reff']", {"event": {"data": {"ref": 1, "id": 2}}}),
    "steps": (
        (
            "async def main():\n"
            "    a, b = await asyncio.gather(step('one', str, 1), step('one', str, 2))\n"
            "    return [a, b, await step('pair', lambda: (1, 2)), await step('known', len, ''), await step('known', len, '')]"
        ),
        {},
    ),
    "steps of a plain def": ("def main(): return [step.sync('one', str, 1), step.sync('known', len, '')]", {}),
    "a step that fails": ("async def main():\n    def fail(): raise OSError('down')\n    await step('fail', fail)", {}),
    "a step without a name": ("async def main(): await step('', str)", {}),
    "a step that is no JSON": ("async def main(): await step('odd', object)", {}),
    "lines": ("def main():\n    log.info('a', n=1, o=object, s={1})\n    log.error('b' * 2000)\n    log.debug(5)", {}),
    "a connection": ("def main():\n    found = connections.get('halopsa')\n    return [found.name, found.expires_at]", {}),
    "a connection's token": (
        (
            "async def main():\n"
            "    token = (await connections.aget('halopsa')).token\n"
            "    log.info('with ' + token, **{token: token})\n"
            "    return [await step('keep', lambda: {'a': token}), {token: token}]"
        ),
        {},
    ),
    "a token in an error": ("def main(): raise ValueError(connections.get('halopsa').token)", {}),
    "no such connection": ("def main(): connections.get('other')", {}),
    "a connection without a name": ("def main(): connections.get('')", {}),
    "variables": (
        "def main(): return [config.get('limit'), variables.get('deep'), variables.get('absent', 7), config.get('absent', None)]",
        {},
    ),
    "no such variable": ("async def main(): await variables.aget('absent')", {}),
    "a name that is none": ("def main(): variables.get(5)", {}),
    "a secret": (
        "def main():\n    got = secrets.get('signing')\n    print(got, end='')\n    return [got, len(got), secrets.get('short')]",
        {},
    ),
    "no such secret": ("async def main(): await secrets.aget('absent')", {}),
    "an integration": (
        (
            "async def main():\n"
            "    halo = await integrations.aget('halo')\n"
            "    assert halo.credential().token == await halo.atoken() == halo.token\n"
            "    return [halo.config, halo.entity_id, halo.connection, halo.token, integrations.get('plain').config]"
        ),
        {},
    ),
    "an integration without a connection": ("def main(): integrations.get('plain').token", {}),
    "no such integration": ("def main(): integrations.get('other')", {}),
    "events": (
        (
            "async def main():\n"
            "    token = connections.get('halopsa').token\n"
            "    first = events.emit('tickets', 'ticket.closed', {'at': datetime.date(2026, 1, 31), 'by': token})\n"
            "    return [first, await step('tell', events.aemit, 'tickets', 'x')]"
        ),
        {},
    ),
    "an event to nobody": ("def main(): events.emit('other', 'x')", {}),
    "an event of an odd type": ("def main(): events.emit('tickets', 'x y')", {}),
    "an event that is no JSON": ("def main(): events.emit('tickets', 'x', {1})", {}),
    "files": (
        (
            "async def main():\n"
            "    files.write('data/a/b.bin', b'1' * (3 << 20))\n"
            "    await files.awrite('data/empty', '')\n"
            "    found = files.write('data/seen.txt', (files.read_text('data/seen.txt') + '\\nthree'))\n"
            "    files.delete('data/empty')\n"
            "    return [found.size, found.sha256, [one.path for one in await files.alist('data/')], files.exists('nowhere'),\n"
            "            len(await files.aread('data/a/b.bin')), [len(one) for one in files.chunks('data/large')],\n"
            "            files.exists('flows/other.py')]"
        ),
        {},
    ),
    "no such file": ("def main(): files.read('absent')", {}),
    "a path that is none": ("def main(): files.read('../etc/passwd')", {}),
    "a file that a run may not write": ("def main(): files.write('flows/other.py', '')", {}),
    "code that a run may not write": ("def main(): files.write('data/other.py', '')", {}),
    "a file that a run may not delete": ("def main(): files.delete('flows/other.py')", {}),
    "nothing to delete": ("def main(): files.delete('data/absent')", {}),
    "tasks left behind": ("async def main():\n    main.kept = asyncio.create_task(asyncio.sleep(60))\n    return 1", {}),
    "what was cancelled": ("async def main(): asyncio.current_task().cancel(); await asyncio.sleep(1)", {}),
    "sleeping": ("async def main():\n    await sleep(90)\n    await sleep(datetime.timedelta(hours=1))\n    return 1", {}),
    "sleeping in a plain def": ("def main():\n    sleep.sync(90)\n    return 1", {}),
    "sleeping for no time that is one": ("async def main(): await sleep(-1)", {}),
    "signals": (
        (
            "async def main():\n"
            "    first = await wait_for('approval')\n"
            "    return [first.data, first.by, (await wait_for('approval')).data]"
        ),
        {},
    ),
    "people": (
        (
            "async def main():\n"
            "    first, second = await ask('Go on?', to=['ops'], remind=60), await ask('Go on?', timeout=5)\n"
            "    return [first.approved, first.by, second.approved, second.form]"
        ),
        {},
    ),
    "people who fill in a form": (
        (
            "async def main():\n"
            "    import dataclasses\n"
            "    form = dataclasses.make_dataclass('Form', [('amount', int), ('note', str, dataclasses.field(default='-'))])\n"
            "    filled = (await ask('How much?', form, name='refund')).form\n"
            "    return [filled.amount, filled.note, (await ask('How much?', form, name='refund')).form]"
        ),
        {},
    ),
    "people who do not answer in time": ("async def main(): await ask('Go on?', timeout=60, name='other')", {}),
    "people who are waited for": ("def main(): ask.sync('Go on?', name='other')", {}),
    "a question without words": ("async def main(): await ask('')", {}),
    "a form that is none": ("async def main(): await ask('Go on?', int)", {}),
    "a link for somebody": (
        "async def main():\n    link = await approvals.alink('a-1', 'ada')\n    print(link)\n    return [link, len(link)]",
        {},
    ),
    "a signal to another run": ("def main(): runs.signal('r2', 'go', {'a': 1})", {}),
    "a signal in a plain def": ("def main(): return wait_for.sync('approval', timeout=60).data", {}),
    "a signal that does not come in time": ("async def main(): await wait_for('other', timeout=60)", {}),
    "a signal that is waited for": ("async def main():\n    await step('one', int)\n    await wait_for('other')", {}),
    "a signal that a plain def waits for": ("def main(): wait_for.sync('other')", {}),
    "two signals, one of which is there": (
        "async def main(): return await asyncio.gather(wait_for('approval'), wait_for('other'), wait_for('third'))",
        {},
    ),
    "a child": ("async def main(): return [await runs.call('double', {'n': 21}), runs.start('fixed')]", {}),
    "a child of a plain def": ("def main(): return [runs.call_sync('fixed'), runs.call_sync('double', {'n': 21})]", {}),
    "a child that fails": ("async def main(): await runs.call('broken')", {}),
    "a child that is none": ("def main(): runs.start('absent')", {}),
    "a child of another": ("async def main(): await runs.wait('somebody')", {}),
    "a child at an odd time": ("def main(): runs.start('fixed', run_at=datetime.datetime(2026, 1, 31))", {}),
    "cancelling itself": ("async def main():\n    runs.cancel()\n    await asyncio.sleep(60)", {}),
    "cancelling itself in a plain def": ("def main():\n    runs.cancel()\n    import time\n    time.sleep(60)", {}),
    "a time-out of its own around a wait": (
        (
            "async def main():\n"
            "    try:\n        async with asyncio.timeout(0.3): await wait_for('other')\n"
            "    except TimeoutError: return await step('after', int, 3)"
        ),
        {},
    ),
    "a time-out of its own that is caught": (
        (
            "async def main():\n"
            "    try: await asyncio.wait_for(asyncio.gather(wait_for('other'), wait_for('third')), 0.3)\n"
            "    except TimeoutError: return await step('after', int, 3)"
        ),
        {},
    ),
    "a waiting task that is cancelled": (
        (
            "async def main():\n"
            "    task = asyncio.create_task(wait_for('other'))\n"
            "    await asyncio.sleep(0.1)\n"
            "    task.cancel()\n"
            "    ends = await asyncio.gather(task, return_exceptions=True)\n"
            "    return [type(ends[0]).__name__, await step('after', int, 3)]"
        ),
        {},
    ),
    "other work beside a wait": (
        (
            "async def main():\n"
            "    async def other():\n        await asyncio.sleep(0.3)\n        log.info('sent')\n"
            "    await asyncio.gather(other(), wait_for('other'))"
        ),
        {},
    ),
    "an event": (
        "async def main(n: int): return await wait_for_event('order.*', source='shop', where='event.data.n == n', timeout=9)",
        {"n": 1},
    ),
    "an event in a plain def": (
        (
            "def main():\n"
            "    first = wait_for_event.sync('order.made', source='shop')['data']\n"
            "    try: wait_for_event.sync('*', source='shop', timeout=3)\n"
            "    except EventTimeout as late: return [first, str(late)]"
        ),
        {},
    ),
    "an event that is waited for": ("async def main(): await wait_for_event('push', source='shop')", {}),
    "an event of no source": ("async def main(): await wait_for_event('push', source='nowhere')", {}),
    "an event with values that are none": (
        "async def main(): await wait_for_event('push', source='shop', where='true', values={'a': object()})",
        {},
    ),
    "an event within a step": (
        "async def main():\n    async def inner(): await wait_for_event('push', source='shop')\n    await step('a', inner)",
        {},
    ),
    "a signal within a step": ("async def main():\n    async def inner(): await wait_for('go')\n    await step('a', inner)", {}),
    "a child within a step": ("async def main(): await step('a', runs.call, 'fixed')", {}),
    "a child that is started within a step": ("async def main(): return await step('a', runs.start, 'fixed') == ''", {}),
    "a step within a step": (
        "async def main():\n    async def inner(): return await step('b', int)\n    return await step('a', inner)",
        {},
    ),
    "an exhausted iterator in a step": ("async def main(): await step('a', next, iter([]))", {}),
    "an exhausted iterator in a thread": ("async def main(): await asyncio.to_thread(next, iter([]))", {}),
    "a number that is too large": ("def main(): return {'a': [2**64]}", {}),
    "a line of what no line can hold": ("def main(): log.info('a\\0\\ud800', n=float('nan'), s='\\0', b=10**400)", {}),
    "recursion": ("def main(): return main()", {}),
}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(("text", "given"), ENDS.values(), ids=ENDS.keys())
async def test_an_attempt_ends_in_a_test_as_it_ends_in_the_sandbox(bench: Bench, text: str, given: dict[str, Any]) -> None:
    job = bench.job("import asyncio, datetime, json, sys, typing\n@workflow\n" + text, **given)
    found, expected = here(job), await there(bench, job)
    assert settled(found) == settled(expected)
    del found
    gc.collect()  # what nobody awaited is complained of here, not in whatever comes next


def test_everything_that_a_run_may_ask_for_has_a_fake() -> None:
    @workflow
    def main() -> list[str]:
        return sorted(channel.current._answers)  # type: ignore[union-attr]

    assert testing.run(main).value() == sorted(str(kind.__struct_config__.tag) for kind in SERVED)


def settled(told: Told) -> str:
    """All of it, but how deep this test itself stands on the stack, and where objects lie."""
    return re.sub(r"repeated \d+ more times|0x[0-9a-f]+", "…", repr(told))
