"""Packs against a stack: applied, their checklists worked off, run, upgraded and removed; and completed where they were cut off."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from millrace.cli.api import Api
from millrace.cli.kinds import kinds
from millrace.cli.packs.bringing import Stopped, bring
from millrace.cli.packs.manifest import manifest_of
from millrace.cli.packs.planning import plan_of
from millrace.cli.session import Session
from tests.e2e.conftest import REMOTES
from tests.support.client import Client
from tests.support.command import Command
from tests.support.cutting import CHANGE, cut_at
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.stack import ROOT, Up
from tests.support.web import served

SECRET = "a-secret-that-github-signs-with"
VALUE = ("--value", "webhook-secret=secret.txt")
ISSUE = {"number": 7, "title": "Crash at start", "body": "it fails", "html_url": "https://github.com/acme/app/issues/7"}
OPENED = {"action": "opened", "issue": ISSUE | {"user": {"type": "User"}}, "repository": {"full_name": "acme/app"}}


class Packs:
    """The command in a folder with a copy of the examples, and a GitHub that takes what it is sent."""

    def __init__(self, place: Path, millrace: Command, github: str) -> None:
        self.place = place
        self.millrace = millrace
        self.github = github
        self.asked: list[tuple[str, Any, str]] = []

    def folder(self, name: str) -> Path:
        """Return a copy of an example of the test's own."""
        folder = self.place / name
        if not folder.exists():
            shutil.copytree(ROOT / "examples" / name, folder)
        return folder

    async def __call__(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        return await self.millrace.json("packs", *arguments, code=code, **environment)

    async def connect(self, org: str = "default") -> None:
        """Make the connection that the triage needs, to the GitHub of this test."""
        given = ["connections", "put", "github", "--base-url", self.github, "--token-file", "token.txt", "--org", org]
        await self.millrace(*given)

    async def labelled(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.json(), request.headers["Authorization"]))
        return web.json_response([])


@pytest_asyncio.fixture
async def packs(up: Up) -> AsyncIterator[Packs]:
    with open_folder() as place:
        millrace = Command(place)
        made = Packs(place, millrace, "")
        application = web.Application()
        application.router.add_post("/repos/acme/app/issues/7/labels", made.labelled)
        (place / ".millrace").symlink_to(up.data)
        (place / "secret.txt").write_text(SECRET)
        (place / "token.txt").write_text("a-token-of-github")
        async with served(application, at=REMOTES) as made.github:
            yield made


def changed(folder: Path, file: str, *pairs: tuple[str, str]) -> None:
    """Replace texts in a file of a pack."""
    path = folder / file
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def actions(document: dict[str, Any]) -> dict[str, str]:
    return {f"{one['kind']} {one['name']}": one["action"] for one in document["items"]}


def open_items(document: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {f"{one['kind']} {one['name']}": (one["status"], one["do"]) for one in document["checklist"] if one["status"] != "ok"}


def owned(up: Up, org: str, name: str) -> dict[str, Any]:
    """Return all that an organization has of a pack, without what is another thing each time."""
    api = Api(up.ready["url"], key=up.ready["admin_key"], org=org)
    try:
        found: dict[str, Any] = {}
        for kind in (one for one in kinds().values() if not one.platform and not one.is_placed):
            for shown in api.pages(*kind.collection(""))["items"]:
                if shown["applied_as"] == f"pack:{name}" or (kind.noun, shown["name"]) == ("pack", name):
                    found[f"{kind.noun} {shown['name']}"] = kind.body_of(shown)
        folder = name.replace("-", "_")
        found |= {view["path"]: view["sha256"] for view in api.pages("/workspace/files", query={"prefix": f"{folder}/"})["items"]}
        return found | {f"workflow {one['name']}": None for one in api.pages("/workflows")["items"] if folder in one["path"]}
    finally:
        api.close()


async def test_an_example_is_applied_worked_off_run_upgraded_and_removed(up: Up, packs: Packs, client: Client) -> None:
    folder = packs.folder("github-triage")
    # What is missing is named, with what settles it; nothing is changed before.
    looked = await packs("check", "github-triage", code=1)
    todo = open_items(looked)
    assert todo.keys() == {"connection github", "value webhook-secret"}
    refused = await packs("apply", "github-triage", code=1)
    assert (refused["outcomes"], owned(up, "default", "github-triage")) == ([], {})
    (command,) = todo["connection github"][1]
    told = shlex.split(command)
    assert told[:4] == ["millrace", "connections", "put", "github"]
    swapped = {"https://api.github.com": packs.github, "FILE": "token.txt"}
    await packs.millrace(*(swapped.get(one, one) for one in told[1:]))
    assert open_items(await packs("check", "github-triage", code=1)).keys() == {"value webhook-secret"}
    assert open_items(await packs("check", "github-triage", *VALUE)) == {}

    done = await packs("apply", "github-triage", *VALUE)
    assert {one["change"] for one in done["outcomes"]} == {"created"}
    assert [f"{one['kind']} {one['name']}" for one in done["outcomes"]] == [
        "variable github-triage.rules",
        "file github_triage/labels.py",
        "file github_triage/triage.py",
        "source github-issues",
        "subscription github-issues-opened",
        "pack github-triage",
    ]
    assert "nothing to do" in await packs.millrace("packs", "apply", "github-triage", *VALUE)
    assert SECRET not in json.dumps(done)
    # What is left is the sender's: the address of the source.
    ((status, (address,)),) = open_items(done).values()
    assert (status, address.startswith(up.ready["url"])) == ("todo", True)

    # An issue is opened, somebody approves, and it is labelled.
    sent, answer = await client.github(address, SECRET, json.dumps(OPENED).encode(), event="issues")
    assert sent == 202
    await client.delivery(answer["id"], "routed")

    async def asked() -> Any:
        found = await client.available("/api/v1/approvals?status=open")
        return next((one for one in found["items"] if "acme/app#7" in one["prompt"]), None) if found else None

    approval = await eventually(asked)
    await packs.millrace("approvals", "answer", approval["id"], "approve", "--data", "{}")
    run = await client.run(approval["run"], "succeeded")
    assert run["result"]["labels"] == ["bug"]
    assert packs.asked == [("/repos/acme/app/issues/7/labels", {"labels": ["bug"]}, "Bearer a-token-of-github")]
    assert open_items(await packs("check", "github-triage")) == {}

    # Another version: what was changed here and not by the pack stays, what both have changed waits for a word.
    rules = {"bug": ["boom"]}
    await packs.millrace("variables", "put", "github-triage.rules", json.dumps(rules))
    changed(folder, "millrace.yaml", ("1.0.0", "1.1.0"))
    changed(folder, "github_triage/triage.py", ("needs-triage", "untriaged"))
    changed(folder, "resources/triage.yaml", ("name: github-issues-opened", "name: github-issues-new"))
    (folder / "github_triage" / "words.py").write_text("KNOWN = True\n")
    shown = await packs("diff", "github-triage")
    assert {name: action for name, action in actions(shown).items() if action != "none"} == {
        "variable github-triage.rules": "keep",
        "subscription github-issues-new": "create",
        "subscription github-issues-opened": "remove",
        "file github_triage/triage.py": "change",
        "file github_triage/words.py": "create",
    }
    text = await packs.millrace("packs", "diff", "github-triage")
    assert "github-triage: 1.0.0 -> 1.1.0" in text
    assert re.search(r'^  -.*"needs-triage"', text, re.MULTILINE)
    assert re.search(r'^  \+.*"untriaged"', text, re.MULTILINE)
    # Of what is new all is shown: whoever applies it has read it.
    assert "  --- nothing\n  +++ github_triage/words.py (pack)\n  @@ -0,0 +1 @@\n  +KNOWN = True\n" in text
    assert re.search(r'create subscription github-issues-new\n(  .*\n)*?  workflow: "', text)
    # Without the value, which the source keeps.
    upgraded = await packs("apply", "github-triage")
    assert {f"{one['change']} {one['kind']}" for one in upgraded["outcomes"]} == {
        "changed file", "created file", "created subscription", "removed subscription", "changed pack",
    }  # fmt: skip
    assert (await client.call("GET", "/api/v1/variables/github-triage.rules"))["value"] == rules
    sent, _ = await client.github(address, SECRET, json.dumps(OPENED).encode(), event="issues")
    assert sent == 202

    await packs.millrace("subscriptions", "patch", "github-issues-new", "--disabled")
    changed(folder, "resources/triage.yaml", ("event: issues.opened", "event: issues.*"))
    before = owned(up, "default", "github-triage")
    refused = await packs("apply", "github-triage", code=1)
    assert actions(refused)["subscription github-issues-new"] == "conflict"
    (item,) = [one for one in refused["items"] if one["action"] == "conflict"]
    assert item["fields"] == {"enabled": [False, True], "event": ["issues.opened", "issues.*"]}
    assert owned(up, "default", "github-triage") == before
    forced = await packs("apply", "github-triage", "--force")
    assert {"changed subscription", "changed variable"} <= {f"{one['change']} {one['kind']}" for one in forced["outcomes"]}
    assert (await client.call("GET", "/api/v1/subscriptions/github-issues-new"))["enabled"]

    # Removed is all of it, and nothing else.
    await packs.millrace("files", "put", "github_triage/mine.txt", "secret.txt")
    await packs.millrace("variables", "put", "github-triage.rules", "{}")
    refused = await packs("remove", "github-triage", code=1)
    assert {name for name, action in actions(refused).items() if action == "conflict"} == {"variable github-triage.rules"}
    # A deployment of other files takes none of the pack's away.
    (packs.place / "other").mkdir()
    (packs.place / "other" / "flow.py").write_text("from millrace import workflow\n\n\n@workflow\ndef other() -> None:\n    pass\n")
    await packs.millrace("files", "delete", "github_triage/mine.txt")
    key = await packs.millrace.json("keys", "create", "ci", "--role", "developer", "--scopes", '["workspace"]')
    narrow = {"MILLRACE_URL": up.ready["url"], "MILLRACE_KEY": key["key"]}
    _, error = await packs.millrace.both("deploy", "other", "--prune", code=1, **narrow)
    assert "nothing was deployed: --prune spares what packs have brought, and this key may not see packs (scope: packs)" in error
    assert json.loads(await packs.millrace("deploy", "other", "--prune", "--output", "json"))["deleted"] == []
    await packs.millrace("files", "put", "github_triage/mine.txt", "secret.txt")
    _, error = await packs.millrace.both("packs", "remove", "github-triage", "--force")
    assert "github_triage/mine.txt is no file of the pack, and stays" in error
    assert owned(up, "default", "github-triage").keys() == {"github_triage/mine.txt"}
    assert (await client.call("GET", "/api/v1/connections/github"))["status"] == "active"
    await packs.millrace("packs", "remove", "github-triage", code=1)
    # Its run went on with the code that it had begun with.
    asked_again = await eventually(asked)
    await packs.millrace("approvals", "answer", asked_again["id"], "refuse")
    assert (await client.run(asked_again["run"], "succeeded"))["result"]["labels"] == []


async def test_cut_off_anywhere_the_same_command_completes_it(up: Up, packs: Packs) -> None:
    packs.folder("github-triage")

    async def cut(org: str, number: int, *arguments: str) -> int:
        """Return the exit code of a command whose API goes away at a change."""
        async with cut_at(up.ready["url"], number, CHANGE) as url:
            there = {"MILLRACE_URL": url, "MILLRACE_KEY": up.ready["admin_key"]}
            async with packs.millrace.started("packs", *arguments, "--org", org, **there) as process:
                await process.communicate(b"")
                assert process.returncode is not None
                return process.returncode

    await packs.connect("whole")
    await packs("apply", "github-triage", *VALUE, "--org", "whole")
    whole = owned(up, "whole", "github-triage")
    assert len(whole) == 7
    number, code = 0, 1
    while code:
        number += 1
        org = f"cut-{number}"
        await packs.connect(org)
        code = await cut(org, number, "apply", "github-triage", *VALUE)
        if code:
            await packs("apply", "github-triage", *VALUE, "--org", org)
        found = owned(up, org, "github-triage")
        # The record names the same things, also after an answer that never came.
        assert found == whole, number
        if await cut(org, number, "remove", "github-triage"):
            there = await packs("list", "--org", org)
            # The last answer that never came was that of the record's own removal.
            if there["items"]:
                assert there["items"][0]["status"] in {"removing", "applied"}
                await packs("remove", "github-triage", "--org", org)
        assert owned(up, org, "github-triage") == {}, number
    # Two records, a variable, a commit, a source and a subscription.
    assert number == 7


async def test_who_is_overtaken_brings_nothing_more(up: Up, packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packs.folder("github-triage")
    await packs.connect("two")
    monkeypatch.setenv("MILLRACE_URL", up.ready["url"])
    monkeypatch.setenv("MILLRACE_KEY", up.ready["admin_key"])
    session = Session(org="two")
    pack = manifest_of(folder, "here")
    slow = bring(session, pack, plan_of(session, pack, {"webhook-secret": SECRET}, force=False))
    assert next(slow).kind == "variable"
    # Somebody else begins, and ends, before the files of the first.
    changed(folder, "github_triage/triage.py", ("needs-triage", "untriaged"))
    await packs("apply", "github-triage", *VALUE, "--org", "two")
    there = owned(up, "two", "github-triage")
    with pytest.raises(Stopped, match="somebody else has begun with the pack 'github-triage'"):
        list(slow)
    assert owned(up, "two", "github-triage") == there
    session.close()


async def test_what_is_anothers_is_refused_by_name(up: Up, packs: Packs, client: Client) -> None:
    folder = packs.folder("github-triage")
    await packs.connect("shared")
    await packs.millrace("sources", "put", "github-issues", "--adapter", "topic", "--org", "shared")
    refused = await packs("apply", "github-triage", *VALUE, "--org", "shared", code=1)
    assert [one["why"] for one in refused["items"] if one["action"] == "conflict"] == ["is there, and no pack's"]
    await packs("apply", "github-triage", *VALUE, "--org", "shared", "--force")
    other = packs.place / "other-triage"
    shutil.copytree(folder, other)
    changed(other, "millrace.yaml", ("name: github-triage", "name: other-triage"))
    (other / "github_triage").rename(other / "other_triage")
    changed(other, "other_triage/triage.py", ("github_triage.labels", "other_triage.labels"))
    refused = await packs("apply", "other-triage", *VALUE, "--org", "shared", "--force", code=1)
    said = "\n".join(refused["faults"])
    for kind, name in (("source", "github-issues"), ("subscription", "github-issues-opened"), ("variable", "github-triage.rules")):
        assert f"{kind} '{name}' is of the pack 'github-triage'" in said
    # And so is a workflow, which is the workspace's.
    assert "triage-issue is already in" in said
    assert owned(up, "shared", "other-triage") == {}
    # A record that somebody wrote by hand has no part in what is another's, whatever it says.
    written = await packs("get", "github-triage", "--org", "shared")
    body = {"release": "1", "files": written["files"], "resources": written["resources"]}
    before = owned(up, "shared", "github-triage")
    for name in ("github_triage", "thief"):
        await client.call("PUT", f"/api/v1/packs/{name}?org=shared", body=body)
        await packs("remove", name, "--force", "--org", "shared")
        assert owned(up, "shared", "github-triage") == before
    # A broken file brings nothing at all.
    changed(folder, "github_triage/labels.py", ("def split", "def split("))
    refused = await packs("apply", "github-triage", "--org", "shared", code=1)
    assert any("github_triage/labels.py:" in one for one in refused["faults"])
    assert (await packs("list", "--org", "shared"))["items"][0]["status"] == "applied"


async def test_a_pack_comes_from_a_repository_at_a_tag(packs: Packs) -> None:
    folder = packs.folder("github-triage")
    repository = packs.place / "repository"
    (repository / "packs").mkdir(parents=True)
    shutil.copytree(folder, repository / "packs" / "github-triage")

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        return subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD").strip()
    changed(repository / "packs" / "github-triage", "millrace.yaml", ("1.0.0", "2.0.0"))
    git("commit", "--quiet", "--all", "--message", "second")
    await packs.connect("git")
    place = (f"file://{repository}", "--folder", "packs/github-triage", "--org", "git", *VALUE)
    # Where a hook runs it, git would work in the repository of the hook.
    await packs("apply", *place, "--ref", "v1", GIT_DIR=str(repository / ".git"), GIT_WORK_TREE=str(repository))
    assert (git("rev-parse", "--abbrev-ref", "HEAD").strip() != "HEAD", git("status", "--porcelain")) == (True, "")
    (found,) = (await packs("list", "--org", "git"))["items"]
    assert (found["release"], found["origin"]) == ("1.0.0", f"file://{repository} packs/github-triage {commit}")
    await packs("apply", *place)
    assert (await packs("get", "github-triage", "--org", "git"))["release"] == "2.0.0"
    _, error = await packs.millrace.both("packs", "apply", *place, "--ref", "nowhere", code=2)
    assert "nowhere" in error


async def test_the_other_examples_are_taken_by_a_stack(up: Up, packs: Packs) -> None:
    for name, values, missing in (
        (
            "stripe-accounting",
            ("--value", "signing-secret=secret.txt"),
            {"connection stripe", "connection xero", "provider xero"}
            | {f"variable accounting.{one}" for one in ("tenant", "revenue", "bank")},
        ),
        (
            "new-employee",
            (),
            {"connection graph", "connection slack", "provider microsoft-graph"}
            | {f"variable onboarding.{one}" for one in ("domain", "groups", "channels")},
        ),
    ):
        packs.folder(name)
        looked = await packs("check", name, *values, "--org", name, code=1)
        assert open_items(looked).keys() == missing
        assert all(do for _, do in open_items(looked).values())
        assert await packs.millrace("packs", "check", name, *values, "--org", name, code=1)
        done = await packs("apply", name, "--incomplete", *values, "--org", name)
        assert {one["change"] for one in done["outcomes"]} == {"created"}
        assert any(one.startswith("workflow ") for one in owned(up, name, name))
        # Each command of the checklist is one that there is, with its options; what it lacks are the values.
        commands = [shlex.split(one) for _, do in open_items(looked).values() for one in do]
        for one in commands:
            if one[1:3] == ["variables", "put"]:
                await packs.millrace(*one[1:])
            elif one[2] == "put":
                await packs.millrace(*("secret.txt" if part == "FILE" else part for part in one[1:]))
        left = open_items(await packs("check", name, *values, "--org", name, code=1))
        # Those that somebody, or the provider, has to allow.
        assert {kind for kind, (status, _) in left.items() if status == "missing"} <= {"connection xero", "connection graph"}
        await packs("remove", name, "--org", name)
        assert owned(up, name, name) == {}


async def test_needs_are_met_as_runs_would_find_them(client: Client) -> None:
    await client.call("PUT", "/api/v1/secrets/of-all?org=global", body={"value": "x"})
    services = {"value": "x", "readers": "services"}
    await client.call("PUT", "/api/v1/secrets/of-services?org=needs", body=services)
    # What is kept for services hides nothing from runs, and the platform's is nobody else's to know.
    await client.call("PUT", "/api/v1/secrets/of-all?org=needs", body=services)
    await client.call("PUT", "/api/v1/secrets/hidden?org=global", body=services)
    await client.call("PUT", "/api/v1/connections/of-all?org=global", body={"token": "t"})
    await client.call("PUT", "/api/v1/variables/of-all?org=global", body={"value": None})
    await client.call("PUT", "/api/v1/providers/hub?org=needs", body={"known": "github", "client_id": "c"})
    body = {"grant": "authorization_code", "provider": "hub"}
    await client.call("PUT", "/api/v1/connections/pending?org=needs", body=body)
    asked = {
        "connections": ["pending", "of-all", "nowhere"],
        "secrets": ["of-all", "of-services", "hidden", "nowhere"],
        "variables": ["of-all", "nowhere"],
        "domains": ["api.example.com", "127.0.0.1:80", f"{REMOTES}:80"],
    }
    found = (await client.call("POST", "/api/v1/needs?org=needs", body=asked))["items"]
    assert [(one["kind"], one["name"]) for one in found] == [(kind[:-1], name) for kind, names in asked.items() for name in names]
    met = [False, True, False, True, False, False, False, True, False, True, False, True]
    assert [one["met"] for one in found] == met
    assert [one["reason"] for one in found[2:7]] == [
        "is not there",
        None,
        "is kept for services: no run is given it",
        *["is not there"] * 2,
    ]
    assert all((one["reason"] is None) == one["met"] for one in found)
    assert found[0]["status"] == "pending"
    refused = await client.call("POST", "/api/v1/needs", body={"domains": ["api.example.com", "no host"]}, status=422)
    assert [one["path"] for one in refused["errors"]] == ["domains.1"]
