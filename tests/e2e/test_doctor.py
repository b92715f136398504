"""`millrace doctor`: what is well, what is wrong and what to do, with a stack that runs, that stands still, and that is ill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from deploy.credentials import SERVICES
from tests.support.client import Client
from tests.support.places import open_folder
from tests.support.programs import output
from tests.support.sandbox import TIERS
from tests.support.stack import Up, running_up

BOUND = 60.0
Findings = dict[str, dict[str, Any]]


async def readyz(up: Up, *, status: int) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        document: dict[str, Any] = await Client(session, up.read()).call("GET", "/readyz", status=status)
        return document


async def doctor(data: Path, *options: str) -> tuple[int, str]:
    return await output(sys.executable, "-m", "deploy.doctor", "--data", str(data), "--port", "0", *options)


async def findings(data: Path, *, code: int) -> Findings:
    found, said = await doctor(data, "--output", "json")
    assert found == code, said
    return {item["about"]: item for item in json.loads(said)["items"]}


def wrong(found: Findings) -> set[str]:
    return {about for about, item in found.items() if item["verdict"] == "wrong"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def up() -> AsyncIterator[Up]:
    """A stack with a small backlog."""
    with open_folder() as place:
        async with running_up(place / "data", environment=os.environ | {"MILLRACE_MAX_BACKLOG": "5"}) as stack:
            yield stack


async def test_a_stack_that_works_is_well_in_every_part(up: Up) -> None:
    found = await findings(up.data, code=0)
    assert {f"service {name}" for name in SERVICES} | {
        f"process {name}" for name in (*SERVICES, "nats", "postgres")
    } <= found.keys()
    assert found["readiness"]["said"] == "all that is taken is served"
    assert {found[f"keys of {service}"]["verdict"] for service in ("events", "oauth")} == {"well"}
    assert {"database", "broker", "dead letters", "secrets", "rows of logs"} <= found.keys()
    assert found["stack"]["said"] == f"runs at {up.ready['url']}, version {up.ready['version']}"
    code, said = await doctor(up.data)
    assert (code, said.splitlines()[-1]) == (0, "Nothing is wrong.")
    credentials = (up.data / "credentials.json").read_text()
    assert not [part for part in credentials.split('"') if len(part) >= 40 and part in said]


async def test_the_tier_that_runs_get_is_judged(up: Up) -> None:
    assert (await findings(up.data, code=0))["sandbox"]["verdict"] == ("well" if TIERS[0] == "A" else "note")


async def test_a_service_that_dies_again_and_again_is_named_here_and_by_the_gateway(up: Up) -> None:
    states = up.data / "run" / "state.json"

    def told() -> dict[str, Any]:
        content: dict[str, Any] = json.loads(states.read_bytes())
        return content

    async with asyncio.timeout(BOUND):
        while "logs" not in told()["failing"]:
            pid = told()["processes"]["logs"]["pid"]
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                await up.until(lambda pid=pid: told()["processes"]["logs"]["pid"] != pid)  # type: ignore[misc]
            else:
                await up.until(lambda: told()["processes"]["logs"]["pid"] is not None)
    found = await findings(up.data, code=1)
    assert {"process logs", "readiness"} <= wrong(found)
    assert "dies again and again: 3 times in a row, the last exit was signal 9" in found["process logs"]["said"]
    assert str(up.data / "logs" / "logs.log") in found["process logs"]["do"]
    assert not {f"process {name}" for name in SERVICES if name != "logs"} & wrong(found)
    # Also while it answers: that it does not stay is still told, with how it last ended and since when.
    async with asyncio.timeout(BOUND):
        while "logs" not in (ready := await readyz(up, status=503))["services"] or not ready["services"]["logs"]["ready"]:
            await asyncio.sleep(0.1)
    assert (ready["ready"], ready["status"], list(ready["failing"])) == (False, "unready", ["logs"])
    assert ready["accepting"] == {"webhooks": True, "reason": None}
    unserved = ready["unserved"]["logs"]
    assert (unserved["how"], unserved["last_exit"]["code"]) == ("failing", -signal.SIGKILL)
    assert unserved["since"] == told()["processes"]["logs"]["failing_since"]
    assert unserved["since"].endswith("Z")
    assert (ready["failing"]["logs"]["failures"], ready["failing"]["logs"]["last_exit"]["code"]) == (3, -signal.SIGKILL)
    # And when it has stayed for long enough, all is well again for both.
    await up.until_ready_again()
    assert (await readyz(up, status=200))["status"] == "ready"


async def test_a_service_that_hangs_is_unserved_at_the_gateway_wrong_here_and_ended_by_its_supervisor(up: Up) -> None:
    before = up.read()["services"]["oauth"]
    os.kill(before, signal.SIGSTOP)
    ready = await readyz(up, status=503)
    assert (ready["ready"], list(ready["unserved"])) == (False, ["oauth"])
    assert ready["unserved"]["oauth"]["effect"] == "no run gets a token, and no connection is made"
    assert ready["accepting"] == {"webhooks": True, "reason": None}
    found = await findings(up.data, code=1)
    assert found["service oauth"]["said"] == "does not answer"
    assert "oauth does not answer" in found["readiness"]["said"] or "oauth runs and answers nobody" in found["readiness"]["said"]
    assert "webhooks are taken and stored" in found["readiness"]["said"]
    await up.until(lambda: up.read()["services"]["oauth"] not in {None, before})
    await up.until_ready_again()
    found = await findings(up.data, code=0)
    assert "the last exit was signal 9 after it had ceased to answer" in found["process oauth"]["said"]
    assert found["readiness"]["verdict"] == "well"


async def test_a_backlog_that_grows_is_told_until_it_is_handled(up: Up) -> None:
    found = await findings(up.data, code=0)
    assert found["backlog"]["verdict"] == found["queued runs"]["verdict"] == "well"
    assert found["queued runs"]["said"].startswith("0 runs wait")
    before = up.read()["services"]["events"]
    async with aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        spec = {"adapter": "github", "settings": {"secret": "s3cret"}}
        address = (await client.call("PUT", "/api/v1/sources/flood", body=spec))["url"]
        os.kill(before, signal.SIGSTOP)
        answers = []
        while 503 not in answers:
            answers.append((await client.github(address, "s3cret", b'{"ref": "refs/heads/main"}'))[0])
    assert answers == [202, 202, 202, 202, 503]
    found = await findings(up.data, code=1)
    assert found["backlog"]["said"].startswith("4 of 5 messages wait")
    assert found["backlog"]["said"].endswith("1 were refused since its start")
    await up.until(lambda: up.read()["services"]["events"] not in {None, before})
    await up.until_ready_again()
    async with asyncio.timeout(BOUND):
        while (await readyz(up, status=200))["backlog"]["messages"]:
            await asyncio.sleep(0.2)
    assert (await findings(up.data, code=0))["backlog"]["said"].startswith("0 webhooks wait")


async def stands_still(up: Up, store: str) -> dict[str, Any]:
    """Wait until the gateway knows that a store stands still; return what it says of it."""
    async with asyncio.timeout(BOUND):
        while True:
            async with aiohttp.ClientSession() as session, session.get(up.ready["url"] + "/readyz") as response:
                document: dict[str, Any] = await response.json()
                if document["unserved"].get(store, {}).get("how") == "hung":
                    assert response.status == 503
                    return document
            await asyncio.sleep(0.2)


async def test_a_database_that_does_not_answer_hides_nothing_of_the_broker(up: Up) -> None:
    pid = up.read()["postgres_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        ready = await stands_still(up, "postgres")
        found = await findings(up.data, code=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ready["accepting"] == {"webhooks": True, "reason": None}
    assert "cannot be reached" in found["database"]["said"]
    assert "hangs" in found["process postgres"]["said"]
    assert "postgres runs and answers nobody since" in found["readiness"]["said"]
    assert "dead letters" in found
    assert found["broker"]["verdict"] == "well"
    await up.until_ready_again()
    # It was not ended for it, as a service would have been.
    assert up.read()["postgres_pid"] == pid


async def test_a_broker_that_does_not_answer_is_named(up: Up) -> None:
    pid = up.read()["nats_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        ready = await stands_still(up, "nats")
        found = await findings(up.data, code=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert not ready["accepting"]["webhooks"]
    assert "broker: " in ready["accepting"]["reason"]
    assert {"broker", "process nats", "readiness"} <= wrong(found)
    assert found["database"]["verdict"] == "well"
    await up.until_ready_again()
    assert up.read()["nats_pid"] == pid


async def test_a_stack_that_runs_and_is_not_ready_is_wrong(up: Up) -> None:
    hidden = up.data / "hidden.json"
    (up.data / "ready.json").rename(hidden)
    try:
        found = await findings(up.data, code=1)
    finally:
        hidden.rename(up.data / "ready.json")
    assert found["stack"]["said"] == "it runs and is not ready"


async def test_secrets_that_others_can_read_are_wrong_and_the_way_out_is_a_command(up: Up) -> None:
    file = up.data / "credentials.json"
    file.chmod(0o644)
    try:
        found = await findings(up.data, code=1)
    finally:
        file.chmod(0o600)
    assert f"chmod 600 {file}" in found["secrets"]["said"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_somebody_elses_folder_is_told_as_such_and_not_looked_into(data: Path) -> None:
    (data / "version").write_text("999.0.0\n")
    os.chown(data, 12345, 12345)
    found = await findings(data, code=1)
    assert found["data folder"]["said"] == f"{data} belongs to user 12345"
    assert not {"version", "secrets", "stack"} & found.keys()


async def test_a_folder_that_is_not_there_is_well_and_one_of_somebodys_files_is_not(data: Path) -> None:
    assert (await findings(data / "new", code=0))["data folder"]["said"] == f"{data / 'new'} is new"
    (data / "thesis.txt").write_text("mine")
    assert wrong(await findings(data, code=1)) == {"data folder"}
    assert wrong(await findings(data / "thesis.txt", code=1)) == {"data folder"}


async def test_a_stopped_stack_is_well_and_said_not_to_run(up: Up) -> None:
    """The last one here: it stops what the others look at."""
    await up.stop()
    found = await findings(up.data, code=0)
    assert found["stack"]["said"] == f"nothing runs on {up.data}"
    assert found["secrets"]["verdict"] == "well"
    (up.data / "credentials.json").unlink()
    assert wrong(await findings(up.data, code=1)) == {"secrets"}
