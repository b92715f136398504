"""What a run can ask of its supervisor."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared.errors import TooLarge
from tests.support.sandbox import GATED, UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=GATED)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
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
    assert value(await bench.run(text, into, function="sync")) == [1, 1]


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

        async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
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
    assert (level, event, fields["a"], fields["b"]) == ("warning", "odd\ufffd\ufffd", "<Hostile>", "inf")


async def test_variables_are_answered_as_json_gives_them_back(bench: Bench) -> None:
    text = """
        @workflow
        async def main():
            found = [variables.get("limits"), await config.aget("none"), config.get("absent", default=5)]
            try: config.get("absent")
            except Refused as error: return [*found, await variables.aget("absent", None), error.kind, str(error)]
    """
    into = Recorded()
    into.variables = {"limits": {"a": [1, "é"]}, "none": None}
    assert value(await bench.run(text, into)) == [
        {"a": [1, "é"]}, None, 5, None, "NotFound", "there is no variable 'absent' in this organization or in global",
    ]  # fmt: skip


async def test_a_secret_is_answered_and_masked_wherever_it_turns_up(bench: Bench) -> None:
    text = """
        import base64
        from urllib.parse import quote
        @workflow
        async def main(fail: bool):
            secret = secrets.get("key")
            assert await secrets.aget("key") == secret
            print("got", secret, base64.b64encode(secret.encode()).decode(), quote(secret))
            log.info("got", secret=secret)
            kept = await step("a", str, secret)
            if fail: raise RuntimeError(secret)
            events.emit("topic", "said", {"key": secret})
            return [secret, len(secret), kept]
    """
    into = Recorded()
    into.secrets = {"key": "s3cret/walrus+9"}
    assert value(await bench.run(text, into, fail=False)) == ["***", 15, "***"]
    assert into.texts["stdout"] == "got *** *** ***\n"
    assert into.events == [("topic", "said", {"key": "***"})]
    into.steps.clear()
    failed = await bench.run(text, into, fail=True)
    assert failed.error is not None
    assert failed.error.message == "***"
    assert "walrus" not in failed.error.traceback + repr(into.logs) + repr(into.steps) + repr(into.texts)


async def test_an_integration_has_a_live_token_that_its_repr_does_not_tell(bench: Bench) -> None:
    text = """
        @workflow
        async def main():
            halo = integrations.get("halopsa")
            again = await integrations.aget("halopsa")
            assert again == halo
            return [halo.config, halo.entity_id, halo.token == "sesame", await again.atoken() == "sesame", repr(halo)]
    """
    found: Any = value(await bench.run(text))
    assert found[:4] == [{"url": "https://h.example"}, "7", True, True]
    assert "sesame" not in found[4]


async def test_events_are_emitted_and_steps_emit_them_once(bench: Bench) -> None:
    text = """
        @workflow
        async def main():
            first = await step("tell", events.aemit, "topic", "a.b", {"n": 1})
            return [first, events.emit("topic", "c")]
    """
    into = Recorded()
    assert value(await bench.run(text, into)) == ["event-1", "event-2"]
    assert value(await bench.run(text, into)) == ["event-1", "event-3"]
    assert into.events == [("topic", "a.b", {"n": 1}), ("topic", "c", None), ("topic", "c", None)]


async def test_files_are_streamed_both_ways_in_parts(bench: Bench) -> None:
    text = """
        import hashlib
        @workflow
        async def main():
            big = files.read("data/in")
            assert await files.aread("data/in") == big
            assert b"".join(files.chunks("data/in")) == big
            kept = files.write("data/out", files.chunks("data/in"))
            assert (kept.size, kept.sha256) == (len(big), hashlib.sha256(big).hexdigest())
            await files.awrite("data/text", "é\\n")
            files.write("data/empty", b"")
            assert (files.read_text("data/text"), await files.aread("data/empty")) == ("é\\n", b"")
            names = [one.path for one in files.list("data/")] + [one.path for one in await files.alist("none")]
            files.delete("data/text")
            return [names, files.exists("data/text"), await files.aexists("data/out")]
    """
    into = Recorded()
    into.files = {"data/in": bytes(range(256)) * 12_000, "other": b""}
    expected = [["data/empty", "data/in", "data/out", "data/text"], False, True]
    assert value(await bench.run(text, into)) == expected
    assert into.files["data/out"] == into.files["data/in"]
    assert max(at for _, at in into.parts) == 2 << 20


async def test_many_files_at_once_wait_for_each_other(bench: Bench) -> None:
    text = """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        @workflow
        async def main():
            names = [f"data/{n}" for n in range(40)]
            await asyncio.gather(*(files.awrite(name, name * 1000) for name in names))
            with ThreadPoolExecutor(16) as pool:
                read = list(pool.map(files.read, names))
            return read == [(name * 1000).encode() for name in names]
    """
    assert value(await bench.run(text)) is True


async def test_names_that_cannot_be_sent_are_told_to_their_author(bench: Bench) -> None:
    text = """
        @workflow
        def main():
            said = []
            def emit(one): return events.emit(one, "x")
            for get in (variables.get, secrets.get, integrations.get, connections.get, files.read, emit):
                for wrong in ("a\\0b", "\\ud800", "", 7, "x" * 5000):
                    try: get(wrong)
                    except (TypeError, ValueError) as error: said.append(type(error).__name__)
            try: events.emit("a", "b", {"x": "\\0"})
            except ResultError as error: said.append(str(error))
            try: events.emit("a", "b", "x" * 300_000)
            except ResultError as error: said.append(str(error)[:40])
            try: files.write("data/x", [1])
            except TypeError as error: said.append(str(error))
            return said
    """
    found: Any = value(await bench.run(text))
    assert found[:30] == ["ValueError", "ValueError", "ValueError", "TypeError", "ValueError"] * 6
    assert "NUL" in found[30]
    assert "300002 bytes" in found[31]
    assert found[32] == "a file's content is bytes or text, not int"


@pytest.mark.parametrize(
    "asked",
    [
        '"secret", name="key", org="other"',
        '"variable", name="key", run="other"',
        '"integration", name="key", org="other"',
        '"emit", source="a", type="b", data=1, org="other"',
        '"file_read", path="data/x", reading=0, at=0, org="other"',
        '"file_write", path="data/x", writing=0, at=0, data="", is_last=True, actor="admin"',
        '"file_write", path="data/x", writing=0, at=0, data="!!", is_last=True',
        '"file_write", path="data/x", writing=0, at=0, data="A" * 1398108, is_last=True',
        '"file_read", path="data/x", reading=0, at=-1',
        '"secret", name=""',
        '"secret", name="\\0"',
        '"nothing"',
    ],
)
async def test_a_forged_request_ends_the_attempt_and_asks_for_nothing(bench: Bench, asked: str) -> None:
    text = f"""
        from millrace._runtime import channel
        @workflow
        def main(): return channel.ask("x", {asked})
    """
    into = Recorded()
    into.files = {"data/x": b"kept"}
    outcome = await bench.run(text, into)
    assert (outcome.status, outcome.reason) == ("crashed", "sandbox")
    assert (into.asked, into.events, into.parts, into.files) == ([], [], [], {"data/x": b"kept"})


async def test_what_was_emitted_and_not_waited_for_is_kept_before_the_end(bench: Bench) -> None:
    class Slow(Recorded):
        async def emit(self, source: str, type_: str, data: msgspec.Raw) -> dict[str, Any]:
            await asyncio.sleep(0.2)
            return await super().emit(source, type_, data)

    text = """
        from millrace._runtime import channel
        @workflow
        def main(): channel.current.ask("emit", source="a", type="b", data=1)
    """
    into = Slow()
    assert value(await bench.run(text, into)) is None
    assert into.events == [("a", "b", 1)]
