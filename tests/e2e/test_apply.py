"""Configuration as files: a folder of resources of every kind, applied to a stack again and again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from millrace.cli.api import Api
from millrace.cli.applying import AT_ONCE
from millrace.cli.kinds import kinds
from tests.support.client import Client
from tests.support.command import Command
from tests.support.cutting import cut_at
from tests.support.places import open_folder
from tests.support.stack import Up

TOKENS = {f"TOKEN_{number}": f"a token {number} to keep" for number in range(3)}
# Subscriptions come first, so that nothing is right but in another order than that of the files.
RESOURCES: dict[str, list[dict[str, Any]]] = {
    "a/subscriptions.yaml": [
        {
            "kind": "subscription",
            "name": f"push-{number}",
            "source": f"repo-{number % 4}",
            "event": "push",
            "workflow": "w",
            "filter": f"event.data.n == {number}",
            "input": {"n": "event.data.n"},
        }
        for number in range(6)
    ],
    "a/times.yaml": [
        {"kind": "schedule", "name": "daily", "cron": "0 9 * * MON-FRI", "timezone": "Europe/Vienna", "workflow": "w"},
        {"kind": "schedule", "name": "beat", "every": 3600, "source": "repo-0", "event": "beat", "overlap": "allow"},
        {
            "kind": "repository",
            "name": "flows",
            "url": "https://git.example.org/acme/flows.git",
            "branch": "main",
            "secret": "key-0",
            "source": "repo-1",
            "on_event": "sync",
        },
    ],
    "b.json": [
        {"kind": "source", "name": "repo-0", "adapter": "topic", "integration": "halo-0"},
        *[
            {"kind": "source", "name": f"repo-{number}", "adapter": "hmac", "settings": {"secret": {"$env": "TOKEN_1"}}}
            for number in range(1, 4)
        ],
        {"kind": "source", "name": "events", "adapter": "topic", "org": "beta", "enabled": False},
    ],
    "mappings.yml": [
        {"kind": "mapping", "name": "halo-0", "config": {"subdomain": "acme"}, "connection": "halo"},
        {"kind": "mapping", "name": "halo-1", "entity_id": "42"},
        {"kind": "mapping", "name": "halo-0", "org": "beta", "config": {"subdomain": "beta"}},
    ],
    "rest/integrations.yaml": [
        {
            "kind": "integration",
            "name": "halo-0",
            "config_schema": {"type": "object", "properties": {"subdomain": {"type": "string"}}},
        },
        {"kind": "integration", "name": "halo-1", "description": "Another"},
        {"kind": "integration", "name": "halo-0", "org": "beta"},
    ],
    "rest/providers.yaml": [
        {"kind": "provider", "name": "hub", "known": "github", "client_id": "c", "client_secret": {"$env": "TOKEN_0"}},
        {"kind": "connection", "name": "repos", "grant": "authorization_code", "provider": "hub"},
    ],
    "rest/keys.yaml": [
        {"kind": "key", "name": "ci", "role": "operator", "scopes": ["runs"]},
        {"kind": "key", "name": "ci", "org": "beta", "role": "viewer"},
        {"kind": "organization", "name": "beta", "display_name": "Beta"},
        {"kind": "user", "name": "ada", "display_name": "Ada", "roles": {"beta": "viewer"}},
    ],
    "rest/identity.yaml": [
        {
            "kind": "identity_provider",
            "name": "company",
            "issuer": "http://127.0.0.1:9",
            "client_id": "c",
            "client_secret": {"$env": "TOKEN_0"},
            "groups": {"engineers": {"beta": "developer"}},
        },
    ],
    "rest/forms.yaml": [
        {
            "kind": "form",
            "name": "order",
            "workflow": "w",
            "fields": [{"name": "n", "label": "How many"}],
            "access": "link",
            "check": {"verify": "https://challenges.example.com/siteverify"},
            "check_secret": {"$env": "TOKEN_0"},
        },
    ],
    "rest/logs.yaml": [
        {"kind": "search", "name": "errors", "q": "level:>=error"},
        {"kind": "retention", "name": "logs", "stream": "LOGS", "days": 400},
        {"kind": "level", "name": "oauth", "org": "global", "level": "info"},
    ],
    "rest/packs.yaml": [
        {"kind": "pack", "name": "triage", "release": "1.0.0", "resources": {"variable/v0": []}, "files": {"triage/a.py": [""]}},
    ],
    "rest/values.yaml": [
        *[{"kind": "connection", "name": name, "token": {"$env": "TOKEN_0"}} for name in ("halo", "other")],
        {"kind": "connection", "name": "halo", "org": "beta", "token": {"$file": "token.txt"}},
        *[{"kind": "secret", "name": f"key-{number}", "value": {"$env": f"TOKEN_{number}"}} for number in range(3)],
        *[{"kind": "variable", "name": f"v{n}", "value": value} for n, value in enumerate(["no", 5, 1.0, None, [{"a": {}}]])],
        {"kind": "variable", "name": "v0", "org": "beta", "value": {"$env": "HOME"}},
        {"kind": "variable", "name": "v1", "org": "beta", "value": True},
    ],
}
ORGS = ("default", "beta", "global")


def write(folder: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    """Write files of documents; JSON is YAML as well."""
    for name, documents in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        many = (
            json.dumps(documents) if name.endswith(".json") else "".join(f"---\n{json.dumps(one, indent=1)}\n" for one in documents)
        )
        file.write_text(many)


@pytest_asyncio.fixture
async def conf(up: Up, millrace: Command) -> AsyncIterator[Path]:
    """The folder of files, of which the stack has nothing; afterwards it has nothing at all."""
    with open_folder() as folder:
        write(folder, RESOURCES)
        (folder / "rest" / "token.txt").write_text("a token in a file\n")
        yield folder
        (folder / "none.yaml").write_text("")
        for org in ORGS:
            exported = json.loads(await millrace("export", *kinds(), "--org", org, "--output", "json"))
            (folder / "all.json").write_text(json.dumps(exported))
            environment = {name: "x" for one in exported for name in references(one)}
            await millrace("apply", str(folder / "all.json"), "--as", "gone", "--org", org, **environment)
            await millrace("apply", str(folder / "none.yaml"), "--as", "gone", "--prune", "--org", org)


def references(value: Any) -> list[str]:
    """Return the environment variables that a document names."""
    if isinstance(value, dict):
        return [value["$env"]] if "$env" in value else [found for inner in value.values() for found in references(inner)]
    return []


async def applied(millrace: Command, *arguments: str, code: int = 0, **environment: str) -> list[dict[str, Any]]:
    """Return what `apply` says of each resource."""
    out, _ = await millrace.both("apply", *arguments, "--output", "json", code=code, **TOKENS, **environment)
    found: list[dict[str, Any]] = json.loads(out)
    return found


def changes(outcomes: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["change"] for one in outcomes)


def everything(up: Up) -> list[Any]:
    """Return all resources as they are shown, with the versions of all."""
    found = []
    for org in ORGS:
        api = Api(up.ready["url"], key=up.ready["admin_key"], org=org)
        names = [one["name"] for one in api.pages("/integrations")["items"]]
        for kind in (one for one in kinds().values() if one.org(org) == org):
            for name in names if kind.is_placed else [""]:
                found += api.pages(*kind.collection(name))["items"]
        api.close()
    return found


def recorded(up: Up) -> int:
    """Return the number of the next change of the catalog, which it makes and takes back: two changes."""
    api = Api(up.ready["url"], key=up.ready["admin_key"], org="probe")
    version: int = api.call("PUT", "/variables", "probe", body={"value": None})["version"]
    api.call("DELETE", "/variables", "probe")
    api.close()
    return version


async def test_a_folder_applied_twice_has_nothing_to_do_the_second_time(up: Up, millrace: Command, conf: Path) -> None:
    assert sum(map(len, RESOURCES.values())) == 45
    assert {one["kind"] for many in RESOURCES.values() for one in many} == set(kinds())
    tried = await applied(millrace, str(conf), "--dry-run")
    assert changes(tried) == {"created": 45}
    assert everything(up) == []
    said = await millrace("apply", str(conf), **TOKENS)
    assert said.splitlines()[-1] == "45 created"
    assert "created variable v1 of beta\n" in said
    # The values of keys are printed here, and can be had nowhere else.
    (_, key) = re.findall(r"^created key ci(?: of beta)? \((mr_\S+), ", said, re.MULTILINE)
    api = Api(up.ready["url"], key=key, org="beta")
    assert [one["name"] for one in api.pages("/sources")["items"]] == ["events"]
    api.close()
    assert {f"{one['kind']} {one['name']}" for one in tried} == {" ".join(line.split()[1:3]) for line in said.splitlines()[:-1]}
    before, there = recorded(up), everything(up)
    assert len(there) == 45
    assert await millrace("apply", str(conf), **TOKENS) == "nothing to do\n"
    assert await millrace("apply", str(conf), "--dry-run", **TOKENS) == "nothing to do\n"
    again = await applied(millrace, str(conf))
    assert changes(again) == {"none": 45}
    assert everything(up) == there
    assert recorded(up) == before + 2


async def test_what_changed_in_a_file_is_changed_and_nothing_else(millrace: Command, conf: Path) -> None:
    await applied(millrace, str(conf))
    values = json.loads(json.dumps(RESOURCES["rest/values.yaml"]))
    values[-1]["value"], values[3]["value"] = 1, {"$env": "TOKEN_1"}
    write(conf, {"rest/values.yaml": values})
    tried = await applied(millrace, str(conf), "--dry-run")
    done = await applied(millrace, str(conf))
    assert tried == done
    assert [(one["kind"], one["name"], one["org"]) for one in done if one["change"] == "changed"] == [
        ("secret", "key-0", "default"),
        ("variable", "v1", "beta"),
    ]
    assert changes(done) == {"changed": 2, "none": 43}


MISTAKES = """\
kind: source
name: wrong
adapter: hmac
settings:
  secret: hunter2
  algorithm: hunter3
---
kind: source
name: unknown
adapter: hmac
secret: hunter2
---
kind: subscription
name: nowhere
event: push
workflow: w
source: no-such
---
kind: subscription
name: later
event: push
workflow: w
source: right
filter: event +
---
kind: mapping
name: no-such
---
kind: variable
name: ../right
value: 1
---
kind: connection
name: right
token: 5
---
kind: source
name: right
adapter: topic
---
kind: source
name: right
org: no such organization
adapter: topic
"""


def _without_warnings(one: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome without its warnings, and the value of a key, which a dry run does not make."""
    return one | {"reasons": one["reasons"] if one["change"] == "failed" else [], "key": None}


async def test_a_mistake_is_named_with_its_line_and_the_others_are_done(millrace: Command, conf: Path) -> None:
    (conf / "wrong.yaml").write_text(MISTAKES)
    tried = await applied(millrace, str(conf), "--dry-run", code=1)
    done = await applied(millrace, str(conf), code=1)
    # A warning about a subscription comes once its source is there, one about a schedule at once.
    assert [_without_warnings(one) for one in done] == [_without_warnings(one) for one in tried]
    assert changes(done) == {"created": 46, "failed": 8}
    reasons = sorted(
        reason.removeprefix(f"{conf}/wrong.yaml:") for one in done if one["change"] == "failed" for reason in one["reasons"]
    )
    expected = [
        "11: source has no field 'secret': there are adapter, by_entity, enabled, entity, integration, settings",
        "17: source: there is no source 'no-such'",
        "24: filter: line 1, column 8",
        "26: there is no integration 'no-such'",
        "29: the path has '%2F'",
        "35: token: Expected `str | null`, got `int`",
        '6: settings.algorithm: "hunter3" is not one of "sha1", "sha256"',
        "43: org: no such name",
    ]
    for reason, start in zip(reasons, sorted(expected), strict=True):
        assert reason.startswith(start)
    assert "hunter2" not in str(done)
    out, error = await millrace.both("apply", str(conf), code=1, **TOKENS)
    assert out.splitlines()[-1] == "8 failed, 46 as they are"
    assert f"{conf}/wrong.yaml:17: source: there is no source 'no-such'\n" in error


async def test_pruning_removes_what_the_set_had_made_and_nothing_else(up: Up, millrace: Command, conf: Path) -> None:
    await millrace("variables", "put", "by-hand", "1")
    (conf / "other").mkdir()
    (conf / "other" / "one.yaml").write_text("kind: variable\nname: theirs\nvalue: 1\n")
    await applied(millrace, str(conf / "other"), "--as", "other")
    (conf / "other" / "one.yaml").unlink()
    assert changes(await applied(millrace, str(conf), "--as", "ours")) == {"created": 45}
    assert changes(await applied(millrace, str(conf), "--as", "ours", "--prune")) == {"none": 45}
    assert "--prune needs --as" in (await millrace.both("apply", str(conf), "--prune", code=2))[1]

    for name in ("a/subscriptions.yaml", "a/times.yaml", "b.json", "mappings.yml"):
        (conf / name).unlink()
    (conf / "wrong.yaml").write_text("kind: nothing\n")
    out, error = await millrace.both("apply", str(conf), "--as", "ours", "--prune", code=1, **TOKENS)
    assert ("removed" in out, "nothing was pruned" in error) == (False, True)
    (conf / "wrong.yaml").unlink()

    tried = await applied(millrace, str(conf), "--as", "ours", "--prune", "--dry-run")
    assert len(everything(up)) == 47
    done = await applied(millrace, str(conf), "--as", "ours", "--prune")
    assert tried == done
    gone = [one["kind"] for one in done if one["change"] == "removed"]
    assert gone == ["subscription"] * 6 + ["schedule"] * 2 + ["repository"] + ["mapping"] * 3 + ["source"] * 5
    left = everything(up)
    assert (len(left), {one["name"] for one in left if one["applied_as"] != "ours"}) == (30, {"by-hand", "theirs"})
    assert changes(await applied(millrace, str(conf), "--as", "ours", "--prune")) == {"none": 28}


async def test_what_is_exported_is_what_is_there(up: Up, millrace: Command, conf: Path) -> None:
    await applied(millrace, str(conf))
    there = everything(up)
    for org in ORGS:
        exported = json.loads(await millrace("export", "--org", org, "--output", "json"))
        # The record of a pack is left out unless it is asked for.
        assert len(exported) == sum(one["org"] == org and "release" not in one for one in there)
        text = await millrace("export", "--org", org)
        assert "a token" not in text
        environment = {
            name: "a token in a file" if org == "beta" else TOKENS["TOKEN_1" if "SOURCE" in name else "TOKEN_0"]
            for one in exported
            for name in references(one)
        }
        environment |= {f"SECRET_KEY_{number}_VALUE": TOKENS[f"TOKEN_{number}"] for number in range(3)}
        assert await millrace("apply", "-", given=text, **environment) == "nothing to do\n"
    files = json.loads(await millrace("export", "secrets", "source", "--secrets", "file", "--output", "json"))
    assert [one["kind"] for one in files] == ["secret"] * 3 + ["source"] * 4
    assert files[0]["value"] == {"$file": "secrets/secret/key-0/value"}
    assert [one["kind"] for one in json.loads(await millrace("export", "packs", "--output", "json"))] == ["pack"]
    assert everything(up) == there


async def test_what_became_of_each_is_said_when_the_api_goes_away(up: Up, millrace: Command, conf: Path) -> None:
    async with cut_at(up.ready["url"], 12) as url:
        there = {"MILLRACE_URL": url, "MILLRACE_KEY": up.ready["admin_key"]}
        done = await applied(millrace, str(conf), "--as", "cut", "--prune", code=1, **there)
        failed = [one["reasons"][0] for one in done if one["change"] == "failed"]
        assert len(failed) == 45 - changes(done)["created"]
        # Of those that were asked for at the same time each may have been done.
        unknown = sum("cannot reach" in reason for reason in failed)
        assert 1 <= unknown <= AT_ONCE
        assert 12 - AT_ONCE <= changes(done)["created"] <= 11
        assert sum("was not asked for" in reason for reason in failed) == len(failed) - unknown
        _, error = await millrace.both("apply", str(conf), code=3, **TOKENS, **there)
        assert "cannot reach" in error
    again = changes(await applied(millrace, str(conf), "--as", "cut", "--prune"))
    assert again["failed"] == 0
    assert changes(done)["created"] <= again["none"] <= changes(done)["created"] + unknown
    assert again["none"] + again["created"] == 45


PATCHES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "repository": (["flows", "--branch", "dev", "--on-event", "pull"], {"branch": "dev", "on_event": "pull"}),
    "source": (["repo-1", "--disabled", "--set", "event_header=5"], {"enabled": False, "settings": {"event_header": "5"}}),
    "subscription": (["push-0", "--filter", "", "--event", "*", "--disabled"], {"filter": None, "event": "*", "enabled": False}),
    "schedule": (
        ["daily", "--cron", "5 9 * * *", "--disabled", "--catch-up", "all"],
        {"cron": "5 9 * * *", "enabled": False, "catch_up": "all", "next_at": None},
    ),
    "integration": (["halo-0", "--description", "x"], {"description": "x"}),
    "mapping": (
        ["halo-0", "--set", "subdomain=5", "--connection", ""],
        {"config": {"subdomain": "5"}, "effective": {"subdomain": "5"}, "connection": None},
    ),
    "variable": (["v0", "true"], {"value": True}),
    "form": (
        ["order", "--fields", '[{"name": "n"}]', "--show", "result", "--check-secret-file", "-"],
        {"fields": [{"name": "n", "label": None, "help": None, "options": None, "file": None}], "show": "result"},
    ),
    "search": (["errors", "--q", "level:error"], {"q": "level:error"}),
    "retention": (["logs", "--days", "60"], {"days": 60}),
    "level": (["oauth", "--until", "2100-01-01T00:00:00Z"], {"until": "2100-01-01T00:00:00.000000Z"}),
    "identity_provider": (["company", "--display-name", "C", "--just-in-time"], {"display_name": "C", "just_in_time": True}),
    "key": (
        ["ci", "--scopes", '["runs", "workflow:w"]', "--rate", "5", "--burst", "20"],
        {"scopes": ["runs", "workflow:w"], "rate": 5, "burst": 20},
    ),
    "organization": (["beta", "--display-name", "B", "--webhook-rate", "0.5"], {"display_name": "B", "webhook_rate": 0.5}),
    "user": (["ada", "--display-name", "A"], {"display_name": "A"}),
    "connection": (["halo", "--token-file", "-"], {}),
    "secret": (["key-0", "--value-file", "-"], {}),
    "provider": (["hub", "--client-secret-file", "-", "--scopes", '["repo"]'], {"scopes": ["repo"]}),
}


async def test_every_kind_is_patched_with_options(millrace: Command, client: Client, conf: Path) -> None:
    await applied(millrace, str(conf))
    # The record of a pack is not written by hand.
    assert PATCHES.keys() == kinds().keys() - {"pack"}
    for noun, (arguments, wanted) in PATCHES.items():
        kind = kinds()[noun]
        of = {"MILLRACE_ORG": "global"} if kind.platform and noun != "organization" else {}
        # By the API: what the command prints is what that answers, and its start takes most of its time.
        org = kind.org("default")
        path = f"/api/v1{'/'.join(kind.place(arguments[0], org))}?org={org}"
        before = await client.call("GET", path)
        tried, _ = await millrace.both(kind.plural, "patch", *arguments, "--dry-run", "--output", "json", given="other", **of)
        assert {name: value for name, value in json.loads(tried).items() if name in wanted} == wanted
        assert await client.call("GET", path) == before
        await millrace(kind.plural, "patch", *arguments, given="other", **of)
        after = await client.call("GET", path)
        changed = {name: value for name, value in after.items() if value != before[name]} | {"updated_at": None}
        assert changed == {"updated_at": None, "version": after["version"]} | wanted
        assert after["version"] > before["version"]
    _, error = await millrace.both("sources", "patch", "repo-1", "--set", "secret=hunter2", code=2)
    assert "others can see a command line" in error
    await millrace("sources", "patch", "nobody", "--disabled", code=1)
