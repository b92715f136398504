"""Variables and secrets over HTTP, and from a workflow: what an organization sets its runs get, and a secret nobody else."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import nats

from services.executor.sandbox.masking import Masker
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.stack import Up

SECRET = "walrus/9+s3cret-of-acme"
WORKFLOWS = b"""
import base64
from millrace import config, events, files, log, secrets, step, workflow


@workflow(name="use")
async def use(fail: bool = False) -> dict:
    key = await secrets.aget("signing.key")
    print("key is", key, base64.b64encode(key.encode()).decode())
    log.info("key", key=key)
    seen = files.read_text("data/seen.txt") if files.exists("data/seen.txt") else ""
    await files.awrite("data/seen.txt", seen + "x")
    said = await step("say", events.aemit, "orders", "order.paid", {"key": key})
    kept = await step("keep", str, key)
    if fail:
        raise RuntimeError("refused: " + key)
    return {"key": key, "length": len(key), "limit": config.get("limit"), "seen": len(seen), "kept": kept, "said": bool(said)}


@workflow(name="heard")
def heard(event: dict) -> dict:
    return event["data"]
"""


async def request(up: Up, method: str, path: str, *, key: str | None = None, **more: Any) -> tuple[int, Any, str | None]:
    """Return status, document and tag of an answer."""
    headers = {"Authorization": f"Bearer {key or up.ready['admin_key']}"} | more.pop("headers", {})
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, up.ready["url"] + path, headers=headers, **more) as answer,
    ):
        document = await answer.json(content_type=None) if answer.status != 204 else None
        return answer.status, document, answer.headers.get("ETag")


async def test_variables_are_entities_like_the_others(up: Up) -> None:
    at = "/api/v1/variables/limits"
    status, made, tag = await request(up, "PUT", at, json={"value": {"batch": 50}})
    assert (status, made["name"], made["value"], tag) == (200, "limits", {"batch": 50}, f'"{made["version"]}"')
    assert (await request(up, "PUT", at, json={"value": 1}, headers={"If-None-Match": "*"}))[0] == 412
    status, changed, newer = await request(up, "PUT", at, json={"value": None}, headers={"If-Match": tag})
    assert (status, changed["value"]) == (200, None)
    assert (await request(up, "PUT", at, json={"value": 2}, headers={"If-Match": tag}))[0] == 412
    assert (await request(up, "GET", at)) == (200, changed, newer)
    assert (await request(up, "GET", at + "?org=other"))[0] == 404
    assert (await request(up, "DELETE", at + "?org=other"))[0] == 404
    assert (await request(up, "POST", "/api/v1/variables", json={"name": "limits", "value": 1}))[0] == 409
    assert (await request(up, "POST", "/api/v1/variables", json={"name": "second", "value": [1]}))[0] == 201
    names = [item["name"] for item in (await request(up, "GET", "/api/v1/variables"))[1]["items"]]
    assert names == ["limits", "second"]
    for body in ({}, {"value": 1, "more": 2}, [], {"value": "x" * 70_000}):
        status, problem, _ = await request(up, "PUT", at, json=body)
        assert (status, problem["status"]) == (422, 422), body
    for name in ("1a", "a%20b", "%C3%A9", "a" * 101):
        status, problem, _ = await request(up, "PUT", f"/api/v1/variables/{name}", json={"value": 1})
        assert (status, problem["errors"][0]["path"]) == (422, "name")
    assert (await request(up, "DELETE", at, headers={"If-Match": tag}))[0] == 412
    assert (await request(up, "DELETE", at))[0] == 204
    assert (await request(up, "GET", at))[0] == 404


async def test_a_secret_goes_in_and_no_answer_ever_has_it(up: Up) -> None:
    at = "/api/v1/secrets/api.key"
    answers = [
        await request(up, "PUT", at, json={"value": SECRET}),
        await request(up, "GET", at),
        await request(up, "GET", "/api/v1/secrets"),
        await request(up, "POST", "/api/v1/secrets", json={"name": "api.key", "value": SECRET}),
        await request(up, "PUT", at, json={"value": SECRET, "more": SECRET}),
        await request(up, "PUT", at, json={"value": [SECRET]}),
        await request(up, "PUT", at, json={"value": SECRET + "\0"}),
        await request(up, "PUT", f"/api/v1/secrets/{quote('a b')}", json={"value": SECRET}),
        await request(up, "PUT", at, json={"value": SECRET}, headers={"If-Match": '"7"'}),
        await request(up, "DELETE", at + "?org=other"),
        await request(up, "DELETE", at),
    ]
    assert [status for status, _, _ in answers] == [200, 200, 200, 409, 422, 422, 422, 422, 412, 404, 204]
    assert answers[1][1].keys() == {"id", "org", "name", "applied_as", "readers", "status", "created_at", "updated_at", "version"}
    assert SECRET not in repr(answers)


async def test_nobody_without_a_key_gets_at_either_and_that_is_on_record(up: Up, client: Client) -> None:
    for method, path in (
        ("GET", "secrets"),
        ("PUT", "secrets/a"),
        ("DELETE", "secrets/a"),
        ("GET", "variables/a"),
        ("PUT", "variables/a"),
    ):
        status, _, _ = await request(up, method, f"/api/v1/{path}", key="mr_wrong", json={"value": "x"})
        assert status == 401

    async def denied() -> object:
        items = (await client.call("GET", f"/api/v1/audit?org=global&q={quote('type:audit.denied')}"))["items"]
        return [item for item in items if "/api/v1/secrets" in str(item)]

    assert await eventually(denied)


async def test_a_workflow_uses_all_of_it_and_the_secret_is_nowhere(up: Up, client: Client) -> None:
    # Whoever listens to everything hears questions and commands too, which no stream keeps.
    heard: list[bytes] = []
    listener = await nats.connect(up.ready["nats_url"])

    async def hear(message: Any) -> None:
        heard.append(message.subject.encode() + b" " + message.data)

    await listener.subscribe(">", cb=hear)
    await listener.flush()
    await client.put_file("use.py", WORKFLOWS)
    await client.call("PUT", "/api/v1/secrets/signing.key", body={"value": SECRET})
    await client.call("PUT", "/api/v1/variables/limit?org=global", body={"value": 50})
    await client.call("PUT", "/api/v1/sources/orders", body={"adapter": "topic", "settings": {}})
    subscription = {"source": "orders", "event": "order.*", "workflow": "heard"}
    await client.call("PUT", "/api/v1/subscriptions/orders", body=subscription)
    runs = "/api/v1/workflows/use/runs?wait=20"
    first = await client.call("POST", runs, body={"input": {}}, status=200)
    assert first["result"] == {
        "key": "***", "length": len(SECRET), "limit": 50, "seen": 0, "kept": "***", "said": True,
    }, first  # fmt: skip
    second = await client.call("POST", runs, body={"input": {"fail": True}}, status=200)
    assert (second["status"], second["error"]["message"]) == ("failed", "refused: ***")
    assert (await client.call("POST", runs, body={"input": {}}, status=200))["result"]["seen"] == 2

    async def told() -> object:
        items = (await client.call("GET", "/api/v1/runs?workflow=heard"))["items"]
        ended = [item for item in items if item["status"] == "succeeded"]
        return ended if len(ended) == 3 else None

    for run in await eventually(told):  # type: ignore[attr-defined]
        assert run["result"] == {"key": "***"}

    async def masked() -> bool:
        return "key is *** ***" in str(await client.call("GET", f"/api/v1/runs/{first['id']}/logs"))

    await eventually(masked)
    foreign = await client.call("POST", f"{runs}&org=other", body={"input": {}}, status=404)
    assert foreign["status"] == 404

    def given() -> object:
        return any(b"audit.secret.given" in one for one in heard)

    async def is_given() -> object:
        return given()

    await eventually(is_given)
    await asyncio.gather(*(_scan(up, heard, client)))
    await listener.close()


def _scan(up: Up, heard: list[bytes], client: Client) -> list[Any]:
    """Return the searches of every place for the secret, in any form that masking knows."""
    masker = Masker()
    masker.learn(SECRET)

    def clean(text: str, where: str) -> None:
        assert masker.mask(text) == text, where

    async def bus() -> None:
        assert any(one.startswith(b"do.oauth.put_resource") for one in heard)
        assert any(one.startswith(b"ask.oauth.secret") for one in heard)
        for one in heard:
            clean(one.decode("utf-8", "replace"), one[:60].decode("utf-8", "replace"))

    async def tables() -> None:
        connection = await asyncpg.connect(up.ready["database_url"])
        try:
            names = await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('gateway', 'events', 'executor', 'oauth', 'logs')"
            )
            assert ("oauth", "vault") in {tuple(name) for name in names}
            for schema, table in names:
                for row in await connection.fetch(f'SELECT t::text AS said FROM "{schema}"."{table}" t'):
                    clean(row["said"], f"{schema}.{table}")
        finally:
            await connection.close()

    async def written() -> None:
        for log in (up.data / "logs").glob("*.log"):
            clean(await asyncio.to_thread(log.read_text, "utf-8", "replace"), str(log))

    async def answers() -> None:
        for path in ("logs?org=*&limit=1000", "audit?org=*&limit=1000", "secrets", "runs", "deliveries", "workspace/files"):
            clean(str(await client.call("GET", f"/api/v1/{path}")), path)

    return [bus(), tables(), written(), answers()]
