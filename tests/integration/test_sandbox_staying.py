"""Where a workflow lets one process serve several of its runs: what they share then, and what they never do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.interface import Job
from tests.support.egress import greeting_server, way_out
from tests.support.inside import eventually
from tests.support.sandbox import TIERS, Bench, Recorded, started_bench

CODE = """
import os, threading, time, urllib.request

SEEN = []

@workflow
def fetch(url: str, note: str) -> list:
    SEEN.append(note)
    body = urllib.request.urlopen(url, timeout=20).read().decode()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        os.environ[name] = "http://127.0.0.1:1"
    return [SEEN, body]

@workflow
def main(note: str = "", leave: str = "") -> dict:
    SEEN.append(note)
    found = {"seen": list(SEEN), "env": os.environ.get("LEFT"), "files": sorted(os.listdir(".")), "cwd": os.getcwd()}
    if leave == "thread":
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    if leave == "process" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    if leave == "error":
        raise ValueError("as it happens")
    if leave == "exit":
        os._exit(3)
    print("said by", note)
    os.environ["LEFT"] = "behind"
    try:
        open("left", "w").close()
        os.mkdir("folder")
        open("folder/inside", "w").close()
        os.chdir("folder")
    except PermissionError:
        os.chdir("/")  # there is no place to write to in tier B
    return found


@workflow
async def ask(name: str) -> str:
    connection = await connections.aget(name)
    await step("kept", len, connection.token)
    return connection.token


@workflow
def spell(name: str = "", text: str = "") -> str:
    return secrets.get(name) if name else text


@workflow
def tell(text: str) -> str:
    print(text)
    return text
"""


@pytest.fixture(params=["A", "B"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


class Flow:
    """Runs of one bundle's workflows, of one organization unless said."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._bundle: Path = bench.bundle(flow="from millrace import *\n" + CODE)

    async def run(
        self,
        workflow: str,
        *,
        org: str = "default",
        secrets: dict[str, str] | None = None,
        network: Network | None = None,
        **given: object,
    ) -> tuple[object, Recorded]:
        said = Recorded(network)
        said.secrets |= secrets or {}
        job = Job(
            run="r",
            attempt=1,
            org=org,
            workflow=workflow,
            bundle=self._bundle,
            module="flow",
            function=workflow,
            input=dict(given),
            timeout=20,
            isolation="workflow",
        )
        outcome = await self._bench.children.run(job, said)
        if outcome.result is None:
            return (outcome.status, outcome.error and outcome.error.type), said
        return msgspec.json.decode(outcome.result), said

    async def settled(self, staying: int) -> None:
        async def counted() -> bool:
            pool = self._bench.children.pool()
            is_settled = not pool["ending"] and not self._bench.children._residents._returning
            return pool["staying"] == staying and is_settled

        await eventually(counted)


async def test_a_process_serves_one_run_after_the_other_with_its_modules_as_they_are(bench: Bench) -> None:
    flow = Flow(bench)
    _, said = await flow.run("main", note="a")
    assert said.texts["stdout"] == "said by a\n"
    await flow.settled(1)
    second, said = await flow.run("main", note="b")
    assert isinstance(second, dict)
    assert second["seen"] == ["a", "b"]
    assert said.texts["stdout"] == "said by b\n"


async def test_environment_files_and_folder_are_put_back_between_two_runs(bench: Bench) -> None:
    flow = Flow(bench)
    first, _ = await flow.run("main", note="a")
    await flow.settled(1)
    second, _ = await flow.run("main", note="b")
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (second["env"], second["files"], second["cwd"]) == (None, [], first["cwd"])


@pytest.mark.skipif(TIERS[0] != "A", reason="this machine forbids namespaces")
async def test_the_way_out_is_the_same_in_each_run_whatever_an_earlier_one_has_set() -> None:
    async with started_bench(kind="A") as bench, greeting_server() as url:
        flow = Flow(bench)
        told: list[Record] = []
        for number in range(3):
            found, _ = await flow.run("fetch", network=way_out(told.append), url=url, note=str(number))
            assert found == [["0", "1", "2"][: number + 1], "reached"]
            await flow.settled(1)
        assert [one.outcome for one in told] == ["connected"] * 3


@pytest.mark.parametrize("leave", ["thread", "process", "exit"])
async def test_a_process_in_which_something_goes_on_serves_nobody_else(bench: Bench, leave: str) -> None:
    flow = Flow(bench)
    first, _ = await flow.run("main", note="a", leave=leave)
    # In tier B no process can be started: that is an error of the author's, and nothing goes on.
    is_refused = first == ("failed", "PermissionError")
    assert is_refused == (bench.children.tier == "B" and leave == "process")
    await flow.settled(int(is_refused))
    second, _ = await flow.run("main", note="b")
    assert isinstance(second, dict)
    assert second["seen"] == (["a", "b"] if is_refused else ["b"])


async def test_an_error_of_the_author_s_does_not_end_the_process(bench: Bench) -> None:
    flow = Flow(bench)
    assert (await flow.run("main", note="a", leave="error"))[0] == ("failed", "ValueError")
    await flow.settled(1)
    second, _ = await flow.run("main", note="b")
    assert isinstance(second, dict)
    assert second["seen"] == ["a", "b"]


async def test_another_organization_or_workflow_gets_another_process(bench: Bench) -> None:
    flow = Flow(bench)
    await flow.run("main", note="a")
    await flow.settled(1)
    second, _ = await flow.run("main", note="b", org="other")
    assert isinstance(second, dict)
    assert second["seen"] == ["b"]
    await flow.settled(2)
    await flow.run("tell", text="x")
    await flow.settled(3)


async def test_when_all_places_are_taken_the_longest_idle_process_goes(bench: Bench) -> None:
    flow = Flow(bench)
    for org in ("a", "b", "c", "d"):
        await flow.run("main", note="1", org=org)
        await flow.settled(min(4, ord(org) - ord("a") + 1))
    await flow.run("main", note="2", org="a")
    await flow.settled(4)
    await flow.run("main", note="1", org="newcomer")  # takes the place of b's
    await flow.settled(4)
    for org, seen in (("newcomer", ["1", "2"]), ("a", ["1", "2", "2"]), ("c", ["1", "2"]), ("d", ["1", "2"]), ("b", ["2"])):
        found, _ = await flow.run("main", note="2", org=org)
        assert isinstance(found, dict)
        assert (org, found["seen"]) == (org, seen)
        await flow.settled(4)


async def test_what_an_earlier_run_was_given_stays_masked(bench: Bench) -> None:
    flow = Flow(bench)
    value = "open-sesame-please"
    assert (await flow.run("spell", secrets={"door": value}, name="door"))[0] == "***"
    await flow.settled(1)
    assert (await flow.run("spell", text=f"it is {value}"))[0] == "it is ***"


async def test_answers_and_steps_belong_to_the_run_that_asked(bench: Bench) -> None:
    flow = Flow(bench)
    for _ in range(3):
        _, said = await flow.run("ask", name="halopsa")
        assert said.asked == ["halopsa"]
        assert list(said.steps) == [("kept", 0)]
        await flow.settled(1)
