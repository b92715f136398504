"""However a run ends, and whatever it claims, the end is told in one clear way."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.sandbox import KINDS, UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


FORGED = {
    "no-json": "send(b'{')",
    "unknown-kind": 'send(b\'{"kind":"reward"}\')',
    "no-kind": "send(b'{}')",
    "wrong-type": 'send(b\'{"kind":"log","level":"loud","event":"x","fields":{}}\')',
    "oversize": "os.write(3, b'\\xff\\xff\\xff\\xff'); time.sleep(60)",
    "nul": 'send(b\'{"kind":"result","result":"\\\\u0000"}\')',
    "half-a-pair": 'send(b\'{"kind":"result","result":"\\\\ud800"}\')',
    "bottomless": "send(b'{\"kind\":\"result\",\"result\":' + b'[' * 100000 + b']' * 100000 + b'}')",
    "infinite": 'send(b\'{"kind":"result","result":1e999}\')',
    "not-utf8": 'send(b\'{"kind":"result","result":"\\xff"}\')',
    "ready-again": 'send(b\'{"kind":"ready"}\')',
    "too-many-values": 'send(b\'{"kind":"result","result":[0\' + b",0" * 300_000 + b"]}")',
    "another-network": 'send(b\'{"kind":"network","proxy":"http://127.0.0.1:1"}\')',
    "an-answer": 'send(b\'{"kind":"answer","id":1,"value":1}\')',
    "described": 'send(b\'{"kind":"described","workflows":[],"problems":[]}\')',
}


@pytest.mark.parametrize("forgery", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_frame_ends_the_run_as_crashed(bench: Bench, forgery: str) -> None:
    body = f"""
        import os, time
        def send(payload): os.write(3, len(payload).to_bytes(4, "big") + payload)
        @workflow
        def main():
            {forgery}
            time.sleep(60)
    """
    outcome = await bench.run(body)
    assert (outcome.status, outcome.reason, outcome.result) == ("crashed", "sandbox", None)


async def test_of_two_results_the_first_counts(bench: Bench) -> None:
    body = """
        import os
        @workflow
        def main():
            for payload in (b'{"kind":"result","result":1}', b'{"kind":"result","result":2}'):
                os.write(3, len(payload).to_bytes(4, "big") + payload)
            return 3
    """
    assert value(await bench.run(body)) == 1


RAISED = {
    "system-exit": ("import sys; sys.exit(4)", "SystemExit", "sys.exit(4) was called"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    "hostile-str": ("raise Hostile", "flows.one.Hostile", "<the exception's __str__ failed>"),
    "object": ("return {'a': [1, object()]}", "ResultError", "the result is not JSON at $.a[1]: object is not JSON"),
    "nan": ("return {'a': float('nan')}", "ResultError", "the result is not JSON at $.a: nan has no JSON form"),
    "half-a-pair": ("return ['\\ud800']", "ResultError", "at $[0]: the text holds half a surrogate pair"),
    "nul": ("return ['\\0']", "ResultError", "at $[0]: the text holds a NUL character"),
    "itself": ("loop = []; loop.append(loop); return loop", "ResultError", "nested deeper than 100 levels"),
    "deep": ("import functools; return functools.reduce(lambda a, _: [a], range(150), 1)", "ResultError", "deeper"),
    "long-message": ("raise ValueError('x' * 100_000)", "ValueError", "xxx"),
    "recursion": ("return main()", "RecursionError", "maximum recursion depth"),
}


@pytest.mark.parametrize(("body", "kind", "message"), RAISED.values(), ids=RAISED.keys())
async def test_whatever_is_raised_or_returned_ends_as_an_error(bench: Bench, body: str, kind: str, message: str) -> None:
    text = f"""
        class Hostile(Exception):
            def __str__(self): raise SystemExit
            __repr__ = __str__
        @workflow
        def main():
            {body}
    """
    outcome = await bench.run(text)
    assert outcome.error is not None
    assert (outcome.status, outcome.reason, outcome.error.type) == ("failed", "error", kind)
    assert message in outcome.error.message


async def test_a_traceback_shows_the_authors_frames_only(bench: Bench) -> None:
    text = """
        import json
        def parse(text): return json.loads(text)
        @workflow
        async def main():
            try: parse("{")
            except ValueError as error: raise RuntimeError("no") from error
    """
    outcome = await bench.run(text)
    assert outcome.error is not None
    told = outcome.error.traceback
    assert 'File "flows/one.py", line 4, in parse' in told
    assert 'File "flows/one.py", line 8, in main' in told
    assert "millrace/" not in told
    assert str(bench.folder) not in told
    assert told.rstrip().endswith("RuntimeError: no")


async def test_want_of_memory_is_told_as_oom() -> None:
    async with started_bench() as bench:
        outcome = await bench.run("@workflow\ndef main(): return len(bytearray(4 << 30))")
    assert (outcome.status, outcome.reason) == ("failed", "oom")


async def test_atexit_runs_and_cannot_spoil_the_result(bench: Bench) -> None:
    into = Recorded()
    text = "import atexit\n@workflow\ndef main():\n    atexit.register(lambda: 1 / 0)\n    return 7"
    assert value(await bench.run(text, into)) == 7
    assert "ZeroDivisionError" in into.texts["stderr"]
