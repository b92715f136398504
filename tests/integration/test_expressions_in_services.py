"""What authors and users write in CEL, in the services that evaluate it: refused where it is declared, harmless where it is not."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import Invalid, NotFound
from shared.messages import WebhookReceived
from shared.questions.events import DeliveryView, GetDelivery
from tests.integration.test_expressions import LOOPS, THREE
from tests.integration.test_river import WORKFLOW
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.resources import putting, told
from tests.support.river import Outside, river
from tests.support.servers import Place, Servers

KEY = """
from millrace import workflow


@workflow(concurrency=%s)
def keyed():
    return 1
"""
SERVED = b"""
from millrace import workflow


@workflow(concurrency="input.repo")
def by_repo(repo: str = "main"):
    return repo


@workflow(concurrency="input.l.map(a, input.l.map(b, input.l.map(c, [a, b, c])))")
def by_loops(l: list):
    return len(l)


@workflow(concurrency="input.missing.deeper")
def by_nothing(missing: dict):
    return 1
"""
LONG = {"l": list(range(400))}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def refusing(servers: Servers) -> AsyncIterator[Outside]:
    """Services of the module's own, for what is refused there and leaves nothing."""
    with open_folder() as data:
        async with servers.place() as place, river(place, data) as outside:
            yield outside


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ('"+".join(["1"] * 100000)', "4096"),
        ('"+".join(["1"] * 2000)', "1000 are the most"),
        (repr(LOOPS), "nest deeper than 3"),
        ('"input.repo +"', "line 1, column 13: Syntax error"),
        ('"inptu.repo"', "looks at inptu, and there are only input and org"),
        ('"input.typo"', "looks at input.typo, and the signature has no parameter typo"),
    ],
)
async def test_a_concurrency_key_that_is_none_or_too_much_is_a_problem_with_its_line(
    refusing: Outside, key: str, said: str
) -> None:
    view = await refusing.put_file("keys.py", (KEY % key).encode())
    (problem,) = view.problems
    assert (view.workflows, problem.path, problem.line) == ([], "keys.py", 5)
    assert said in problem.message
    assert len(problem.message) < 2000
    # The executor goes on serving.
    served = SERVED + f"\n# {new_id()}\n".encode()
    assert sorted((await refusing.put_file("served.py", served)).workflows) == ["by_loops", "by_nothing", "by_repo"]


async def test_defaults_of_the_signature_apply_before_the_key(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("served.py", SERVED)
        runs = [await outside.request("by_repo", input=given) for given in ({}, {"repo": "main"}, {"repo": "other"})]
        ended = [await outside.run(run, "succeeded") for run in runs]
        assert [run.result for run in ended] == ["main", "main", "other"]
        keys = [run.concurrency_key for run in ended]
        assert keys[0] == keys[1] != keys[2]


async def test_a_key_that_takes_too_long_fails_its_run_and_no_other(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("served.py", SERVED)
        hostile = [await outside.request("by_loops", input={"l": [*LONG["l"], n]}) for n in range(6)]
        others = [await outside.request("by_repo", input={"repo": f"r{n}"}) for n in range(10)]
        for run in others:
            assert (await outside.run(run, "succeeded", "failed")).status == "succeeded"
        for run in hostile:
            ended = await outside.run(run, "failed")
            assert ended.error is not None
            assert (ended.error.type, ended.attempt) == ("ConcurrencyKey", 0)
            assert "took longer than" in ended.error.message
        nothing = await outside.run(await outside.request("by_nothing", input={"missing": {}}), "failed")
        assert nothing.error is not None
        assert "KeyError" in nothing.error.message


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"filter": LOOPS}, "filter"),
        ({"filter": "evnt.data.id > 3"}, "filter"),
        ({"filter": "event.type =="}, "filter"),
        ({"filter": "+".join(["1"] * 2000)}, "filter"),
        ({"filter": "(" * 40 + "1" + ")" * 40}, "filter"),
        ({"input": {"a": "event..b"}}, "input.a"),
        ({"input": {f"p{n}": n for n in range(200)}}, "input"),
    ],
)
async def test_a_subscription_is_refused_with_the_path_of_what_does_not_fit(
    refusing: Outside, fields: dict[str, Any], path: str
) -> None:
    await refusing.source()
    with pytest.raises(Invalid) as refused:
        await refusing.subscription(**fields)
    assert [problem.path for problem in refused.value.errors] == [path]


async def source_of(outside: Outside, org: str) -> Any:
    given = {"adapter": "github", "settings": {"secret": "s3cret"}}
    return await told(outside.bus, putting("source", "repo", outside._keyring, org=org, **given))


async def subscribed(outside: Outside, org: str, name: str, filter_: str) -> None:
    given = {"source": "repo", "event": "push", "workflow": "greet", "filter": filter_}
    await outside.bus.ask(putting("subscription", name, org=org, **given))


async def said_to(outside: Outside, source: Any, body: dict[str, Any]) -> str:
    delivery = new_id()
    received = WebhookReceived(
        source=source.id,
        delivery=delivery,
        sender_delivery=None,
        adapter="github",
        received_at=rfc3339(utc_now()),
        method="POST",
        query=[],
        headers=[("x-github-event", "push"), ("content-type", "application/json")],
        body_base64=base64.b64encode(msgspec.json.encode(body)).decode(),
    )
    await outside.bus.publish(outside.bus.seal(received, org="others", id=delivery))
    return delivery


async def routed(outside: Outside, org: str, id_: str) -> DeliveryView:
    async def settled() -> DeliveryView | None:
        try:
            view: DeliveryView = await outside.bus.ask(GetDelivery(org=org, id=id_))
        except NotFound:
            return None
        return view if view.status in {"filtered", "unroutable"} else None

    found = await eventually(settled)
    assert isinstance(found, DeliveryView)
    return found


async def test_hostile_filters_are_their_own_deliveries_trouble(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        evil = await outside.source()
        good = await source_of(outside, "others")
        await subscribed(outside, "others", "picky", "event.data.ref == 'x'")
        for number in range(4):
            slow = THREE.replace("event.l", "event.data.l")
            await subscribed(outside, "default", f"evil{number}", f"{slow} == [{number}]")
        hostile = [await outside.webhook(evil, LONG) for _ in range(3)]
        for number in range(20):
            # While these are tried, others' wait for nothing.
            view = await routed(outside, "others", await said_to(outside, good, {"ref": number}))
            assert view.reason == "the filter of picky does not let it pass"
        for id_ in hostile:
            view = await routed(outside, "default", id_)
            assert view.status == "filtered"
            assert "took longer than" in (view.reason or "")


async def test_what_evaluates_may_be_killed_at_any_time(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(filter="event.data.ref == 'x'")
        ids = []
        for number in range(20):
            ids.append(await outside.webhook(source, {"ref": "x" if number % 2 else "y"}))
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
        ended = [await outside.delivery(id_, "routed", "filtered") for id_ in ids]
        assert [one.status for one in ended] == ["filtered", "routed"] * 10


def workers() -> list[int]:
    """Return the processes of this one that evaluate expressions."""
    found = []
    for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"expressions/worker.py" in command:
            found.append(int(child))
    return found
