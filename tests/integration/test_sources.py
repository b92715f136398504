"""Sources over the API, with their real owner: secrets that rotate, are never shown, and are forgotten when told so."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg

from shared.envelope import new_id
from tests.support.inside import eventually, running
from tests.support.servers import Place

BODY = b'{"ref":"refs/heads/main"}'


class Api:
    """One gateway, with the platform key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(method, f"/api/v1{path}", json=body) as response:
            return response.status, await response.json(content_type=None) if response.status != 204 else None

    async def hook(
        self, url: str, secret: str, *, body: bytes = BODY, chunked: bool = False, **headers: str
    ) -> aiohttp.ClientResponse:
        """Send a webhook signed with a secret, `chunked` without its length; returns the answer, read."""
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers |= {
            "X-Hub-Signature-256": f"sha256={signature}",
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": new_id(),
        }
        async with self._session.post(url, data=_parts(body) if chunked else body, headers=headers) as response:
            await response.read()
            return response


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 10):
        yield body[at : at + 10]


@asynccontextmanager
async def house(place: Place, **environment: str) -> AsyncIterator[Api]:
    async with (
        running(place, "events"),
        running(place, "gateway", MILLRACE_PORT="0", **environment) as runtime,
        aiohttp.ClientSession(
            base_url=runtime.health.document()["url"],
            headers={"Authorization": f"Bearer {place.credentials.admin_key}"},
        ) as session,
    ):
        yield Api(session)


async def opens(call: Api, url: str, *secrets: str, refused: tuple[str, ...] = ()) -> None:
    """Wait until exactly these secrets open the address; the gateway hears of changes a moment later."""

    async def as_told() -> bool:
        statuses = [(await call.hook(url, secret)).status for secret in (*secrets, *refused)]
        return statuses == [202] * len(secrets) + [401] * len(refused)

    await eventually(as_told)


async def test_a_secret_is_rotated_without_a_refusal_in_between(place: Place) -> None:
    async with house(place) as call:
        status, source = await call("PUT", "/sources/repo", {"adapter": "github", "settings": {"secret": "old-one"}})
        assert status == 200
        await opens(call, source["url"], "old-one", refused=("new-one",))
        rotating = {"settings": {"secret": "new-one", "previous_secret": "old-one"}}
        status, source = await call("PATCH", "/sources/repo", rotating)
        assert (status, source["secrets"], source["settings"]) == (200, ["previous_secret", "secret"], {})
        await opens(call, source["url"], "old-one", "new-one", refused=("third",))
        # A change of something else keeps both.
        await call("PATCH", "/sources/repo", {"settings": {}, "enabled": True})
        await opens(call, source["url"], "old-one", "new-one")
        status, source = await call("PATCH", "/sources/repo", {"settings": {"previous_secret": None}})
        assert (status, source["secrets"]) == (200, ["secret"])
        await opens(call, source["url"], "new-one", refused=("old-one",))


async def test_a_secret_that_is_demanded_cannot_be_forgotten(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/repo", {"adapter": "github", "settings": {"secret": "s"}})
        for settings in ({"secret": None}, {"secret": None, "previous_secret": "p"}):
            assert (await call("PATCH", "/sources/repo", {"settings": settings}))[0] == 422
            assert (await call("PUT", "/sources/repo", {"adapter": "github", "settings": settings}))[0] == 422
        assert (await call("GET", "/sources/repo"))[1]["secrets"] == ["secret"]


async def test_a_secret_of_another_form_is_refused_before_it_closes_the_source(place: Place) -> None:
    async with house(place) as call:
        for name in ("secret", "previous_secret"):
            settings = {"secret": "whsec_c2VjcmV0", name: "not base64!"}
            status, answer = await call("PUT", "/sources/std", {"adapter": "standard-webhooks", "settings": settings})
            assert (status, answer["errors"][0]["path"]) == (422, f"settings.{name}")
            assert "not base64!" not in str(answer)


async def test_a_header_that_no_sender_fills_is_refused(place: Place) -> None:
    async with house(place) as call:
        settings = {"secret": "a secret of some length, as all ask", "header": "Host", "issuer": "i", "audience": ["a"]}
        for adapter in ("api_key", "hmac", "jwt"):
            given = {name: one for name, one in settings.items() if adapter == "jwt" or name in {"secret", "header"}}
            status, said = await call("PUT", "/sources/one", {"adapter": adapter, "settings": given})
            assert (status, "the header host is of the connection" in said["detail"]) == (422, True), said


async def test_no_secret_is_in_the_clear_on_the_bus_or_in_the_database(place: Place) -> None:
    async with house(place) as call, running(place, "logs"):
        settings = {"secret": "clear-one", "previous_secret": "clear-two"}
        for adapter in ("github", "hmac"):
            assert (await call("PUT", f"/sources/{adapter}", {"adapter": adapter, "settings": settings}))[0] == 200
        connection = await asyncpg.connect(place.database_url("admin"))
        try:

            async def archived() -> bool:
                kept = await connection.fetchval("SELECT count(*) FROM logs.message WHERE type = 'source.changed'")
                return kept == 2

            await eventually(archived)
            for text in ("SELECT convert_from(document, 'UTF8') FROM logs.message", "SELECT s::text FROM events.resource s"):
                rows = [row[0] for row in await connection.fetch(text)]
                assert rows
                assert not [row for row in rows if "clear-" in row]
        finally:
            await connection.close()


async def test_a_source_takes_no_more_than_its_rate_and_says_so(place: Place) -> None:
    async with house(place) as call, running(place, "logs"):
        settings = {"secret": "s", "rate": {"per_second": 0.01, "burst": 3}}
        status, source = await call("PUT", "/sources/slow", {"adapter": "github", "settings": settings})
        assert (status, source["settings"]) == (200, {"rate": settings["rate"]})
        _, other = await call("PUT", "/sources/other", {"adapter": "github", "settings": {"secret": "s"}})
        # A wrong signature costs its sender a request and the source no token.
        assert [(await call.hook(source["url"], "wrong")).status for _ in range(5)] == [401] * 5
        answers = [await call.hook(source["url"], "s") for _ in range(10)]
        assert [answer.status for answer in answers] == [202] * 3 + [429] * 7
        assert all(0 < int(answer.headers["Retry-After"]) <= 100 for answer in answers[3:])
        assert answers[3].content_type == "application/problem+json"
        assert (await call.hook(other["url"], "s")).status == 202
        # Bodies are not asked for either, and what is not genuine is told nothing else.
        assert (await call.hook(source["url"], "wrong")).status == 429

        async def told() -> Any:
            items = (await call("GET", "/logs?q=type:webhook.refused"))[1]["items"]
            return items if sum(item["data"]["count"] for item in items) == 8 else None

        items = await eventually(told)
        assert isinstance(items, list)
        assert len(items) <= 3
        assert {(item["data"]["source"], item["data"]["reason"], item["org"]) for item in items} == {
            (source["id"], "rate", "default")
        }
        # A new version of the source begins anew.
        await call("PATCH", "/sources/slow", {"settings": {"rate": None}})

        async def open_again() -> bool:
            return [(await call.hook(source["url"], "s")).status for _ in range(5)] == [202] * 5

        await eventually(open_again)


async def test_a_source_has_a_weight_within_bounds(place: Place) -> None:
    async with house(place) as call:
        for weight, expected in ((10, 200), (0, 422), (11, 422), (1.5, 422), ("2", 422)):
            status, _ = await call("PUT", "/sources/heavy", {"adapter": "github", "settings": {"secret": "s", "weight": weight}})
            assert status == expected, weight
        _, source = await call("GET", "/sources/heavy")
        assert source["settings"] == {"weight": 10}
        assert (await call.hook(source["url"], "s")).status == 202


async def test_a_rate_that_lets_nothing_in_is_refused(place: Place) -> None:
    async with house(place) as call:
        for rate in ({"per_second": 0}, {"burst": 3}, {"per_second": 1, "burst": 0}, {"per_second": 1, "day": 3}, 5):
            status, _ = await call("PUT", "/sources/none", {"adapter": "github", "settings": {"secret": "s", "rate": rate}})
            assert status == 422
