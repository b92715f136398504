"""Integrations, mappings and topics over the API, with their real owner."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from services.gateway.api.resources import endpoints_of
from shared.resources import KINDS
from tests.support.inside import eventually, running
from tests.support.servers import Place

ROUTES = [*endpoints_of(KINDS["integration"]), *endpoints_of(KINDS["mapping"])]
SCHEMA = {"type": "object", "properties": {"subdomain": {"type": "string"}}, "required": ["subdomain"]}
MAPPING = "/integrations/halopsa/mappings/default"
ABSENT = (
    "there is no mapping of integration 'halopsa' for organization 'default': put it with "
    "PUT /api/v1/integrations/halopsa/mappings/default, or millrace integrations map halopsa --org default"
)


class Api:
    """One gateway; with the platform key unless told otherwise."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._key = {"Authorization": f"Bearer {key}"}
        self.url = url

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, document, _ = await self.whole(method, path, body, **headers)
        return status, document

    async def whole(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str]:
        given = self._key | {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        async with self._session.request(method, f"{self.url}/api/v1{path}", data=data, headers=given) as response:
            document = await response.json(content_type=None) if response.status != 204 else None
            return response.status, document, response.headers.get("ETag", "")

    async def bare(self, method: str, path: str, **headers: str) -> int:
        async with self._session.request(method, f"{self.url}{path}", headers=headers) as response:
            return response.status


@asynccontextmanager
async def house(place: Place) -> AsyncIterator[Api]:
    async with (
        running(place, "events"),
        running(place, "gateway", MILLRACE_PORT="0") as runtime,
        aiohttp.ClientSession() as session,
    ):
        yield Api(session, runtime.health.document()["url"], place.credentials.admin_key)


async def test_an_integration_is_created_changed_and_removed(place: Place) -> None:
    async with house(place) as call:
        status, made = await call("POST", "/integrations", {"name": "halopsa", "config_schema": SCHEMA, "provider": "halo"})
        assert (status, made["org"], made["provider"]) == (201, "default", "halo")
        assert (await call("POST", "/integrations", {"name": "halopsa"}))[0] == 409
        status, got, tag = await call.whole("GET", "/integrations/halopsa")
        assert (status, got) == (200, made)
        assert (await call("PATCH", "/integrations/halopsa", {"description": "tickets"}, If_Match='"999"'))[0] == 412
        status, patched = await call("PATCH", "/integrations/halopsa", {"description": "tickets"}, If_Match=tag)
        assert (status, patched["description"], patched["config_schema"]) == (200, "tickets", SCHEMA)
        status, replaced = await call("PUT", "/integrations/halopsa", {})
        assert (status, replaced["description"], replaced["config_schema"]) == (200, "", {"type": "object"})
        assert (await call("DELETE", "/integrations/halopsa"))[0] == 204
        assert (await call("GET", "/integrations/halopsa"))[0] == 404
        assert (await call("DELETE", "/integrations/halopsa"))[0] == 404


async def test_a_schema_is_refused_where_it_is_wrong_and_secrets_are_sent_elsewhere(place: Place) -> None:
    async with house(place) as call:
        for schema, path in (
            ({"type": "nope"}, "config_schema.type"),
            ({"type": "array"}, "config_schema.type"),
            ({}, "config_schema.type"),
            ({"type": "object", "properties": {"a": {"pattern": "(?=a"}}}, "config_schema.properties.a.pattern"),
            ({"type": "object", "$ref": "http://127.0.0.1:9/schema.json"}, "config_schema.$ref"),
            ({"type": "object", "$ref": "file:///etc/passwd"}, "config_schema.$ref"),
            ({"type": "object", "properties": {"a": {"type": "object", "writeOnly": True}}}, "config_schema.properties.a"),
            ({"type": "object", "properties": {"a": {"items": {"format": "password"}}}}, "config_schema.properties.a.items"),
            ({"type": "object", "$defs": {"t": {"writeOnly": True}}}, "config_schema.$defs.t"),
            ({"type": "object", "title": "a\0"}, "config_schema.title"),
        ):
            status, answer = await call("PUT", "/integrations/bad", {"config_schema": schema})
            assert (status, [one["path"] for one in answer["errors"]]) == (422, [path])
        status, answer = await call(
            "PUT", "/integrations/bad", {"config_schema": {"type": "object", "$defs": {"key": {"writeOnly": True}}}}
        )
        assert "belong into a connection" in answer["errors"][0]["message"]
        # A property may be called as a keyword is, and a value is no schema.
        fine = {
            "type": "object",
            "properties": {"format": {"type": "string"}, "writeOnly": True},
            "default": {"format": "password"},
        }
        assert (await call("PUT", "/integrations/fine", {"config_schema": fine}))[0] == 200
        large = {"type": "object", "description": "x" * 70_000}
        assert (await call("PUT", "/integrations/bad", {"config_schema": large}))[0] == 422
        assert (await call("PUT", "/integrations/bad", {"config_schema": large | {"title": "x" * 3_000_000}}))[0] == 413
        assert (await call("PUT", "/integrations/bad", {"secret": "x"}))[0] == 422
        assert (await call("PUT", "/integrations/a%20b", {}))[0] == 422
        assert (await call("GET", "/integrations/bad"))[0] == 404


async def test_a_mapping_is_put_patched_listed_and_removed(place: Place) -> None:
    async with house(place) as call:
        assert (await call("PUT", MAPPING, {"config": {}}))[0] == 404
        await call("PUT", "/integrations/halopsa?org=global", {"config_schema": SCHEMA})
        status, answer = await call("GET", MAPPING)
        assert (status, answer["detail"]) == (404, ABSENT)
        status, answer = await call("PUT", MAPPING, {"config": {"subdomain": 5}})
        assert (status, answer["errors"]) == (422, [{"path": "config.subdomain", "message": '5 is not of type "string"'}])
        given = {"config": {"subdomain": "acme", "x": 1}, "entity_id": "42", "connection": "halo-main"}
        status, made, tag = await call.whole("PUT", MAPPING, given)
        assert (status, made["org"], made["integration"]) == (200, "default", "halopsa")
        assert {field: made[field] for field in given} == given
        status, answer = await call("PUT", MAPPING, {"config": {"x": 2}})
        assert (status, "`millrace mappings patch` changes one value" in answer["detail"]) == (422, True), answer
        assert (await call("PUT", MAPPING, given, If_None_Match="*"))[0] == 412
        patch = {"config": {"x": None, "y": 2}, "connection": None}
        assert (await call("PATCH", MAPPING, patch, If_Match='"999"'))[0] == 412
        status, made = await call("PATCH", MAPPING, patch, If_Match=tag)
        assert (status, made["config"], made["entity_id"], made["connection"]) == (200, {"subdomain": "acme", "y": 2}, "42", None)
        # The path says whose it is, whatever the header says.
        for org in ("acme", "beta"):
            path = f"/integrations/halopsa/mappings/{org}"
            assert (await call("PUT", path, given, X_Millrace_Org="default"))[1]["org"] == org
        status, listed = await call("GET", "/integrations/halopsa/mappings?org=*&limit=2")
        assert ([one["org"] for one in listed["items"]], listed["next_cursor"]) == (["acme", "beta"], "mappings|beta")
        status, listed = await call("GET", "/integrations/halopsa/mappings")
        assert [one["org"] for one in listed["items"]] == ["default"]
        assert (await call("GET", "/integrations/halopsa/mappings/nobody"))[0] == 404
        assert (await call("GET", "/integrations/halopsa/mappings/a%2Fb"))[0] == 400
        # A mapping whose integration is gone can go as well.
        await call("DELETE", "/integrations/halopsa?org=global")
        assert (await call("GET", MAPPING))[0] == 404
        assert (await call("DELETE", MAPPING))[0] == 204
        assert (await call("DELETE", MAPPING))[0] == 404


async def test_what_belongs_to_another_organization_is_not_there(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/integrations/private?org=acme", {})
        await call("PUT", "/integrations/shared?org=global", {})
        assert (await call("GET", "/integrations/private"))[0] == 404
        for method in ("PATCH", "DELETE"):
            # The platform's is seen by all, and changed by the platform only.
            assert (await call(method, "/integrations/shared", {} if method == "PATCH" else None))[0] == 404
        for path in ("/integrations/private/mappings/default", "/integrations/private/mappings"):
            assert (await call("GET", path))[0] == 404
        assert (await call("PUT", "/integrations/private/mappings/default", {}))[0] == 404
        names = [one["name"] for one in (await call("GET", "/integrations"))[1]["items"]]
        assert names == ["shared"]


@pytest.mark.parametrize(
    "route",
    [*endpoints_of(KINDS["integration"]), *endpoints_of(KINDS["mapping"])],
    ids=lambda route: f"{route.method} {route.path}",
)
async def test_no_route_of_integrations_lets_a_stranger_in(place: Place, route: Any) -> None:
    async with running(place, "gateway", MILLRACE_PORT="0") as runtime, aiohttp.ClientSession() as session:
        call = Api(session, runtime.health.document()["url"], "unused")
        path = route.path.format(name="halopsa", org="default")
        assert await call.bare(route.method, path) == 401
        assert await call.bare(route.method, path, Authorization="Bearer wrong") == 401


async def test_changes_and_refusals_of_mappings_are_audited_with_their_organization(place: Place) -> None:
    async with house(place) as call, running(place, "logs"):
        await call("PUT", "/integrations/halopsa?org=global", {"config_schema": SCHEMA})
        await call("PUT", "/integrations/halopsa/mappings/acme", {"config": {}})
        await call("PUT", "/integrations/halopsa/mappings/acme", {"config": {"subdomain": "a"}})
        await call("DELETE", "/integrations/halopsa/mappings/acme")
        by_entity = {"adapter": "github", "settings": {"secret": "s3cret"}, "integration": "halopsa", "by_entity": True}
        await call("PUT", "/sources/shared?org=global", by_entity)
        claiming = {"config": {"subdomain": "a"}, "entity_id": "41"}
        await call("PUT", "/integrations/halopsa/mappings/beta", claiming)
        status, refused = await call("PUT", "/integrations/halopsa/mappings/acme", claiming)
        assert (status, "beta" in json.dumps(refused), refused["errors"][0]["path"]) == (409, False, "entity_id")
        await call("PUT", "/integrations/halopsa/mappings/acme?dry_run=true", {"config": {"subdomain": "a"}})

        async def told() -> Any:
            items = (await call("GET", "/logs?q=stream:AUDIT&org=acme&order=asc"))[1]["items"]
            return items if len(items) == 5 else None

        items = await eventually(told)
        assert isinstance(items, list)
        # A dry run made nothing: its record is not to be taken for one of a change.
        tried = items.pop()
        assert tried["message"].endswith(" check halopsa: ok")
        assert tried["data"]["detail"] == {"change": "created"}
        said = [(one["data"]["category"], one["data"]["verb"], one["data"]["target"], one["data"]["outcome"]) for one in items]
        assert said == [
            ("mapping", "put", "halopsa", "invalid"),
            ("mapping", "put", "halopsa", "ok"),
            ("mapping", "delete", "halopsa", "ok"),
            ("mapping", "put", "halopsa", "conflict"),
        ]
        made, removed = (one["data"]["detail"]["changes"] for one in items[1:3])
        assert (made["config"], removed["config"]) == ([None, {"subdomain": "a"}], [{"subdomain": "a"}, None])


async def test_an_organization_claims_no_entity_of_the_platforms_source_itself(place: Place) -> None:
    async with house(place) as call, aiohttp.ClientSession() as session:
        key = (await call("POST", "/keys?org=acme", {"name": "dev", "role": "admin"}))[1]["key"]
        own = Api(session, call.url, key)
        mapping = "/integrations/halopsa/mappings/acme"
        await call("PUT", "/integrations/halopsa?org=global", {})
        # Where nothing is routed by it, an entity is the organization's own word.
        assert (await own("PUT", mapping, {"entity_id": "40"}))[0] == 200
        by_entity = {"adapter": "github", "settings": {"secret": "s3cret"}, "integration": "halopsa", "by_entity": True}
        assert (await call("PUT", "/sources/shared?org=global", by_entity))[0] == 200
        assert (await call("PUT", "/integrations/halopsa/mappings/beta", {"entity_id": "42"}))[0] == 200
        # Whether somebody has it is not told.
        said = [await own("PATCH", mapping + more, {"entity_id": one}) for one in ("41", "42") for more in ("", "?dry_run=true")]
        assert {(status, answer["detail"]) for status, answer in said} == {
            (403, "events are routed by the entity_id of integration 'halopsa': to give it to somebody takes a key of global")
        }
        # Nor by way of an integration of its own, which it then removes.
        assert (await own("PUT", "/integrations/halopsa", {}))[0] == 200
        assert (await own("PATCH", mapping, {"entity_id": "41"}))[0] == 200
        assert (await own("DELETE", "/integrations/halopsa"))[0] == 409
        assert (await own("PATCH", mapping, {"entity_id": None}))[0] == 200
        assert (await own("DELETE", "/integrations/halopsa"))[0] == 204
        # The platform claims it; from then on the organization changes the rest, and may give it up.
        assert (await call("PATCH", mapping, {"entity_id": "41"}))[0] == 200
        assert (await own("PUT", mapping, {"entity_id": "41", "connection": "halo"}))[0] == 200
        assert (await own("DELETE", mapping))[0] == 204
        assert (await own("PUT", mapping, {"entity_id": "41"}))[0] == 403


async def test_an_audit_has_what_was_there_before_and_after_and_no_secret(place: Place) -> None:
    async with house(place) as call, running(place, "logs"):
        source = {"adapter": "github", "settings": {"secret": "s3cret-one"}}
        for change in (
            source,
            {**source, "enabled": False},
            {**source, "settings": {"secret": "s3cret-two", "x" * 900: "y" * 2000}},
        ):
            await call("PUT", "/sources/hub", change)
        await call("PATCH", "/sources/hub", {"settings": {"secret": "s3cret-two"}})
        await call("DELETE", "/sources/hub")

        async def told() -> Any:
            items = (await call("GET", "/logs?q=stream:AUDIT data.target:hub&order=asc"))[1]["items"]
            return items if len(items) == 5 else None

        items: Any = await eventually(told)
        first, second, third, fourth, fifth = (one["data"]["detail"].get("changes") for one in items)
        assert first["adapter"] == [None, "github"]
        assert first["secret"] == [None, "(another secret)"]
        assert second == {"enabled": [True, False]}
        assert third is None, items[2]
        assert fourth == {"secret": ["(secret)", "(another secret)"]}
        assert fifth["secret"] == ["(secret)", None]
        assert "s3cret" not in json.dumps(items)
        assert (await call("GET", "/audit?q=type:audit.put&from=now-1h"))[0] == 200

        async def read() -> Any:
            return (await call("GET", "/logs?q=type:audit.search"))[1]["items"]

        (seen,) = await eventually(read)  # type: ignore[misc]
        assert seen["data"]["detail"] == {"q": "type:audit.put", "from": "now-1h"}


# -- topics -----------------------------------------------------------------------------------------------------------


async def test_the_id_of_another_kind_of_resource_is_no_address(place: Place) -> None:
    async with house(place) as call:
        _, integration = await call("PUT", "/integrations/halopsa", {"config_schema": SCHEMA})
        assert await call.bare("POST", f"/hooks/{integration['id']}") == 404


async def test_a_topic_has_no_address_and_takes_events_over_the_api(place: Place) -> None:
    async with house(place) as call:
        status, source = await call("PUT", "/sources/orders", {"adapter": "topic"})
        assert (status, source["url"], source["settings"], source["secrets"]) == (200, None, {}, [])
        assert "topic" in [one["name"] for one in (await call("GET", "/adapters"))[1]["items"]]
        assert await call.bare("POST", f"/hooks/{source['id']}") == 404
        for where in ("orders", source["id"]):
            status, answer = await call("POST", f"/sources/{where}/events", {"type": "order.paid", "data": {"n": 1}})
            assert status == 202
            delivery = await eventually(lambda id_=answer["id"]: _delivery(call, id_))
            assert isinstance(delivery, dict)
            assert (delivery["type"], delivery["source"], delivery["status"]) == ("order.paid", source["id"], "filtered")
        listed = (await call("GET", "/deliveries?source=orders"))[1]["items"]
        assert len(listed) == 2


async def test_an_event_with_an_idempotency_key_is_taken_once(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/orders", {"adapter": "topic"})
        event = {"type": "order.paid", "data": {"n": 1}}
        first = await call("POST", "/sources/orders/events", event, Idempotency_Key="k1")
        assert first[0] == 202
        assert await call("POST", "/sources/orders/events", event, Idempotency_Key="k1") == first
        assert (await call("POST", "/sources/orders/events", event | {"data": 2}, Idempotency_Key="k1"))[0] == 422
        assert (await call("POST", "/sources/orders/events", event))[1]["id"] != first[1]["id"]
        assert (await call("POST", "/sources/orders/events", event, Idempotency_Key="k" * 256))[0] == 400


async def test_an_event_that_cannot_be_taken_says_why(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/orders", {"adapter": "topic"})
        await call("PUT", "/sources/repo", {"adapter": "github", "settings": {"secret": "s"}})
        good = {"type": "order.paid"}
        for path, body, expected in (
            ("/sources/nothing/events", good, 404),
            ("/sources/repo/events", good, 422),
            ("/sources/orders/events?org=other", good, 404),
            ("/sources/orders/events", {"type": "not a type"}, 422),
            ("/sources/orders/events", {"data": 1}, 422),
            ("/sources/orders/events", good | {"more": 1}, 422),
            ("/sources/orders/events", good | {"data": "x" * 300_000}, 413),
            ("/sources/orders/events", good | {"data": "x" * 3_000_000}, 413),
        ):
            assert (await call("POST", path, body))[0] == expected, path
        assert await call.bare("POST", "/api/v1/sources/orders/events") == 401
        await call("PATCH", "/sources/orders", {"enabled": False})
        status, answer = await call("POST", "/sources/orders/events", good)
        assert (status, answer["detail"]) == (404, "source 'orders' is switched off")


async def test_a_source_keeps_its_integration_until_it_is_told_another(place: Place) -> None:
    async with house(place) as call:
        body = {"adapter": "topic", "integration": "halopsa"}
        status, answer = await call("PUT", "/sources/orders", body)
        assert (status, answer["errors"][0]["path"]) == (422, "integration")
        await call("PUT", "/integrations/halopsa?org=global", {})
        assert (await call("PUT", "/sources/orders", body))[1]["integration"] == "halopsa"
        assert (await call("PATCH", "/sources/orders", {"enabled": False}))[1]["integration"] == "halopsa"
        assert (await call("PATCH", "/sources/orders", {"integration": None}))[1]["integration"] is None


async def _delivery(call: Api, id_: str) -> Any:
    status, answer = await call("GET", f"/deliveries/{id_}")
    return answer if status == 200 and answer["status"] != "accepted" else None
