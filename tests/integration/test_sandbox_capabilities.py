"""What a run can ask of its supervisor."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared.errors import TooLarge
from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started_bench() as made:
        yield made


async def test_steps_are_not_run_again(bench: Bench) -> None:
    text = """
        import asyncio
        def plain(n): log.info("ran"); return (n, n)
        async def slow(n): return plain(n)
        @workflow
        async def main():
            first = await asyncio.gather(step("a", plain, 1), step("a", slow, 2))
            return [*first, await step("b", plain, 3)]
        @workflow
        def sync(): return step.sync("a", plain, 9)
    """
    into = Recorded()
    assert value(await bench.run(text, into)) == [[1, 1], [2, 2], [3, 3]]
    assert {key: bytes(raw) for key, raw in into.steps.items()} == {
        ("a", 0): b"[1,1]",
        ("a", 1): b"[2,2]",
        ("b", 0): b"[3,3]",
    }
    into.steps["a", 1] = msgspec.Raw(b'"kept"')
    assert value(await bench.run(text, into)) == [[1, 1], "kept", [3, 3]]
    assert len(into.logs) == 3
    assert value(await bench.children.run(bench.job(text, function="sync"), into)) == [1, 1]


async def test_a_step_whose_result_is_not_json_says_so(bench: Bench) -> None:
    outcome = await bench.run("@workflow\nasync def main(): await step('a', object)")
    assert outcome.error is not None
    assert "the result of step 'a' is not JSON at $: object is not JSON" in outcome.error.message


async def test_a_step_that_cannot_be_kept_ends_the_attempt(bench: Bench) -> None:
    class Broken(Recorded):
        async def step_put(self, name: str, ordinal: int, position: int | None, result: msgspec.Raw) -> None:
            raise ConnectionRefusedError(name)

    with pytest.raises(ConnectionRefusedError):
        await bench.run("@workflow\nasync def main():\n    try: await step('a', int)\n    except: return 1", Broken())


async def test_what_a_capability_refuses_is_told_and_what_it_fails_at_ends_the_attempt(bench: Bench) -> None:
    class Refusing(Recorded):
        async def step_put(self, name: str, ordinal: int, position: int | None, result: msgspec.Raw) -> None:
            raise TooLarge(f"step {name} is too large")

        async def connection(self, name: str) -> dict[str, Any]:
            raise KeyError(name)

    text = """
        @workflow
        def main():
            try: step.sync("a", int)
            except Refused as error: return [error.kind, str(error)]
    """
    assert value(await bench.run(text, Refusing())) == ["TooLarge", "step a is too large"]
    with pytest.raises(KeyError):
        await bench.run("@workflow\ndef main():\n    try: connections.get('a')\n    except: return 1", Refusing())


async def test_a_file_that_is_imported_to_be_described_is_given_nothing(bench: Bench) -> None:
    found = await bench.describe(one="from millrace import *\nconnections.get('halopsa')\n@workflow\ndef main(): ...")
    assert found.workflows == []
    (problem,) = found.problems
    assert "Refused: this can be asked for by a run only" in problem.message


async def test_a_frame_that_names_an_organization_ends_the_attempt(bench: Bench) -> None:
    text = """
        from millrace._runtime import channel
        @workflow
        def main(): return channel.ask("x", "connection", name="halopsa", org="other")
    """
    into = Recorded()
    outcome = await bench.run(text, into)
    assert (outcome.status, outcome.reason) == ("crashed", "sandbox")
    assert outcome.error is not None
    assert "org" in outcome.error.message
    assert into.asked == []


async def test_a_connection_is_answered_or_refused_with_the_reason(bench: Bench) -> None:
    text = """
        import asyncio
        @workflow
        async def main():
            good = connections.get("halopsa")
            again = await connections.aget("halopsa")
            try: connections.get("other")
            except Refused as error: return [good.token, again == good, repr(good), error.kind, str(error)]
    """
    found = value(await bench.run(text))
    assert isinstance(found, list)
    assert found[:2] == ["sesame", True]
    assert "sesame" not in found[2]
    assert found[3:] == ["NotFound", "there is no connection other"]


async def test_log_never_fails_for_its_fields(bench: Bench) -> None:
    into = Recorded()
    text = """
        class Hostile:
            def __repr__(self): raise RuntimeError
        @workflow
        def main():
            loop = {}; loop["loop"] = [loop] * 1000
            log.warning("odd\\0\\ud800", a=Hostile(), b=float("inf"), c=b"x", d=loop, e="x" * 100_000, f=10 ** 5000)
    """
    assert value(await bench.run(text, into)) is None
    ((level, event, fields),) = into.logs
    assert (level, event, fields["a"], fields["b"]) == ("warning", "odd\ufffd?", "<Hostile>", "inf")
