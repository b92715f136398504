"""The OpenAPI document against a running stack: examples, hostile requests, and a client that a public generator makes of it."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import msgspec
import pytest
import pytest_asyncio

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import USUAL, methods_of, path_of
from services.gateway.api.endpoint import Endpoint, Streamed
from shared.envelope import new_id
from tests.e2e.conftest import REMOTES
from tests.support.client import Client
from tests.support.documented import CHECKS, LEFT_OUT
from tests.support.inside import eventually
from tests.support.programs import output
from tests.support.remotes import Remote, served
from tests.support.stack import Up

SECRET = "a-secret-of-the-sender"
# Seconds of hostile requests by the platform; those of every role are in tests/integration/test_documented_answers.py.
BUDGET = 30
WORKFLOWS = b"""
from millrace import data_provider, wait_for, workflow


@workflow(name="sync-tickets")
async def sync_tickets(limit: int = 50) -> dict:
    return {"count": limit}


@workflow(name="orders")
async def orders(limit: int = 50) -> dict:
    return {"count": limit}


@data_provider(name="boards")
def boards(project: str = "") -> list:
    return [{"value": project, "label": "Board"}]


@workflow(name="approval")
async def approval() -> dict:
    return {"approved": await wait_for("approved", timeout=20)}
"""


class Stack:
    """A running stack with what the examples speak of."""

    def __init__(self, ready: dict[str, Any], session: aiohttp.ClientSession, remote: Remote) -> None:
        self.remote = remote
        self.url: str = ready["url"]
        self.key: str = ready["admin_key"]
        self.client = Client(session, ready)
        self.session = session
        self.document: dict[str, Any] = {}
        self.hook = ""
        self.form = ""

    async def prepare(self) -> None:
        async with self.session.get(f"{self.url}/openapi.json") as response:
            self.document = msgspec.json.decode(await response.read())
        await self.client.put_file("flows/support.py", WORKFLOWS)
        await self.client.call("PUT", "/api/v1/sources/topic", body={"adapter": "topic"})
        schedule = {"cron": "0 0 1 1 *", "workflow": "sync-tickets", "enabled": False}
        await self.client.call("PUT", "/api/v1/schedules/yearly", body=schedule)
        # A mapping is of an integration that its organization sees.
        await self.client.call("PUT", "/api/v1/integrations/orders?org=global", body={})
        await self.client.call("PUT", "/api/v1/schedules/orders", body={"cron": "0 0 1 1 *", "workflow": "orders"})
        # No person has authorized it, so that no other token can be had.
        await self.client.call("PUT", "/api/v1/providers/hub", body={"known": "github", "client_id": "c"})
        await self.client.call("PUT", "/api/v1/connections/oauth", body={"grant": "authorization_code", "provider": "hub"})
        settings = {"secret": SECRET}
        hooked = await self.client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": settings})
        self.hook = hooked["url"].rpartition("/")[2]
        fields = [{"name": "limit", "label": "How many"}]
        form = {"workflow": "sync-tickets", "fields": fields, "access": "public", "rate": 1000, "burst": 1000}
        self.form = (await self.client.call("PUT", "/api/v1/forms/open", body=form))["id"]

    async def run(self, workflow: str, *statuses: str) -> str:
        """Return the id of a run that has come to one of these statuses."""
        begun = await self.client.call("POST", f"/api/v1/workflows/{workflow}/runs", body={})
        return str((await self.client.run(begun["id"], *statuses))["id"])

    async def delivery(self) -> str:
        emitted = await self.client.call("POST", "/api/v1/sources/topic/events", body={"type": "order.paid"})
        await self.client.delivery(emitted["id"], "filtered", "routed")
        return str(emitted["id"])

    async def dead_letter(self) -> str:
        """Return the id of a dead letter whose message can be handled by now."""
        source = {"adapter": "hmac", "settings": {"secret": SECRET, "event_path": "kind"}}
        hooked = await self.client.call("PUT", "/api/v1/sources/letters", body=source)
        body = b'{"n":1}'
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()

        async def taken() -> str | None:
            async with self.session.post(hooked["url"], data=body, headers={"X-Signature": signature}) as response:
                return (await response.json())["id"] if response.status == 202 else None

        delivery = await eventually(taken)

        async def given_up() -> str | None:
            letters = (await self.client.call("GET", "/api/v1/dead-letters?status=open"))["items"]
            return next((one["id"] for one in letters if one["delivery"] == delivery), None)

        letter = await eventually(given_up)
        await self.client.call("PUT", "/api/v1/sources/letters", body={"adapter": "hmac", "settings": {"secret": SECRET}})
        return str(letter)

    async def differ(self, *, both: bool) -> None:
        """Have a change of the workspace that its repository has not, or, of `both`, a conflict."""
        await self.client.call("PUT", "/api/v1/repositories/orders", body={"url": self.remote.url})
        await self.client.call("POST", "/api/v1/workspace/sync", body={"accept_history": True})
        await self.client.put_file("flows/notes.txt", new_id().encode())
        if both:
            self.remote.commit(self.remote.files() | {"flows/notes.txt": new_id().encode()})

    async def is_sealed(self) -> bool:
        found = (await self.client.call("GET", "/api/v1/audit/digests"))["items"]
        return any(one["size"] for one in found if one["stream"] == "AUDIT")

    async def known(self, endpoint: Endpoint) -> dict[str, str]:
        """Return the parts of an endpoint's path that are there."""
        parts = {name: endpoint.example.path.get(name, USUAL[name]) for name in endpoint.parts}
        if "/runs/{id}" in endpoint.path:
            waits = endpoint.name in {"cancel_run", "signal_run", "resume_run"}
            parts["id"] = await (self.run("approval", "waiting") if waits else self.run("sync-tickets", "succeeded"))
            if endpoint.name == "get_artifact":
                await self.client.put_file(f"artifacts/{parts['id']}/{parts['path']}", b"done")
            if endpoint.name == "resume_run":
                await self.client.call("POST", f"/api/v1/runs/{parts['id']}/cancel")
                await self.client.run(parts["id"], "cancelled")
        elif "/deliveries/{id}" in endpoint.path:
            parts["id"] = await self.delivery()
        elif "/dead-letters/{id}" in endpoint.path:
            parts["id"] = await self.dead_letter()
        elif "/replays/{id}" in endpoint.path:
            # So slow that it goes on.
            body = {"since": "2026-01-01T00:00:00Z", "rate": 0.01, "all": True}
            parts["id"] = (await self.client.call("POST", "/api/v1/deliveries/replay", body=body))["id"]
        elif "/state/{path" in endpoint.path:
            await self.client.call("PUT", f"/api/v1/state/{parts['path']}", body={"value": 1})
        elif endpoint.path.startswith("/hooks"):
            parts["id"] = self.hook
        elif endpoint.path.startswith(("/forms/{id}", "/api/v1/forms/{id}")):
            parts["id"] = self.form
        elif "/logins/{code}" in endpoint.path:
            parts["code"] = (await self.client.call("POST", "/api/v1/logins", body={"host": "build-7"}))["user_code"]
        elif endpoint.path.startswith("/api/v1/workspace/git/") or endpoint.name == "sync_workspace":
            await self.differ(both=endpoint.name != "discard_workspace_changes")
        elif endpoint.path.startswith("/api/v1/repositories"):
            # An organization has one.
            for one in (await self.client.call("GET", "/api/v1/repositories"))["items"]:
                await self.client.call("DELETE", f"/api/v1/repositories/{one['name']}")
            if endpoint.name != "create_repository":
                await self.client.call("PUT", f"/api/v1/repositories/{parts.get('name', 'orders')}", body={"url": self.remote.url})
        elif endpoint.name == "rotate_key":
            await self.client.call("PUT", "/api/v1/keys/orders", body={"role": "viewer"})
        elif endpoint.name == "invite_user":
            await self.client.call("PUT", "/api/v1/users/orders", body={})
        elif endpoint.name == "run_schedule":
            parts["name"] = "yearly"
        elif endpoint.name == "read_digest_file":
            await eventually(self.is_sealed)
        elif endpoint.name == "emit_event":
            parts["name"] = "topic"
        elif endpoint.name == "test_source":
            parts["name"] = "repo"
        elif endpoint.name in {"authorize_connection", "refresh_connection", "test_connection"}:
            parts["name"] = "oauth"
        return parts

    async def send(self, endpoint: Endpoint, method: str, path: str) -> tuple[int, Any, bytes]:
        """Send an endpoint's example; returns the answer's status, headers and body."""
        example = endpoint.example
        headers = {"Authorization": f"Bearer {self.key}"} | example.headers
        data = None if example.body is None else msgspec.json.encode(example.body)
        if endpoint.body is Streamed and data is None:
            data = b"LIMIT = 50\n"
        elif endpoint.path.startswith("/hooks"):
            data = b'{"n":1}'
            signature = hmac.new(SECRET.encode(), data, hashlib.sha256).hexdigest()
            headers = {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json", "X-GitHub-Event": "push"}
        given = {"params": example.query, "headers": headers, "data": data if method != "get" else None}
        async with self.session.request(method, self.url + path, **given) as response:
            if response.content_type != "text/event-stream":
                return response.status, response.headers.copy(), await response.read()
            body = await response.content.readuntil(b"\n\n")
            response.close()
            return response.status, response.headers.copy(), body


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(up: Up, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    remote = Remote(tmp_path_factory.mktemp("remote") / "flows.git")
    with served(remote, token=None, at=REMOTES):
        async with aiohttp.ClientSession() as session:
            made = Stack(up.ready, session, remote)
            await made.prepare()
            yield made


def closed(schema: Any) -> Any:
    """Return a schema whose objects have no properties beyond those that it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(one) for name, one in schema.items()}
    return made | {"additionalProperties": False} if isinstance(made.get("properties"), dict) else made


def check(document: dict[str, Any], operation: dict[str, Any], status: int, headers: Any, body: bytes) -> None:
    """Compare an answer with what the document says of it."""
    name = operation["operationId"]
    assert str(status) in operation["responses"], (name, status, body[:500])
    said = operation["responses"][str(status)]
    if "$ref" in said:
        said = document["components"]["responses"][said["$ref"].rpartition("/")[2]]
    assert {one.lower() for one in said.get("headers", {})} <= {one.lower() for one in headers}, (name, status)
    if "content" not in said:
        assert not body, (name, status, body[:500])
        return
    media = headers["Content-Type"].partition(";")[0]
    schemas = {one.partition(";")[0]: content["schema"] for one, content in said["content"].items()}
    assert media in schemas, name
    if media.endswith(("/json", "+json")):
        schema = {"components": {"schemas": closed(document["components"]["schemas"])}, "allOf": [closed(schemas[media])]}
        found = jsonschema_rs.validator_for(schema).iter_errors(msgspec.json.decode(body))
        assert [f"{one.instance_path}: {one.message}" for one in found] == [], (name, status, body[:500])


def by_change() -> list[Endpoint]:
    """Return the endpoints in such an order that what is asked for is there: made first, removed last, after what refers to it."""
    ordered = sorted(ENDPOINTS, key=lambda one: ["POST", "PUT", "PATCH", "GET", "*", "DELETE"].index(one.method))
    kept = [one for one in ordered if one.method != "DELETE"]
    return [*kept, *reversed(ordered[len(kept) :])]


async def test_every_example_is_answered_as_the_document_says(stack: Stack) -> None:
    for endpoint in by_change():
        path = path_of(endpoint).format(**await stack.known(endpoint))
        for method in methods_of(endpoint):
            status, headers, body = await stack.send(endpoint, method, path)
            # Senders of this adapter do not ask with GET.
            wanted = 405 if (endpoint.method, method) == ("*", "get") else endpoint.example.status or next(iter(endpoint.answers))
            assert status == wanted, (endpoint.name, status, body[:500])
            check(stack.document, stack.document["paths"][path_of(endpoint)][method], status, headers, body)


async def test_every_endpoint_with_a_role_refuses_strangers_as_the_document_says(stack: Stack) -> None:
    for endpoint in ENDPOINTS:
        if endpoint.role is None:
            continue
        operation = stack.document["paths"][path_of(endpoint)][endpoint.method.lower()]
        path = path_of(endpoint).format(**USUAL)
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with stack.session.request(endpoint.method, stack.url + path, headers=headers) as response:
                assert response.status == 401, endpoint.name
                assert response.headers["WWW-Authenticate"].startswith("Bearer ")
                check(stack.document, operation, 401, response.headers, await response.read())


async def test_every_declared_bound_of_a_query_string_is_kept_and_named(stack: Stack) -> None:
    tried = 0
    for endpoint in ENDPOINTS:
        for field in () if endpoint.query is None else msgspec.structs.fields(endpoint.query):
            operation = stack.document["paths"][path_of(endpoint)][endpoint.method.lower()]
            (shown,) = [one for one in operation["parameters"] if one["name"] == field.encode_name and one["in"] == "query"]
            kinds = [one for one in shown["schema"].get("anyOf", [shown["schema"]]) if one.get("type") != "null"]
            if any(one.get("type") == "string" and "enum" not in one for one in kinds):
                continue
            path = path_of(endpoint).format(**await stack.known(endpoint))
            headers = {"Authorization": f"Bearer {stack.key}"}
            async with stack.session.request(
                endpoint.method, stack.url + path, params={field.encode_name: "-1"}, headers=headers
            ) as response:
                body = await response.read()
                assert response.status == 422, (endpoint.name, field.encode_name, body)
                if endpoint.page is None:
                    assert msgspec.json.decode(body)["errors"][0]["path"] == field.encode_name
                else:
                    assert f"{field.encode_name} does not fit" in body.decode()
                check(stack.document, operation, 422, response.headers, body)
                tried += 1
    assert tried > 10


async def test_the_page_shows_every_operation_and_type_and_loads_nothing(stack: Stack) -> None:
    async with stack.session.get(f"{stack.url}/docs") as response:
        page = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    operations = [one for path in stack.document["paths"].values() for one in path.values()]
    assert [one["operationId"] for one in operations if f'id="{one["operationId"]}"' not in page] == []
    assert [name for name in stack.document["components"]["schemas"] if f'id="type-{name}"' not in page] == []
    assert set(re.findall(r'href="(?!#)([^"]*)"', page)) == {"/openapi.json"}
    assert {one for one in re.findall(r'href="#([^"]*)"', page) if f'id="{one}"' not in page} == set()
    # An address that is only text, as in an example, is not loaded.
    assert not re.search(r"<(script|img|link|iframe)|src=|url\(|@import", page)


async def test_a_generated_client_puts_a_source_starts_a_run_and_reads_its_result(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(stack.document))
    # Lines of JSON are no document.
    (tmp_path / "config.yaml").write_text("post_hooks: []\ncontent_type_overrides: {application/x-ndjson: text/plain}\n")
    code, said = await output(
        *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"),
        *("--path", "openapi.json", "--config", "config.yaml", "--output-path", "generated_client"),
        cwd=tmp_path,
    )
    assert code == 0, said
    monkeypatch.syspath_prepend(tmp_path)

    def module(name: str) -> Any:
        return importlib.import_module(f"generated_client.{name}")

    models = module("models")
    async with module("client").AuthenticatedClient(stack.url, token=stack.key) as client:
        source = models.Source(adapter="github", settings=models.SourceSettings.from_dict({"secret": SECRET}))
        put = await module("api.sources.put_source").asyncio("shop", client=client, body=source)
        assert (put.name, put.adapter, put.url) == ("shop", "github", f"{stack.url}/hooks/{put.id}")
        body = models.RunBody(input_=models.RunBodyInput.from_dict({"limit": 7}))
        run = await module("api.workflows.create_run").asyncio("sync-tickets", client=client, body=body, wait=30.0)
        assert (type(run), run.status) == (models.RunView, "succeeded")
        assert await module("api.runs.get_result").asyncio(run.id, client=client) == {"count": 7}
        absent = await module("api.sources.get_source").asyncio("nowhere", client=client)
        assert (type(absent), absent.status) == (models.ProblemDocument, 404)


async def test_hostile_requests_get_no_5xx_and_nothing_that_is_not_declared(stack: Stack, tmp_path: Path) -> None:
    code, said = await output(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{stack.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {stack.key}", "--max-time", str(BUDGET), "--max-examples", "25", "--seed", "1"),
        *("--phases", "coverage,fuzzing"),
        *("--generation-database", "none", "--request-timeout", "70", "--no-color", "--checks", ",".join(CHECKS)),
        *LEFT_OUT,
        cwd=tmp_path,
        within=5 * BUDGET,
    )
    if code:
        logged = await stack.client.call("GET", "/api/v1/logs?q=level:error&org=*")
        told = "\n".join(msgspec.json.format(msgspec.json.encode(item["data"])).decode() for item in logged["items"])
        raise AssertionError(said[-20_000:] + told)
    assert re.search(r"[0-9]{3,} generated", said), said[-2000:]
