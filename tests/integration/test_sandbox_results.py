"""A result that is too large for one frame comes in parts, and nobody is taken in by parts that are forged."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.executor.sandbox import ration
from services.executor.sandbox.interface import LARGEST_RESULT, KeptResult, Outcome
from shared.errors import Unavailable
from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)

SENDING = """
import json, os, time
def send(**frame):
    payload = json.dumps(frame).encode()
    os.write(3, len(payload).to_bytes(4, "big"))
    while payload:
        payload = payload[os.write(3, payload):]
def part(text): send(kind="result_part", text=text)
def end(size): send(kind="result_end", bytes=size)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    async with started_bench() as made:
        yield made


def kept(outcome: Outcome, into: Recorded) -> Any:
    """The result that was stored."""
    assert outcome.status == "succeeded", outcome
    assert outcome.result is None
    assert outcome.kept is not None
    content = into.results[outcome.kept.sha256]
    assert len(content) == outcome.kept.size
    return json.loads(content)


async def forged(bench: Bench, body: str, into: Recorded | None = None) -> Outcome:
    """How a run ends that sends what `body` says, and would go on for a minute."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return await bench.run(f"{SENDING}\n@workflow\ndef main():\n{lines}    time.sleep(60)\n", into, timeout=120)


@pytest.mark.parametrize("size", [256 * 1024 - 2, 256 * 1024 - 1])
async def test_a_result_of_256_kib_is_one_frame_and_one_byte_more_is_kept(bench: Bench, size: int) -> None:
    into = Recorded()
    outcome = await bench.run(f"@workflow\ndef main(): return 'x' * {size}", into)
    if size + 2 <= 256 * 1024:
        assert value(outcome) == "x" * size
        assert not into.results
    else:
        assert kept(outcome, into) == "x" * size


async def test_a_large_result_of_everything_is_kept_whole(bench: Bench) -> None:
    text = """
        import dataclasses, datetime
        @dataclasses.dataclass
        class Row:
            id: int
            at: datetime.date
        @workflow
        def main():
            rows = [Row(n, datetime.date(2026, 1, 31)) for n in range(20_000)]
            return {"rows": rows, "text": "\\u20ac\\U0001f600\\n" * 300_000, "none": [None, True, 1.5, []]}
    """
    into = Recorded()
    found = kept(await bench.run(text, into), into)
    assert found["rows"] == [{"id": n, "at": "2026-01-31"} for n in range(20_000)]
    assert found["text"] == "\u20ac\U0001f600\n" * 300_000
    assert found["none"] == [None, True, 1.5, []]
    assert into.largest_part <= 4 << 20


async def test_what_takes_much_memory_is_encoded_in_pieces(bench: Bench) -> None:
    text = """
        @workflow
        def main():
            much = bytearray(200 << 20)
            return [["x" * 1000] * 2000, {"small": 1}]
    """
    into = Recorded()
    assert kept(await bench.run(text, into), into) == [["x" * 1000] * 2000, {"small": 1}]
    small = "@workflow\ndef main():\n    much = bytearray(200 << 20)\n    return {'a': [1, 'b']}"
    assert value(await bench.run(small)) == {"a": [1, "b"]}


@pytest.mark.parametrize("much", ["0", "200 << 20"])
async def test_a_result_over_64_mib_fails_with_both_figures(bench: Bench, much: str) -> None:
    text = f"@workflow\ndef main():\n    much = bytearray({much})\n    return 'x' * (65 << 20)"
    into = Recorded()
    outcome = await bench.run(text, into)
    assert (outcome.status, outcome.reason, outcome.result, outcome.kept) == ("failed", "limit", None, None)
    assert outcome.error is not None
    assert outcome.error.type == "ResultTooLarge"
    assert outcome.error.message == f"the result has {(65 << 20) + 2} bytes as JSON; at most {LARGEST_RESULT} are kept"
    assert not into.results


@pytest.mark.parametrize("much", ["0", "200 << 20"])
async def test_a_large_result_that_is_no_json_is_told_by_its_place(bench: Bench, much: str) -> None:
    text = f"@workflow\ndef main():\n    much = bytearray({much})\n    return ['x' * 300_000, [1, {{2}}]]"
    outcome = await bench.run(text)
    assert (outcome.status, outcome.reason) == ("failed", "error")
    assert outcome.error is not None
    assert outcome.error.message == "the result is not JSON at $[1][1]: set is not JSON"


BROKEN = {
    "an end that has not begun": "end(5)",
    "more bytes than came": "part('[1,2]'); end(6)",
    "fewer bytes than came": "part('[1,2]'); end(4)",
    "an end in the middle": "part('[1,2'); end(4)",
    "two documents": "part('[1]'); part('[2]'); end(6)",
    "no JSON": "part('[1,]'); end(4)",
    "a text cut in two": "part('[\"a'); part('\\x00b\"]'); end(7)",
    "half a pair, cut": "part('[\"\\\\ud83d'); part('x\"]'); end(11)",
    "a NUL, cut": "part('[\"\\\\u00'); part('00\"]'); end(10)",
    "half a character": "send(kind='result_part', text='\\ud83d'); time.sleep(0.1); send(kind='result_part', text='\\ude00')",
    "bytes of half a character": (
        'frame = b\'{"kind":"result_part","text":"\\xf0\\x9f"}\'; os.write(3, len(frame).to_bytes(4, "big") + frame)'
    ),
    "an empty part": "part('')",
    "too deep": "part('[' * 60); part('[' * 60 + ']' * 120); end(240)",
    "infinite": "part('[1e9'); part('99]'); end(7)",
    "a part that is no text": "send(kind='result_part', text=[1])",
    "too many parts": "for _ in range(3000): part(' ')",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_forged_parts_end_the_run_as_crashed_and_nothing_is_kept(bench: Bench, body: str) -> None:
    into = Recorded()
    outcome = await forged(bench, body, into)
    assert (outcome.status, outcome.reason, outcome.result, outcome.kept) == ("crashed", "sandbox", None, None), outcome
    assert not into.results


async def test_parts_that_never_end_are_ended_at_the_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ration, "_SHARE", 1.0)  # it has the supervisor to itself
    into = Recorded()
    outcome = await forged(bench, "part('\"')\nwhile True: part('x' * 1_000_000)", into)
    assert (outcome.status, outcome.reason, outcome.kept) == ("failed", "limit", None)
    assert outcome.error is not None
    assert outcome.error.message == f"the result has more than {LARGEST_RESULT} bytes as JSON; at most {LARGEST_RESULT} are kept"
    assert not into.results


async def test_of_a_small_result_and_one_in_parts_the_first_counts(bench: Bench) -> None:
    into = Recorded()
    assert value(await forged(bench, "send(kind='result', result=1); part('[1]'); end(3)", into)) == 1
    assert not into.results
    assert kept(await forged(bench, "part('[1]'); end(3); part('[2]'); end(3); send(kind='result', result=2)", into), into) == [1]


async def test_parts_that_are_followed_by_another_end_are_dropped(bench: Bench) -> None:
    into = Recorded()
    assert value(await forged(bench, "part('[1'); send(kind='result', result=7)", into)) == 7
    outcome = await forged(bench, "part('[1'); send(kind='error', type='E', message='no', traceback='')", into)
    assert (outcome.status, outcome.reason) == ("failed", "error")
    assert not into.results


async def test_a_run_that_dies_in_the_middle_of_its_result_has_none(bench: Bench) -> None:
    into = Recorded()
    outcome = await forged(bench, "part('[1'); os._exit(3)", into)
    assert outcome.status == "crashed"
    assert not into.results


async def test_parts_where_a_description_is_asked_for_are_no_description(bench: Bench) -> None:
    described = await bench.describe(one=f"from millrace import workflow\n{SENDING}\npart('[1]')\ntime.sleep(60)")
    assert not described.workflows
    assert "FrameError" in described.problems[0].message


async def test_a_result_that_cannot_be_kept_now_is_given_back_not_failed(bench: Bench) -> None:
    class Away(Recorded):
        async def keep_result(self, parts: AsyncIterator[bytes]) -> KeptResult:
            await anext(parts)
            raise Unavailable("the broker is not connected")

    with pytest.raises(Unavailable):
        await bench.run("@workflow\ndef main(): return 'x' * 5_000_000", Away())
