"""An error that an author makes often says what to do about it, at its end and nowhere else."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.executor.sandbox.egress.network import Network
from shared.egress.policy import EgressRules
from shared.errors import NotFound
from tests.support.egress import Names
from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    async with started_bench() as made:
        yield made


EVENT = "{'data': {'ref': 'x', 'commits': [{'id': 1}], 'token': 'sesame'}}"
HINTS = {
    "a package": ("def main(): import halopsa.client", "name its package (halopsa) in requirements.txt"),
    "a key of an event": (
        f"def main(event: dict = {EVENT}): event['data']['reff']",
        "the keys there are 'ref', 'commits', 'token'\n",
    ),
    "a key in a list": (f"def main(event: dict = {EVENT}): event['data']['commits'][0]['sha']", "the keys there are 'id'\n"),
    "a key by a name": (f"def main(event: dict = {EVENT}):\n    key = 'x'\n    return event[key]", "the keys there are 'data'\n"),
    "a key over lines": (
        f"def main(event: dict = {EVENT}):\n    return (event\n        ['data']\n        ['é']) + 'é'",
        "'ref', 'com",
    ),
    "a key of nothing": ("def main(event: dict = {}): event['a']", "there are no keys: the object is empty"),
    "a coroutine as result": ("def main(): return {'a': step('x', str)}", "put await before the call"),
    "a coroutine's key": ("async def main(): return step('x', dict)['a']", "put await before the call"),
    "a coroutine's attribute": ("async def main(): return step('x', dict).items()", "put await before the call"),
    "an await too many": ("async def main(): return await len('x')", "what is awaited is a plain int: leave the await out"),
    "a set": ("def main(): return {'a': {1}}", "sorted(…) has the same order every time"),
    "bytes": ("def main(): return [b'a']", "base64.b64encode"),
    "a loop in a loop": ("async def main():\n    async def other(): ...\n    asyncio.run(other())", "await the coroutine"),
    "a read-only place": ("def main(): open('/kept', 'w')", "tempfile.gettempdir()"),
    "no such connection": ("def main(): connections.get('acme')", "millrace connections put acme --token-file FILE"),
    "no such variable": ("def main(): variables.get('limit')", "millrace variables put limit VALUE, or give the call a default"),
    "no such secret": ("async def main(): await secrets.aget('key')", "millrace secrets put key --value-file FILE"),
    "no such mapping": ("def main(): integrations.get('halo')", "PUT /api/v1/integrations/halo/mappings/acme"),
    "no such topic": ("def main(): events.emit('news', 'x')", "millrace sources put news --adapter NAME, which is topic"),
    "a name": ("async def main(): socket.create_connection(('example.com', 443))", "takes the proxy from the environment"),
    "what is clear already": ("def main(): raise ValueError('no')", None),
    "a key that a library missed": ("def main(): return collections.ChainMap({'a': 1})['b']", None),
}


class Unknown(Recorded):
    """Knows nothing that runs are given, in the platform's words."""

    async def integration(self, name: str) -> dict[str, object]:
        raise NotFound(f"there is no mapping of integration {name!r} for organization 'acme'")

    async def emit(self, source: str, type_: str, data: object) -> dict[str, object]:
        raise NotFound(f"there is no source {source!r}")

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, object]:
        raise NotFound(f"there is no connection {name!r}")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(("text", "hint"), HINTS.values(), ids=HINTS.keys())
async def test_an_error_says_what_to_do_about_it(bench: Bench, text: str, hint: str | None) -> None:
    outcome = await bench.run("import asyncio, collections, socket\n@workflow\n" + text, Unknown())
    told = outcome.error.traceback if outcome.error is not None else ""
    if hint is None:
        assert "hint:" not in told
        return
    *before, last = told.splitlines(keepends=True)
    assert last.startswith("hint: ")
    assert hint in last
    assert not any(line.startswith("hint: ") for line in before)


async def test_a_step_that_nobody_awaited_is_complained_of_by_its_name(bench: Bench) -> None:
    record = Recorded()
    outcome = await bench.run("@workflow\nasync def main():\n    step('fetch', str)\n    return 1", record)
    assert outcome.status == "succeeded"
    assert "coroutine 'step('fetch')' was never awaited" in record.texts["stderr"]


async def test_values_are_in_no_hint(bench: Bench) -> None:
    outcome = await bench.run(f"@workflow\ndef main(event: dict = {EVENT}): event['data']['no']")
    assert outcome.error is not None
    assert "sesame" not in outcome.error.traceback.splitlines()[-1]


async def test_a_missing_module_is_a_problem_of_the_workspace_with_its_hint(bench: Bench) -> None:
    found = await bench.describe(one="import halopsa\nfrom millrace import workflow\n@workflow\ndef main(): ...")
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("one.py", 1)
    assert "ModuleNotFoundError: No module named 'halopsa' (hint: " in problem.message
    assert "name its package (halopsa) in requirements.txt" in problem.message


async def test_what_egress_denied_names_the_host_and_the_setting() -> None:
    text = """
        import urllib.request
        @workflow
        def main():
            try: urllib.request.urlopen("https://127.0.0.1:9/")
            except OSError as error: raise RuntimeError("halopsa is away") from error
    """
    async with started_bench() as bench:
        outcome = await bench.run(text, Recorded(Network(EgressRules().of("default"), Names(), lambda _record: None)))
    assert outcome.error is not None
    assert outcome.error.type == "RuntimeError"
    assert "runs may not reach 127.0.0.1" in outcome.error.traceback.splitlines()[-1]
    assert "MILLRACE_EGRESS_ALLOW" in outcome.error.traceback.splitlines()[-1]
