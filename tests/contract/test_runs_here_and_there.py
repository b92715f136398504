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

from millrace import Connection, testing
from millrace._declare import REGISTRY
from services.executor.runs import message_of
from services.executor.sandbox.jail import Job
from shared.errors import NotFound
from shared.messages import RunFailed, RunSucceeded
from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)
TOKEN = "tok_0123456789"
STEPS: dict[str | tuple[str, int], Any] = {"known": [1, 2], ("known", 1): {"again": True}}


@dataclass(frozen=True)
class Told:
    """All that is known of an attempt."""

    status: str
    reason: str | None
    result: Any
    error: tuple[str, str, str] | None
    lines: list[Any]
    steps: dict[Any, Any]


class Platform(Recorded):
    """Gives what the tests give, in the platform's words."""

    async def connection(self, name: str) -> dict[str, Any]:
        if name != "halopsa":
            raise NotFound(f"there is no connection {name!r}")
        return {"name": name, "token": TOKEN, "expires_at": "2026-01-31T09:30:00Z"}


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
    platform.steps = {
        (key, 0) if isinstance(key, str) else (str(key[0]), int(key[1])): msgspec.Raw(json.dumps(result).encode())
        for key, result in STEPS.items()
    }
    outcome = await bench.children.run(job, platform)
    message = message_of("r1", 1, outcome)
    steps = {name if not ordinal else (name, ordinal): json.loads(bytes(kept)) for (name, ordinal), kept in platform.steps.items()}
    error, reason = None, None
    if isinstance(message, RunFailed):
        error, reason = (message.error.type, message.error.message, message.error.traceback), message.reason
    result = json.loads(bytes(message.result)) if isinstance(message, RunSucceeded) else None
    return Told("succeeded" if isinstance(message, RunSucceeded) else "failed", reason, result, error, platform.logs, steps)


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
    outcome = testing.run(module.main, job.input, connections=given, steps=STEPS)
    error = None if outcome.error is None else (outcome.error.type, outcome.error.message, outcome.error.traceback)
    lines = [(line.level, line.event, line.fields) for line in outcome.lines]
    return Told(outcome.status, outcome.reason, outcome.result, error, lines, dict(outcome.steps))


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
    "too large": ("def main(): return 'x' * 300_000", {}),
    "just not too large": ("def main(): return 'x' * (256 * 1024 - 2)", {}),
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
    "tasks left behind": ("async def main():\n    main.kept = asyncio.create_task(asyncio.sleep(60))\n    return 1", {}),
    "what was cancelled": ("async def main(): asyncio.current_task().cancel(); await asyncio.sleep(1)", {}),
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


def settled(told: Told) -> str:
    """All of it, but how deep this test itself stands on the stack, and where objects lie."""
    return re.sub(r"repeated \d+ more times|0x[0-9a-f]+", "…", repr(told))
