"""What follows from the declaration of an endpoint when it is called."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from aiohttp import web

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import path_of
from services.gateway.api.endpoint import Audit, Call, Endpoint, endpoint
from shared.envelope import open_message
from shared.errors import AddressTooLong
from shared.messages import Audited
from tests.integration.test_gateway import Client, client, stream
from tests.support.inside import eventually
from tests.support.servers import Place

__all__ = ["client"]


class Query(msgspec.Struct, frozen=True):
    limit: int = 5


def test_an_endpoint_made_of_data_is_the_one_that_is_declared_in_place() -> None:
    @endpoint("POST", "/api/v1/things/{name}", role="operator", audit=Audit("thing", "poke", "name"))
    async def poke(call: Call[Query, dict[str, Any]]) -> Query:
        """Poke a thing."""
        return call.query

    made = Endpoint(
        method="POST",
        path="/api/v1/things/{name}",
        role="operator",
        name="poke",
        doc="Poke a thing.",
        query=Query,
        body=dict[str, Any],
        answers={200: Query},
        audit=Audit("thing", "poke", "name"),
        handler=poke.handler,
    )
    assert made == poke
    assert made.parts == ["name"]


def test_a_role_or_an_audit_that_nobody_would_see_to_cannot_be_declared() -> None:
    async def direct(request: web.Request) -> web.Response:
        raise NotImplementedError

    async def called(call: Call[None, None]) -> None:
        raise NotImplementedError

    with pytest.raises(TypeError):
        endpoint("GET", "/a", role="viewer")(direct)
    with pytest.raises(TypeError):
        endpoint("GET", "/a", role=None, audit=Audit("a", "b"))(called)
    assert endpoint("GET", "/a", role=None)(direct).is_direct


async def test_a_caller_who_may_do_nothing_is_refused_everywhere_and_every_attempt_is_audited(place: Place, client: Client) -> None:
    guest = {"name": "guest", "role": "admin", "scopes": ["workflow:nobody"]}
    key = (await client("POST", "/api/v1/keys?org=a", json=guest)).json["key"]
    keyed = [one for one in ENDPOINTS if one.role is not None and one.own != "caller" and not one.delegates]
    for one in keyed:
        path = path_of(one).format(**dict.fromkeys(one.parts, "a"))
        got = await client(one.method, path, data=b"no JSON", headers={"Authorization": f"Bearer {key}"})
        assert (got.status, got.json["title"]) == (403, "Not allowed"), one.name

    async def denied() -> list[Audited]:
        said = [open_message(envelope) for envelope in await stream(place, "AUDIT")]
        return [one for one in said if isinstance(one, Audited) and one.verb == "denied"]

    async def all_of_them() -> bool:
        return sum(int(one.detail["count"]) for one in await denied()) == len(keyed)

    # They come from one address, and so in as many messages as there are seconds.
    await eventually(all_of_them)
    assert {(one.category, one.actor, one.outcome) for one in await denied()} == {("access", "key:guest", "permission_denied")}


async def test_a_parameter_without_a_value_is_none_and_one_that_is_not_declared_is_ignored(client: Client) -> None:
    for query in ("limit=", "status=&cursor=", "nobody=knows&limit=1"):
        # The executor is not there: what was asked has passed the gateway.
        assert (await client("GET", f"/api/v1/runs?{query}")).status == 503, query
    got = await client("GET", "/api/v1/runs?limit=1.5&status=nonsense")
    assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, ["limit"])


async def test_a_parameter_that_is_given_twice_is_refused_by_name(client: Client) -> None:
    for path, name in (
        ("/api/v1/variables/a?dry_run=true&dry_run=false", "dry_run"),
        ("/api/v1/variables/a?org=a&org=b", "org"),
        ("/api/v1/variables/a?applied_as=a&applied_as=", "applied_as"),
    ):
        got = await client("PUT", path, data=b'{"value": 1}')
        assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, [name]), path
    assert (await client("GET", "/api/v1/runs?nobody=knows&nobody=knows")).status == 503


async def test_a_name_that_stands_twice_in_a_body_is_refused_wherever_it_stands(client: Client) -> None:
    for path, body in (
        ("/api/v1/variables/a", b'{"value": 1, "value": 2}'),
        ("/api/v1/variables/a", b'{"value": [{"value": 1, "\\u0076alue": 2}]}'),
        ("/api/v1/variables/a", b'{"value": [' + b"0, " * 50_000 + b'{"value": 1, "value": 1}]}'),
    ):
        got = await client("PUT", path, data=body)
        assert (got.status, [one["path"] for one in got.json["errors"]]) == (400, ["value"])
    twice = b'{"files": {"a.py": null, "b.py": null, "a.py": ""}}'
    got = await client("POST", "/api/v1/workspace/commits", data=twice)
    assert (got.status, [one["path"] for one in got.json["errors"]]) == (400, ["a.py"])
    # The owner is not there: what may enter has passed the gateway.
    assert (await client("PUT", "/api/v1/variables/a", data=b'{"value": [{"a": 1}, {"a": "value: value:"}]}')).status == 503


async def test_what_no_endpoint_takes_is_405_with_what_it_takes_and_404_otherwise_but_not_to_strangers(client: Client) -> None:
    got = await client("DELETE", "/api/v1/runs")
    assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")
    assert (await client("GET", "/api/v1/nothing")).status == 404
    for path in ("/api/v1/runs", "/api/v1/nothing"):
        assert (await client("DELETE", path, headers={})).status == 401
    assert (await client("POST", "/healthz", headers={})).status == 405


async def test_a_line_break_in_a_path_is_answered_like_anything_else(client: Client) -> None:
    for path in ("/api/v1/workspace/files/a%0Ab", "/api/v1/no%0Asuch", "/no%0Asuch", "/hooks/a%0Ab"):
        got = await client("GET", path)
        assert got.headers["Content-Type"] == "application/problem+json", path
        assert got.status in {404, 422, 503}, path
    assert (await client("GET", "/api/v1/no%0Asuch", headers={})).status == 401


async def test_an_address_that_is_too_long_is_refused_as_declared(client: Client) -> None:
    got = await client("DELETE", "/api/v1/workspace/files/" + "a" * 9000)
    assert (got.status, got.json["title"]) == (414, AddressTooLong.title)
    assert all(AddressTooLong in one.refusals() for one in ENDPOINTS if one.parts or one.query is not None)
