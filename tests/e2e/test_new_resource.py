"""Adding a kind of resource is one file and what its owner checks: the diff in docs/decisions, applied to a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest_asyncio

from tests.support.client import Client
from tests.support.command import Command
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.stack import ROOT, Up

DECISION = ROOT / "docs" / "decisions" / "0026-a-resource-is-one-file.md"
PARTS = ("services", "shared", "deploy", "sdk")
FILES = """
kind: widget
name: round
size: 2
labels: {colour: red}
---
kind: widget
name: square
size: 8
source: repo
"""


class Tree:
    """A copy of the tree with one kind of resource more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = os.pathsep.join((str(folder), str(folder / "sdk")))

    def make(self) -> None:
        """Copy the tree, apply the diff, and write anew what is generated."""
        for part in PARTS:
            shutil.copytree(ROOT / part, self.folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (diff,) = re.findall(r"^```diff\n(.*?)^```$", DECISION.read_text(), re.MULTILINE | re.DOTALL)
        subprocess.run(["patch", "--strip=1", "--fuzz=0", "--quiet"], input=diff.encode(), cwd=self.folder, check=True)
        (self.folder / "sdk/millrace/cli/kinds.json").write_bytes(self.run("shared.resources"))

    def run(self, module: str, *arguments: str) -> bytes:
        """Run a module of the copy; returns what it printed."""
        environment = os.environ | {"PYTHONPATH": self.path}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], env=environment, cwd=self.folder, check=True, stdout=subprocess.PIPE
        ).stdout


@pytest_asyncio.fixture
async def tree() -> AsyncIterator[Tree]:
    with open_folder() as folder:
        made = Tree(folder)
        made.make()
        yield made


async def test_a_kind_of_resource_is_added_by_one_file_and_its_check(tree: Tree, data: Path) -> None:
    (data / "widgets.yaml").write_text(FILES)
    up = Up(data / ".millrace", environment=os.environ | {"PYTHONPATH": tree.path}, root=tree.folder)
    command = Command(data)

    async def millrace(*arguments: str, code: int = 0) -> Any:
        return await command.json(*arguments, code=code, PYTHONPATH=tree.path)

    async def applied(code: int = 0) -> dict[str, str]:
        return {one["name"]: one["change"] for one in (await millrace("apply", "widgets.yaml", code=code))}

    try:
        await up.start()
        async with aiohttp.ClientSession() as session:
            client = Client(session, up.ready)
            assert (await client.call("GET", "/api/v1/widgets"))["items"] == []
            source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": "s3cret"}})

            # Put, what the owner checks, and what it shows besides.
            made = await millrace("widgets", "put", "box", "--size", "4", "--source", "repo", "--set", "a=1")
            assert (made["size"], made["source"], made["source_name"], made["labels"]) == (4, source["id"], "repo", {"a": 1})
            assert made["url"] == f"{up.ready['url']}/widgets/{made['id']}.svg"
            odd = await client.call("PUT", "/api/v1/widgets/odd", body={"size": 5}, status=422)
            assert odd["errors"] == [{"path": "size", "message": "must be even"}]
            far = await client.call("PUT", "/api/v1/widgets/far", body={"size": 4, "source": "none"}, status=422)
            assert [one["path"] for one in far["errors"]] == ["source"]
            wrong = await client.call("PUT", "/api/v1/widgets/wrong", body={"size": "large"}, status=422)
            assert [one["path"] for one in wrong["errors"]] == ["size"]

            # Patch, list and get.
            await client.call("PATCH", "/api/v1/widgets/box", body={"size": 6, "labels": {"a": 1, "b": 2}})
            patched = await client.call("PATCH", "/api/v1/widgets/box", body={"labels": {"a": None}, "source": None})
            assert (patched["size"], patched["labels"], patched["source"]) == (6, {"b": 2}, None)
            assert (await client.call("GET", "/api/v1/widgets"))["items"] == [patched]
            assert await millrace("widgets", "get", "box") == patched

            # Apply, twice, and with a mistake.
            assert await applied() == {"round": "created", "square": "created"}
            assert await applied() == {"round": "none", "square": "none"}
            (data / "widgets.yaml").write_text(FILES.replace("size: 8", "size: 9").replace("red", "blue"))
            assert await applied(code=1) == {"round": "changed", "square": "failed"}

            # Remove; the audit and the documents.
            await command("widgets", "delete", "box", PYTHONPATH=tree.path)
            await client.call("GET", "/api/v1/widgets/box", status=404)

            async def audited() -> Any:
                found = (await client.call("GET", f"/api/v1/audit?q={quote('type:audit.delete')}"))["items"]
                return [one for one in found if "widget" in str(one) and "box" in str(one)]

            assert await eventually(audited)
            document = await client.call("GET", "/openapi.json")
            assert document["paths"]["/api/v1/widgets/{name}"].keys() >= {"get", "put", "patch", "delete"}
            assert "WidgetChanged" in str(await client.call("GET", "/asyncapi.json"))
            shown = await client.call("GET", "/api/v1/widgets")
        await up.stop()

        # Its rows are made anew of its messages.
        said = tree.run("deploy.rebuild", "--from", "bus", "--data", str(up.data), "--service", "events")
        await up.start()
        async with aiohttp.ClientSession() as session:
            again = await Client(session, up.ready).call("GET", "/api/v1/widgets")
        links = [{**one, "url": one["url"].partition("/widgets/")[2]} for one in again["items"]]
        assert links == [{**one, "url": one["url"].partition("/widgets/")[2]} for one in shown["items"]], said
        assert [one["name"] for one in links] == ["round", "square"]
    finally:
        await up.clear()
