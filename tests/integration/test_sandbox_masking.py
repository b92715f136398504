"""A credential that a run was given is in nothing that the run says."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)

TOKEN = "ghs_2d7a/8e+4f0b9c"


class Trusting(Recorded):
    """Gives out a token of the usual length."""

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
        return {"name": name, "token": TOKEN, "expires_at": None}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    async with started_bench() as made:
        yield made


def said(into: Recorded) -> str:
    return json.dumps([into.logs, into.texts, {f"{key}": bytes(raw).decode() for key, raw in into.steps.items()}])


async def test_lines_are_masked(bench: Bench) -> None:
    into = Trusting()
    text = """
        import base64, sys
        @workflow
        def main():
            token = connections.get("halopsa").token
            print("token", token)
            print(base64.b64encode(b"x-access-token:" + token.encode()).decode(), file=sys.stderr)
            log.info("sent " + token, headers={"Authorization": ["Bearer " + token]}, **{token: 1})
            sys.stdout.write("cut " + token[:9]); sys.stdout.flush()
            sys.stdout.write(token[9:] + " end")
    """
    assert value(await bench.run(text, into)) is None
    assert into.texts["stdout"] == "token ***\ncut *** end"
    assert base64.b64encode(b"x-access-token:").decode()[:-1] in into.texts["stderr"]
    ((_, event, fields),) = into.logs
    assert (event, fields) == ("sent ***", {"headers": {"Authorization": ["Bearer ***"]}, "***": 1})
    assert TOKEN not in said(into)
    assert base64.b64encode(b"x-access-token:" + TOKEN.encode()).decode()[:-4] not in said(into)


async def test_a_result_is_masked(bench: Bench) -> None:
    text = """
        @workflow
        def main():
            token = connections.get("halopsa").token
            return {"echo": [f"Bearer {token}"], token: token, "other": "kept"}
    """
    assert value(await bench.run(text, Trusting())) == {"echo": ["Bearer ***"], "***": "***", "other": "kept"}


async def test_an_error_is_masked(bench: Bench) -> None:
    text = """
        @workflow
        def main():
            token = connections.get("halopsa").token
            raise RuntimeError(f"401 for https://api.example.com/?access_token={token}") from KeyError(token)
    """
    outcome = await bench.run(text, Trusting())
    assert outcome.error is not None
    assert outcome.error.message == "401 for https://api.example.com/?access_token=***"
    assert TOKEN not in outcome.error.traceback
    assert "KeyError: '***'" in outcome.error.traceback


async def test_a_step_is_kept_masked_and_the_first_attempt_sees_what_the_second_will(bench: Bench) -> None:
    text = """
        def echo(token): return {"headers": "Bearer " + token, "n": 1}
        @workflow
        async def main():
            token = connections.get("halopsa").token
            found = [await step("a", echo, token), step.sync("b", echo, token)]
            return [token in one["headers"] for one in found] + [step.sync("c", len, token)]
    """
    into = Trusting()
    assert value(await bench.run(text, into)) == [False, False, len(TOKEN)]
    assert {name: json.loads(bytes(raw)) for (name, _), raw in into.steps.items()} == {
        "a": {"headers": "Bearer ***", "n": 1},
        "b": {"headers": "Bearer ***", "n": 1},
        "c": len(TOKEN),
    }
    assert value(await bench.run(text, into)) == [False, False, len(TOKEN)]


async def test_a_large_result_is_masked_too(bench: Bench) -> None:
    text = """
        @workflow
        def main(): return ["x" * 400_000, connections.get("halopsa").token]
    """
    into = Trusting()
    outcome = await bench.run(text, into)
    assert outcome.kept is not None
    assert json.loads(into.results[outcome.kept.sha256])[1] == "***"


@pytest.mark.parametrize("before", [0, 262_140, 262_150])
async def test_a_credential_across_the_border_of_two_parts_is_masked(bench: Bench, before: int) -> None:
    text = f"""
        import base64
        @workflow
        def main():
            token = connections.get("halopsa").token
            hidden = token + base64.b64encode(b"user:" + token.encode()).decode() + "\\n" + token
            return ["y" * {before} + hidden + "x" * 600_000, {{token * 3: 1}}]
    """
    into = Trusting()
    outcome = await bench.run(text, into)
    assert outcome.kept is not None
    found = json.loads(into.results[outcome.kept.sha256])
    assert found[0].startswith("y" * before + "***")
    assert found[0].endswith("\n***" + "x" * 600_000)
    assert found[1] == {"***" * 3: 1}
    assert TOKEN not in str(found)
    assert base64.b64encode(b"user:" + TOKEN.encode()).decode()[8:-4] not in str(found)


async def test_without_a_credential_nothing_is_touched(bench: Bench) -> None:
    text = f"""
        @workflow
        def main():
            print("{TOKEN}")
            return step.sync("a", str, "{TOKEN}")
    """
    into = Trusting()
    assert value(await bench.run(text, into)) == TOKEN
    assert into.texts["stdout"] == TOKEN + "\n"


class Keeping(Recorded):
    """Gives out a secret that takes some time to look for, in its many lines."""

    async def secret(self, name: str) -> dict[str, Any]:
        return {"value": "\n".join(f"{number:04}" * 16 for number in range(120)) if name == "lines" else "a" * 65_536}


async def test_what_is_masked_in_a_thread_keeps_its_order(bench: Bench) -> None:
    into = Keeping()
    text = """
        @workflow
        def main():
            lines, letter = secrets.get("lines"), secrets.get("letter")
            for number in range(50):
                print(number, "x" * (20_000 if number % 2 else 1))
                log.info(f"event {number}", more=["y" * 10_000] if number % 3 else [])
            print(lines[:64], lines, letter, "end")
    """
    assert value(await bench.run(text, into)) is None
    printed = into.texts["stdout"].splitlines()
    assert [line.split()[0] for line in printed[:50]] == [str(number) for number in range(50)]
    assert printed[50:] == ["*** *** *** end"]
    assert [event for _, event, _ in into.logs] == [f"event {number}" for number in range(50)]
