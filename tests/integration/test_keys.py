"""Keys of organizations: each does what it may in its own one, until it is over, and its value is found nowhere."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from services.gateway.identity import Keys, digest_of
from services.gateway.users import Users
from shared import registry
from shared.bus import Bus
from shared.envelope import open_message, rfc3339, utc_now
from shared.errors import Unavailable
from shared.health import Health
from shared.messages import Audited
from shared.pull import StreamError, api_request
from shared.questions.logs import TailLogs, TailPage
from shared.streams import REGISTRIES, STREAMS
from tests.integration.test_gateway import Client, Got, answering, gateway, stream
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


async def made(client: Client, name: str = "ci", *, org: str = "acme", **fields: Any) -> dict[str, Any]:
    """Return a new key as its creation shows it."""
    got = await client("POST", f"/api/v1/keys?org={org}", json={"name": name, "role": "viewer"} | fields)
    assert got.status == 201, got.body
    shown: dict[str, Any] = got.json
    return shown


async def expiring(client: Client, seconds: float = 1.0, **fields: Any) -> dict[str, Any]:
    """Return a new key that expires soon; later where the gateway has found out too late about one that was to expire sooner."""
    while True:
        body = {"name": "ci", "role": "viewer", "expires_at": rfc3339(utc_now() + timedelta(seconds=seconds))} | fields
        got = await client("POST", "/api/v1/keys?org=acme", json=body)
        if got.status == 201:
            shown: dict[str, Any] = got.json
            return shown
        assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, ["expires_at"]), got.body
        seconds *= 3


async def by(client: Client, key: str, method: str, path: str, **options: Any) -> Got:
    """Send a request with a key."""
    return await client(method, path, headers={"Authorization": f"Bearer {key}"}, **options)


async def status(client: Client, key: str, path: str = "/api/v1/keys") -> int:
    return (await by(client, key, "GET", path)).status


async def denials(place: Place) -> list[dict[str, Any]]:
    """Return the attempts that the audit trail has as denied, with their organization."""
    found: list[dict[str, Any]] = [msgspec.json.decode(one.data) | {"org": one.org} for one in await stream(place, "AUDIT")]
    return [one for one in found if (one["category"], one["verb"]) == ("access", "denied")]


async def test_a_key_is_shown_once_and_acts_in_its_own_organization(client: Client) -> None:
    shown = await made(client, role="admin")
    key = shown["key"]
    assert (key[:9], len(key), shown["prefix"], shown["org"], shown["status"]) == (shown["prefix"], 46, key[:9], "acme", "active")
    got = await by(client, key, "GET", "/api/v1/keys/ci")
    assert (got.status, got.json["key"], got.json["prefix"]) == (200, None, shown["prefix"])
    assert not {"digest", "previous"} & got.json.keys()
    # Its own organization is the one that it means, and the only one that it finds.
    (item,) = (await by(client, key, "GET", "/api/v1/keys")).json["items"]
    assert (item["org"], item["last_used_at"] is not None, item["key"]) == ("acme", True, None)
    assert await status(client, key, "/api/v1/keys?org=acme") == 200
    for foreign in ("default", "global", "other"):
        refused = await by(client, key, "GET", f"/api/v1/keys?org={foreign}")
        assert (refused.status, refused.json["detail"]) == (404, f"there is no organization '{foreign}'")
    headers = {"Authorization": f"Bearer {key}", "X-Millrace-Org": "default"}
    assert (await client("GET", "/api/v1/keys", headers=headers)).status == 404
    assert (await by(client, key, "PUT", "/api/v1/integrations/x/mappings/default", json={})).status == 404
    assert await status(client, key, "/api/v1/logs?org=*") == 404


async def test_what_a_role_or_a_scope_does_not_allow_is_refused_and_recorded(client: Client, place: Place) -> None:
    viewer = (await made(client, "looks"))["key"]
    narrow = (await made(client, "narrow", role="developer", scopes=["deliveries", "workflow:orders", "source:repo"]))["key"]
    platform = (await made(client, "looks", org="global"))["key"]
    for key, method, path, wanted in (
        (viewer, "GET", "/api/v1/keys", 403),
        (viewer, "PUT", "/api/v1/sources/repo", 403),
        (viewer, "GET", "/metrics", 403),
        (viewer, "GET", "/api/v1/audit/digests", 403),
        (platform, "GET", "/metrics", 200),
        (platform, "PUT", "/api/v1/sources/repo", 403),
        (narrow, "GET", "/api/v1/sources", 403),
        (narrow, "GET", "/api/v1/sources/other", 403),
        (narrow, "GET", "/api/v1/workflows/other", 403),
        (narrow, "GET", "/api/v1/runs", 403),
        # Nobody answers here, whom these would be passed on to.
        (narrow, "GET", "/api/v1/sources/repo", 503),
        (narrow, "POST", "/api/v1/workflows/orders/runs", 503),
        (narrow, "GET", "/api/v1/deliveries", 503),
        (viewer, "GET", "/api/v1/sources", 503),
        (platform, "GET", "/api/v1/sources?org=acme", 503),
    ):
        got = await by(client, key, method, path, json={} if method != "GET" else None)
        assert got.status == wanted, (method, path, got.body)
    await by(client, "mr_nobody", "GET", "/api/v1/runs")
    await by(client, viewer, "GET", "/api/v1/runs?org=other")

    async def recorded() -> bool:
        found = {(one["actor"], one["org"], one["outcome"]) for one in await denials(place)}
        return found >= {
            ("key:looks", "acme", "permission_denied"),
            ("key:narrow", "acme", "permission_denied"),
            ("key:global/looks", "default", "permission_denied"),
            ("unknown", "global", "unauthenticated"),
        }

    await eventually(recorded)


async def test_what_is_denied_to_keys_of_one_name_is_told_to_each_organization(client: Client, place: Place) -> None:
    ours, theirs = (await made(client, "looks"))["key"], (await made(client, "looks", org="globex"))["key"]
    for key in (ours, theirs, ours):
        assert await status(client, key) == 403

    async def told() -> bool:
        counts = {"acme": 0, "globex": 0}
        for one in await denials(place):
            counts[one["org"]] += one["detail"]["count"]
        return counts == {"acme": 2, "globex": 1}

    await eventually(told)


async def test_no_key_makes_one_that_may_do_more(client: Client) -> None:
    narrow = (await made(client, "narrow", role="admin", scopes=["keys"]))["key"]
    assert await status(client, narrow) == 200
    for method, path, body in (
        ("POST", "", {"name": "more", "role": "admin"}),
        ("PUT", "/more", {"role": "viewer"}),
        ("PATCH", "/narrow", {"scopes": []}),
        ("POST", "/narrow/rotate", {}),
        ("DELETE", "/narrow", None),
    ):
        assert (await by(client, narrow, method, "/api/v1/keys" + path, json=body)).status == 403
    admin = (await made(client, "admin", role="admin"))["key"]
    assert (await by(client, admin, "POST", "/api/v1/keys?org=global", json={"name": "more", "role": "admin"})).status == 404
    for body, path in (
        ({"role": "owner"}, "role"),
        ({"role": "viewer", "digest": "00" * 32}, "digest"),
        ({"role": "viewer", "scopes": ["nothing"]}, "scopes.0"),
        ({"role": "viewer", "scopes": ["source:"]}, "scopes.0"),
        ({"role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"role": "viewer", "expires_at": "tomorrow"}, "expires_at"),
    ):
        got = await by(client, admin, "PUT", "/api/v1/keys/wrong", json=body)
        assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, [path]), got.body
    for name in ("digest", "previous", "previous_until", "prefix"):
        assert (await by(client, admin, "PATCH", "/api/v1/keys/admin", json={name: "x"})).status == 422


async def test_a_put_that_comes_again_keeps_the_value_and_is_no_change(place: Place, client: Client) -> None:
    first = await client("PUT", "/api/v1/keys/ci?org=acme", json={"role": "admin"})
    key = first.json["key"]
    again = await client("PUT", "/api/v1/keys/ci?org=acme", json={"role": "admin"})
    tried = await client("PUT", "/api/v1/keys/other?org=acme&dry_run=true", json={"role": "admin"})
    changed = await client("PATCH", "/api/v1/keys/ci?org=acme", json={"scopes": ["keys"]})
    assert [one.headers["X-Millrace-Change"] for one in (first, again, tried, changed)] == ["created", "none", "created", "changed"]
    assert (again.json["key"], tried.json["key"], changed.json["key"]) == (None, None, None)
    assert (again.headers["ETag"], again.json["version"]) == (first.headers["ETag"], first.json["version"])
    said = [open_message(one) for one in await stream(place, "AUDIT")]
    changes = [(one.verb, one.target) for one in said if isinstance(one, Audited) and one.category == "key"]
    assert changes == [("put", "ci"), ("check", "other"), ("patch", "ci")]
    assert await status(client, key) == 200
    assert await status(client, key, "/api/v1/runs") == 403


async def test_a_revoked_key_counts_nowhere(client: Client, place: Place) -> None:
    async with gateway(place) as other:
        key = (await made(client, role="admin"))["key"]

        async def known() -> bool:
            return await status(other, key) == 200

        await eventually(known)
        assert (await client("DELETE", "/api/v1/keys/ci?org=acme")).status == 204
        assert await status(client, key) == 401

        async def forgotten() -> bool:
            return await status(other, key) == 401

        await eventually(forgotten)
        # Another one of that name is another one.
        assert (await made(client, role="admin"))["key"] != key
        assert await status(client, key) == 401


async def test_a_rotated_key_goes_on_for_as_long_as_it_is_said(client: Client) -> None:
    first = (await made(client, role="admin"))["key"]
    got = await client("POST", "/api/v1/keys/ci/rotate?org=acme", json={"overlap": 3600})
    second = got.json["key"]
    assert (got.status, got.json["previous_until"] is not None) == (200, True)
    assert [await status(client, key) for key in (first, second)] == [200, 200]
    third = (await client("POST", "/api/v1/keys/ci/rotate?org=acme", json={"overlap": 1})).json["key"]
    # One of both before may go on, the last.
    assert [await status(client, key) for key in (first, third)] == [401, 200]

    async def over() -> bool:
        return await status(client, second) == 401

    await eventually(over)
    # A key may give itself another value, without any overlap, and is told.
    own = await by(client, third, "POST", "/api/v1/keys/ci/rotate", json={})
    assert (own.status, own.json["previous_until"]) == (200, None)
    assert [await status(client, key) for key in (third, own.json["key"])] == [401, 200]
    assert (await client("POST", "/api/v1/keys/nobody/rotate?org=acme", json={})).status == 404
    assert (await client("POST", "/api/v1/keys/ci/rotate?org=acme", json={"overlap": -1})).status == 422


async def test_a_key_expires(client: Client, place: Place) -> None:
    shown = await expiring(client, role="admin")
    key, soon = shown["key"], shown["expires_at"]

    async def over() -> bool:
        return await status(client, key) == 401

    await eventually(over)
    assert (await client("GET", "/api/v1/keys/ci?org=acme")).json["status"] == "expired"

    async def recorded() -> bool:
        return any(one["actor"] == "key:ci" and one["detail"]["reason"] == "expired_key" for one in await denials(place))

    await eventually(recorded)
    # The files that it came from may be applied again, and it may be given more time.
    again = await client("PUT", "/api/v1/keys/ci?org=acme", json={"role": "admin", "expires_at": soon})
    assert (again.status, again.headers["X-Millrace-Change"]) == (200, "none")
    assert (await client("PATCH", "/api/v1/keys/ci?org=acme", json={"expires_at": None})).status == 200
    assert await status(client, key) == 200


async def bytes_of(bus: Bus, name: str) -> list[bytes]:
    """Return the bytes of all messages of a stream, those of KV buckets too."""
    state = (await api_request(bus.client, f"$JS.API.STREAM.INFO.{name}", None))["state"]
    found = []
    for sequence in range(max(1, state["first_seq"]), state["last_seq"] + 1):
        # Of a key of KV the last entry alone is there.
        with contextlib.suppress(StreamError):
            got = await api_request(bus.client, f"$JS.API.STREAM.MSG.GET.{name}", {"seq": sequence})
            found.append(base64.b64decode(got["message"]["data"]))
    return found


@asynccontextmanager
async def following(client: Client, key: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Follow what is archived, by a key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with client.session.get(f"{client.url}/api/v1/logs/tail", headers=headers) as response:
        assert response.status == 200
        await response.content.readuntil(b"\n\n")
        yield response


async def ended(response: aiohttp.ClientResponse) -> None:
    """Return when a stream has ended; AssertionError if it goes on."""
    async with asyncio.timeout(30):
        with contextlib.suppress(aiohttp.ClientError):
            while await response.content.readany():
                pass


@pytest.mark.parametrize("how", ["revoked", "narrowed", "rotated", "expired"])
async def test_a_stream_ends_with_its_key(client: Client, place: Place, how: str) -> None:
    async def tail(_asked: TailLogs, _deps: Any) -> TailPage:
        return TailPage(items=[], position="1", dropped=0, more=False)

    async with answering(place, "logs", {TailLogs: tail}):
        # Long enough for its stream to begin, on a machine that is busy as well.
        key = (await (expiring(client, 3.0) if how == "expired" else made(client)))["key"]
        stays = (await made(client, "stays"))["key"]
        async with following(client, key) as stream, following(client, stays) as other:
            if how == "revoked":
                await client("DELETE", "/api/v1/keys/ci?org=acme")
            elif how == "narrowed":
                await client("PATCH", "/api/v1/keys/ci?org=acme", json={"scopes": ["runs"]})
            elif how == "rotated":
                await client("POST", "/api/v1/keys/ci/rotate?org=acme", json={})
            await ended(stream)
            assert other.connection is not None


async def test_no_key_is_found_on_the_bus_in_the_database_or_in_a_log(
    client: Client, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    key = (await made(client, role="admin"))["key"]
    rotated = (await client("POST", "/api/v1/keys/ci/rotate?org=acme", json={"overlap": 60})).json["key"]
    unknown = "mr_" + "unknown-" * 6
    for one in (key, rotated, unknown, place.credentials.admin_key):
        await by(client, one, "GET", "/api/v1/keys/nobody")
        await by(client, one, "GET", "/api/v1/keys?org=foreign")
        await by(client, one, "PUT", "/api/v1/keys/ci", data=b"{")
        await by(client, one, "GET", "/nowhere")
    await client("DELETE", "/api/v1/keys/ci?org=acme")

    async def recorded() -> bool:
        return any(one["actor"] == "unknown" for one in await denials(place))

    await eventually(recorded)
    kept = b""
    async with bus_of(place, "admin") as bus:
        for name in (*(one.name for one in STREAMS), *(f"KV_{one.bucket}" for one in REGISTRIES)):
            kept += b"".join(await bytes_of(bus, name))
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        tables = await admin.fetch("SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT LIKE 'pg_%'")
        for schema, table in tables:
            if schema != "information_schema":
                rows = await admin.fetch(f'SELECT t::text AS row FROM "{schema}"."{table}" t')
                kept += "".join(row["row"] for row in rows).encode()
    finally:
        await admin.close()
    said = "".join(capfd.readouterr())
    assert b"key.changed" in kept
    assert digest_of(rotated).hex().encode() in kept
    for one in (key, rotated, unknown, place.credentials.admin_key):
        assert one.encode() not in kept
        assert one not in said


async def test_strangers_cost_nothing_that_stays_and_nobody_is_refused_before_all_keys_are_known(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        keys = Keys(bus.client, Health("gateway"), "mr_platform", Users(bus.client, Health("gateway")))
        with pytest.raises(Unavailable):
            keys.identify("mr_of-somebody")
        watching = asyncio.create_task(keys.run())
        try:
            await keys.complete()
            before = [len(one) for one in vars(keys).values() if isinstance(one, dict)]
            assert {keys.identify(f"mr_{number}") for number in range(1000)} == {None}
            assert [len(one) for one in vars(keys).values() if isinstance(one, dict)] == before
        finally:
            watching.cancel()


async def test_organizations_are_the_platforms_and_stay_while_they_have_keys(client: Client) -> None:
    key = (await made(client, role="admin"))["key"]
    other = (await made(client, "staff", org="global", role="viewer"))["key"]
    # Whichever organization is named: they are in none but the platform's.
    got = await client("PUT", "/api/v1/orgs/acme?org=default", json={"display_name": "Acme"})
    assert (got.status, got.json["org"], got.json["display_name"]) == (200, "global", "Acme")
    assert (await client("PUT", "/api/v1/orgs/a.b", json={})).status == 422
    for method, path in (
        ("GET", "/api/v1/orgs"),
        ("GET", "/api/v1/orgs/acme"),
        ("PUT", "/api/v1/orgs/new"),
        ("DELETE", "/api/v1/orgs/acme"),
    ):
        body = {} if method == "PUT" else None
        assert (await by(client, key, method, path, json=body)).status == 403
        assert (await by(client, other, method, path, json=body)).status == (200 if method == "GET" else 403)
    refused = await client("DELETE", "/api/v1/orgs/acme")
    assert (refused.status, "has key: 1; with ?erase=true" in refused.json["detail"]) == (409, True)
    assert (await client("DELETE", "/api/v1/keys/ci?org=acme")).status == 204
    # Whether anything else is left is known by its owners, who are not there.
    assert (await client("DELETE", "/api/v1/orgs/acme")).status == 503
    assert (await client("DELETE", "/api/v1/orgs/global?erase=true")).status == 422
    assert (await client("GET", "/api/v1/removals/acme")).status == 404
    # One that nobody has made is there as soon as the platform names it.
    assert (await made(client, org="unheard-of"))["org"] == "unheard-of"


async def test_a_lost_entry_is_made_again_from_the_stream(place: Place) -> None:
    async with gateway(place) as client:
        shown = await made(client, role="admin")
        assert (await client("DELETE", "/api/v1/keys/ci?org=acme")).status == 204
        kept = await made(client, "kept", role="admin")
    # As if a gateway had died between the stream and the registry, and its rows had not come so far either.
    async with bus_of(place, "admin") as bus:
        await api_request(bus.client, "$JS.API.STREAM.PURGE.KV_keys", None)
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        await admin.execute("DELETE FROM gateway.checkpoint; DELETE FROM gateway.resource")
    finally:
        await admin.close()
    async with gateway(place) as client:

        async def known() -> bool:
            return await status(client, kept["key"]) == 200

        await eventually(known)
        assert await status(client, shown["key"]) == 401


async def test_keys_count_while_the_database_is_away(client: Client, place: Place) -> None:
    key = (await made(client))["key"]
    async with place.database_away():
        # The role is looked at, which it is of a key that is known.
        assert await status(client, key) == 403

        async def said() -> bool:
            ready = (await client("GET", "/readyz")).json
            return "projection catalog" in ready["degraded"] and not ready["parts"]["projection catalog"]["ready"]

        await eventually(said)
        # Webhooks need no table.
        assert (await client("GET", "/readyz")).json["accepting"]["webhooks"] is True


async def test_what_this_gateway_has_not_heard_of_is_told_and_a_new_value_is_shown_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(client)
    monkeypatch.setattr(registry, "KNOWN_WITHIN", 0.05)
    # As where the broker's message is late.
    monkeypatch.setattr(Keys, "learn", lambda *_: None)
    one = "/api/v1/keys/ci?org=acme"
    for method, body, after in (("PATCH", {"role": "operator"}, (200, "operator")), ("DELETE", None, (404, None))):
        got = await client(method, one, json=body)
        assert (got.status, got.json["detail"].partition(",")[0]) == (503, "it is recorded"), method
        found = await client("GET", one)
        assert (found.status, found.json.get("role")) == after
    assert (await made(client, "other"))["key"] is not None
