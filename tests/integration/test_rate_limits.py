"""Rates of keys, organizations and sources, over two gateways: one bucket for both, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.gateway import config
from services.gateway.rates import Rate, SharedBuckets
from services.gateway.visitors import STRANGERS
from shared.config import ConfigError, Environment
from shared.http import QUOTA_EXCEEDED
from tests.integration.test_gateway import Client, Got, gateway, source
from tests.integration.test_keys import by, made
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

# So slow that nothing comes in while a test runs.
SLOW = Rate(0.001, 16)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


@asynccontextmanager
async def replica(place: Place) -> AsyncIterator[SharedBuckets]:
    """The buckets of one more replica, which hear and tell."""
    async with bus_of(place, "gateway") as bus, asyncio.TaskGroup() as group:
        buckets = SharedBuckets(bus.client)
        task = group.create_task(buckets.run())
        async with asyncio.timeout(30):
            while not buckets.hears:
                await asyncio.sleep(0)
        await bus.client.flush()
        yield buckets
        task.cancel()


def taken(buckets: SharedBuckets, most: int, id_: str = "x") -> int:
    """Take tokens until there is none, `most` at most; returns how many there were."""
    return sum(buckets.bucket(id_, SLOW).take(asyncio.get_running_loop().time()) == 0 for _ in range(most))


async def left(buckets: SharedBuckets, number: int, id_: str = "x") -> None:
    """Wait until a bucket has so many tokens."""

    async def has() -> bool:
        return buckets.bucket(id_, SLOW).left(asyncio.get_running_loop().time())[0] == number

    await eventually(has)


async def test_what_one_replica_takes_is_gone_for_all(place: Place) -> None:
    async with replica(place) as one, replica(place) as other:
        assert taken(one, 10) == 10
        await left(other, 6)
        assert taken(other, 100) == 6
        await left(one, 0)
        # Of a bucket that nobody asked for yet, too; and of others nothing.
        assert taken(one, 100, "y") == 16
        await left(other, 0, "y")
        await left(other, 16, "z")


async def test_what_both_take_at_once_is_owed_by_both(place: Place) -> None:
    async with replica(place) as one, replica(place) as other:
        assert (taken(one, 100), taken(other, 100)) == (16, 16)

        async def owed() -> bool:
            now = asyncio.get_running_loop().time()
            # 16 too many, and the token that is missing, at one in a thousand seconds.
            return all(16_900 < each.bucket("x", SLOW).wait(now) <= 17_000 for each in (one, other))

        await eventually(owed)


async def test_a_replica_that_has_gone_leaves_all_to_the_others_and_one_that_comes_has_its_part(place: Place) -> None:
    async with replica(place) as one:
        async with replica(place):
            pass
        assert taken(one, 4) == 4
        async with replica(place) as other:
            # It has heard nothing, and hears of what is taken from now on.
            assert taken(one, 4) == 4
            await left(other, 12)


async def test_without_the_broker_each_goes_on_by_itself_and_owes_nothing_for_it(place: Place) -> None:
    async with replica(place) as one, replica(place) as other:
        await one._client.close()
        assert (taken(one, 100), taken(other, 3)) == (16, 3)
        assert taken(one, 1) == 0
        # A round of telling later nothing is kept to be told.
        await eventually(_settled(one))
        await left(other, 13)


def _settled(buckets: SharedBuckets) -> Any:
    async def settled() -> bool:
        return not buckets.bucket("x", SLOW).untold

    return settled


def refused(got: Got, limit: str) -> None:
    """Hold an answer against what a refusal for a rate says."""
    assert (got.status, got.json["type"], got.json["violated-policies"]) == (429, QUOTA_EXCEEDED, [limit]), got.body
    assert got.headers["Content-Type"] == "application/problem+json"
    assert 0 < int(got.headers["Retry-After"]) <= 1000
    assert f'"{limit}";r=0;t=' in got.headers["RateLimit"]


async def test_a_key_asks_as_often_as_its_rate_says_at_all_gateways_together(client: Client, place: Place) -> None:
    key = (await made(client, role="admin", rate=0.001, burst=4))["key"]
    free = (await made(client, "free", role="admin"))["key"]
    async with gateway(place) as other:
        got = [await by(client, key, "GET", "/api/v1/keys") for _ in range(3)]
        assert [one.status for one in got] == [200] * 3
        assert {one.headers["RateLimit-Policy"] for one in got} == {'"key";q=4;w=4000'}
        assert [one.headers["RateLimit"].partition(";t=")[0] for one in got] == [f'"key";r={number}' for number in (3, 2, 1)]

        async def gone() -> bool:
            return (await by(other, key, "GET", "/api/v1/keys")).status == 429

        # How many the other lets in depends on how soon it hears, and it hears.
        await eventually(gone)
        refused(await by(other, key, "GET", "/api/v1/keys"), "key")
        await eventually(lambda: _is_429(client, key))
        # What is refused changes nothing, and is told before anything else.
        refused(await by(client, key, "DELETE", "/api/v1/keys/free"), "key")
        refused(await by(client, key, "GET", "/api/v1/keys?org=other"), "key")
        for each in (client, other):
            assert "RateLimit" not in (got := await by(each, free, "GET", "/api/v1/keys")).headers
            assert got.status == 200
            assert (await each("GET", "/api/v1/keys?org=acme")).status == 200
        # Another rate begins anew, and the platform is held to none.
        assert (await client("PATCH", "/api/v1/keys/ci?org=acme", json={"rate": 0.002})).status == 200
        assert (await by(client, key, "GET", "/api/v1/keys")).status == 200


async def _is_429(client: Client, key: str) -> bool:
    return (await by(client, key, "GET", "/api/v1/keys")).status == 429


async def test_what_one_organization_asks_for_never_stops_another(client: Client) -> None:
    keys = {org: [(await made(client, name, org=org))["key"] for name in ("one", "two")] for org in ("acme", "globex")}
    assert (await client("PUT", "/api/v1/orgs/acme", json={"rate": 0.001, "burst": 6})).status == 200

    async def held() -> bool:
        return "RateLimit" in (await by(client, keys["acme"][0], "GET", "/api/v1/keys")).headers

    await eventually(held)
    # Its keys share what it has: one token is gone.
    statuses = [(await by(client, keys["acme"][number % 2], "GET", "/api/v1/keys")).status for number in range(10)]
    assert statuses == [403] * 5 + [429] * 5
    for key in keys["acme"]:
        refused(await by(client, key, "GET", "/api/v1/runs"), "organization")
    for key in keys["globex"]:
        assert (await by(client, key, "GET", "/api/v1/keys")).status == 403
    assert (await client("GET", "/api/v1/keys?org=acme")).status == 200
    # Without its rate it is held to nothing, at once.
    assert (await client("PATCH", "/api/v1/orgs/acme", json={"rate": None, "burst": None})).status == 200
    await eventually(lambda: _is_403(client, keys["acme"][0]))


async def _is_403(client: Client, key: str) -> bool:
    return (await by(client, key, "GET", "/api/v1/keys")).status == 403


async def test_the_webhooks_of_an_organization_share_a_rate(client: Client, place: Place) -> None:
    rates = {"webhook_rate": 0.001, "webhook_burst": 3}
    assert (await client("PUT", "/api/v1/orgs/default", json=rates)).status == 200
    # It knows of all organizations that are there when it begins.
    async with gateway(place) as held, source(place, held) as (one, _), source(place, held) as (other, _):
        got = [await held.hook(id_) for id_ in (other, one, other, one, other)]
        assert [each.status for each in got] == [202, 202, 202, 429, 429]
        refused(got[-1], "organization")
        assert (await held.hook(one, headers={"X-Hub-Signature-256": "sha256=00"})).status == 429


async def test_those_without_a_rate_of_their_own_have_that_of_the_settings(place: Place) -> None:
    rates = {"MILLRACE_KEY_RATE": "0.001/2", "MILLRACE_ORG_RATE": "0.001/3", "MILLRACE_ORG_WEBHOOK_RATE": "0.001/1"}
    async with gateway(place, **rates) as client:
        first, second = [(await made(client, name, role="admin"))["key"] for name in ("first", "second")]
        own = (await made(client, "own", org="globex", role="admin", rate=1000))["key"]
        platform = (await made(client, "platform", org="global", role="admin"))["key"]
        statuses = [(await by(client, first, "GET", "/api/v1/keys")).status for _ in range(2)]
        assert statuses == [200, 200]
        refused(await by(client, first, "GET", "/api/v1/keys"), "key")
        assert (await by(client, second, "GET", "/api/v1/keys")).status == 200
        refused(await by(client, second, "GET", "/api/v1/keys"), "organization")
        assert [(await by(client, own, "GET", "/api/v1/keys")).status for _ in range(3)] == [200] * 3
        # Neither keys of the platform nor the platform key.
        assert {(await by(client, platform, "GET", "/api/v1/keys")).status for _ in range(5)} == {200}
        assert {(await client("GET", "/api/v1/keys?org=acme")).status for _ in range(5)} == {200}


@pytest.mark.parametrize("given", ["", "0", "-1", "5/0", "5/x", "inf", "nan", "5/2/1"])
def test_a_setting_that_is_no_rate_is_named(given: str) -> None:
    environment = Environment({"MILLRACE_KEY_RATE": given or "/"})
    config.read(environment)
    with pytest.raises(ConfigError) as refusal:
        environment.check()
    assert "MILLRACE_KEY_RATE" in [one.path for one in refusal.value.problems]


async def test_a_rate_that_means_nothing_is_named(client: Client) -> None:
    for path, fields, name in (
        ("/api/v1/keys?org=acme", {"name": "x", "role": "viewer", "burst": 5}, "burst"),
        ("/api/v1/keys?org=acme", {"name": "x", "role": "viewer", "rate": 0}, "rate"),
        ("/api/v1/orgs", {"name": "acme", "webhook_burst": 5}, "webhook_burst"),
        ("/api/v1/orgs", {"name": "acme", "rate": 1e9}, "rate"),
    ):
        got = await client("POST", path, json=fields)
        assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, [name]), fields


async def test_an_address_without_a_key_is_told_to_wait_and_others_are_not(place: Place) -> None:
    async with gateway(place, MILLRACE_TRUSTED_PROXIES="127.0.0.1") as client:

        async def status(address: str, key: str = "mr_guess") -> int:
            headers = {"X-Forwarded-For": address, "Authorization": f"Bearer {key}"}
            return (await client("GET", "/api/v1/keys", headers=headers)).status

        assert await status("192.0.2.1") == 401
        statuses = await asyncio.gather(*(status("192.0.2.1") for _ in range(5 * STRANGERS.size)))
        assert set(statuses) == {401, 429}
        assert await status("192.0.2.2") == 401
        # A key that counts is taken from there all the same.
        assert await status("192.0.2.1", place.credentials.admin_key) == 200
