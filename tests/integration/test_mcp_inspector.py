"""Workflows as tools, called by the command-line mode of the protocol's own inspector."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from tests.integration.test_mcp import home
from tests.integration.test_run_routes import House
from tests.support.inside import eventually
from tests.support.peers import install, without

__all__ = ["home"]

INSPECTOR = Path(__file__).parents[1] / "peers" / "inspector"
# The command is a part of a larger package, whose name and version it looks up there.
WHOLE = INSPECTOR / "node_modules" / "@modelcontextprotocol" / "package.json"


async def inspect(house: House, key: str, method: str, *options: str) -> tuple[int, str]:
    """Return how the inspector ended, and what it printed: the answer, or what went wrong."""
    process = await asyncio.create_subprocess_exec(
        *[str(INSPECTOR / "node_modules" / ".bin" / "mcp-inspector-cli"), "--cli", f"{house.client.url}/mcp"],
        *["--transport", "http", "--header", f"Authorization: Bearer {key}", "--method", method, *options],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, wrong = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (wrong if process.returncode else printed).decode()


async def test_the_inspector_lists_calls_waits_for_a_yes_and_is_refused_what_its_key_may_not(home: House) -> None:
    if shutil.which("node") is None:
        without("Node.js (`node`) is not installed")
    await asyncio.to_thread(install, INSPECTOR)
    WHOLE.write_text('{"name": "@modelcontextprotocol/inspector", "version": "1.0.3"}')
    keys: dict[str, str] = {}
    for role in ("operator", "viewer"):
        made = await home.client("PUT", f"/api/v1/keys/inspector-{role}", json={"role": role})
        keys[role] = made.json["key"]

    async def asked(method: str, *options: str, key: str = keys["operator"]) -> Any:
        code, printed = await inspect(home, key, method, *options)
        assert code == 0, printed
        return json.loads(printed)

    listed = await asked("tools/list")
    assert {one["name"] for one in listed["tools"]} == {"add", "stumble", "linger", "refund"}
    added = await asked("tools/call", "--tool-name", "add", "--tool-arg", "a=2", "b=40")
    assert added["structuredContent"] == {"sum": 42}
    failed = await asked("tools/call", "--tool-name", "stumble")
    assert failed["isError"]
    assert "there is no such ticket" in json.dumps(failed)
    templates = await asked("resources/templates/list")
    assert any("run" in one["uriTemplate"] for one in templates["resourceTemplates"])

    async def opened() -> Any:
        return [one for one in (await home.get("/approvals"))["items"] if one["status"] == "open"]

    refund = asyncio.create_task(asked("tools/call", "--tool-name", "refund", "--tool-arg", "order=A-7"))
    (approval,) = await eventually(opened)
    assert (await home.client("POST", f"/api/v1/approvals/{approval['id']}", json={"decision": "approve"})).status == 200
    assert "refunded, as " in json.dumps(await refund)

    assert (await asked("tools/list", key=keys["viewer"])) == {"tools": []}
    code, printed = await inspect(home, keys["viewer"], "tools/call", "--tool-name", "add", "--tool-arg", "a=1")
    assert code != 0
    assert "operator" in printed, printed
    code, printed = await inspect(home, "mr_not_a_key", "tools/list")
    assert (code != 0, "401" in printed or "nauthorized" in printed) == (True, True), printed
