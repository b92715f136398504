"""A Millrace on machines that forbid what a tier of the sandbox needs: what it says, over HTTP and by command, and what goes on."""

import asyncio
import json
import os
import platform
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.client import Client
from tests.support.inside import eventually, running
from tests.support.programs import output
from tests.support.river import sandbox_settings
from tests.support.sandbox import TIERS, UID, reachable_interpreter
from tests.support.servers import Place
from tests.support.stack import ROOT, running_up

FORBID = (sys.executable, str(ROOT / "tests" / "support" / "forbid.py"))
SECRET = "a-secret-that-is-long-enough"
FLOW = b"from millrace import workflow\n@workflow(name='note')\ndef note(event: dict) -> str:\n    return event['type']\n"

pytestmark = [
    pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter that stands for the machine knows x86-64 only"),
    pytest.mark.skipif(TIERS[0] != "A", reason="this machine forbids namespaces already"),
]


async def test_where_namespaces_are_forbidden_runs_are_of_tier_b_and_readyz_and_doctor_say_so(data: Path) -> None:
    around = (*FORBID, "namespaces", "--")
    async with running_up(data / "data", around=around) as stack:
        async with aiohttp.ClientSession() as session:
            client = Client(session, stack.ready)
            ready = await client.call("GET", "/readyz", status=200)
            assert ready["sandbox"]["tier"] == "B"
            assert "unshare" in ready["sandbox"]["refused"]["A"]
            assert set(ready["sandbox"]["held"]) | ready["sandbox"]["unheld"].keys() == {"memory", "pids", "cpu"}
            pool = ready["services"]["executor"]["pool"]
            assert (pool["taken"], pool["waiting"]) == (0, 0)
            assert pool["slots"] > 0
            await client.put_file("note.py", FLOW)
            asked = {"input": {"event": {"type": "t"}}}
            run = await client.call("POST", "/api/v1/workflows/note/runs?wait=20", body=asked, status=200)
            assert (run["status"], run["result"], run["sandbox"]) == ("succeeded", "t", {"tier": "B", "isolation": "run"})
        _, said = await output(*around, sys.executable, "-m", "deploy.doctor", "--output", "json", "--data", str(stack.data))
        found = {item["about"]: item for item in json.loads(said)["items"]}
        for about in ("sandbox", "sandbox here"):
            assert (found[about]["verdict"], "tier B" in found[about]["said"]) == ("note", True)
            assert "docs/security.md" in found[about]["do"]
            assert "--security-opt seccomp=unconfined" in found[about]["do"]


@pytest.mark.parametrize("missing", ["landlock", "namespaces,landlock"])
async def test_where_no_tier_stands_up_names_the_fix_and_exits_3(data: Path, missing: str) -> None:
    code, said = await output(
        *FORBID, missing, "--", sys.executable, "-m", "deploy.local", "--data", str(data / "data"), "--port", "0"
    )
    assert code == 3, said
    assert "No sandbox is available" in said
    assert "lsm=landlock" in said
    assert not (data / "data" / "ready.json").exists()


@asynccontextmanager
async def executor_without(missing: str, place: Place, data: Path) -> AsyncIterator[Path]:
    """Run an executor by itself, as an operator would beside others; yields its health socket."""
    health = data / "health.sock"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"} | place.environment(
        "executor", MILLRACE_DATA=str(data / "executor"), MILLRACE_HEALTH_ADDR=f"unix:{health}", **sandbox_user()
    )
    process = await asyncio.create_subprocess_exec(
        *(*FORBID, missing, "--", sys.executable, "-m", "services", "executor"),
        env=environment,
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield health
    finally:
        process.terminate()
        await process.wait()


def sandbox_user() -> dict[str, str]:
    return {} if UID is None else {"MILLRACE_SANDBOX_UID": str(UID)}


async def asked(socket: Path, path: str) -> tuple[int, str]:
    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://service{path}") as response:
        return response.status, await response.text()


async def test_where_no_tier_stands_webhooks_are_kept_and_runs_wait_for_a_worker(place: Place, data: Path) -> None:
    async with (
        running(place, "gateway", MILLRACE_PORT="0") as gateway,
        running(place, "events"),
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, {"url": gateway.health.document()["url"], "admin_key": place.credentials.admin_key})
        async with running(place, "executor", MILLRACE_DATA=str(data / "first"), **sandbox_settings()):
            await client.put_file("note.py", FLOW)
            source = {"adapter": "github", "settings": {"secret": SECRET}}
            address = (await client.call("PUT", "/api/v1/sources/repo", body=source))["url"]
            await client.call("PUT", "/api/v1/subscriptions/note", body={"source": "repo", "event": "push", "workflow": "note"})

        async with executor_without("namespaces,landlock", place, data) as health:

            async def told() -> Any:
                try:
                    return "No sandbox" in (await asked(health, "/readyz"))[1]
                except aiohttp.ClientConnectionError:
                    return False  # it does not listen yet

            await eventually(told)
            status, text = await asked(health, "/readyz")
            document = json.loads(text)
            assert (status, document["sandbox"]["tier"]) == (503, None)
            assert "lsm=landlock" in document["parts"]["sandbox"]["detail"]
            assert set(document["sandbox"]["refused"]) == {"A", "B"}

            async def takes_nothing() -> bool:
                return 'millrace_pool_slots{service="executor"} 0' in (await asked(health, "/metrics"))[1]

            # It says what is missing before it has started.
            await eventually(takes_nothing)
            ready = await client.call("GET", "/readyz", status=503)
            # It answers and says what it lacks, unlike those that do not run here.
            assert (ready["degraded"], set(ready["unserved"])) == (["executor"], {"oauth", "logs"})
            assert ready["sandbox"]["tier"] is None
            status, answer = await client.github(address, SECRET, b'{"ref": "main"}')
            assert status == 202
            (run,) = (await client.delivery(answer["id"], "routed"))["runs"]
            waiting = await client.run(run["id"], "queued")
            assert waiting["blocked_on"] == "worker"
            refused = await client.call("PUT", "/api/v1/workspace/files/other.py", data=FLOW, status=503)
            assert "No sandbox" in refused["detail"] or "code cannot be read now" in refused["detail"]

        async with running(place, "executor", MILLRACE_DATA=str(data / "third"), **sandbox_settings()):
            ended = await client.run(run["id"], "succeeded")
            assert ended["result"] == "push"
