"""Settings of sources: what makes no verification is refused with its path, and what makes one is held to it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.integration.test_sources import house, opens
from tests.support.inside import eventually, running
from tests.support.servers import Place

UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("github", {}, "settings.secret"),
    ("hmac", {}, "settings.secret"),
    ("standard-webhooks", {}, "settings.secret"),
    ("hmac", {"secret": "s", "template": "{url}"}, "settings.template"),
    ("hmac", {"secret": "s", "template": "{timestamp}{body}"}, "settings.template"),
    ("hmac", {"secret": "s", "template": "{nothing}{body}"}, "settings.template"),
    ("hmac", {"secret": "s", "algorithm": "md5"}, "settings.algorithm"),
    ("hmac", {"secret": "s", "tolerance": 0}, "settings.tolerance"),
    ("hmac", {"secret": "s", "timestamp": {"prefix": "t="}}, "settings.timestamp"),
    ("hmac", {"secret": "hidden", "key_encoding": "hex"}, "settings.secret"),
    ("hmac", {"public_key": "bm8=", "algorithm": "ed25519", "key_encoding": "base64"}, "settings.public_key"),
    ("github", {"secret": "s", "networks": ["192.0.2.0/24", "everywhere"]}, "settings.networks.1"),
    ("github", {"secret": "s", "networks": []}, "settings.networks"),
]


async def test_settings_that_make_no_verification_are_refused_with_their_path(place: Place) -> None:
    async with house(place) as call:
        for adapter, settings, path in UNFIT:
            status, problem = await call("PUT", "/sources/one", {"adapter": adapter, "settings": settings})
            assert (status, problem.get("errors", [{}])[0].get("path")) == (422, path), (adapter, settings, problem)
            assert "hidden" not in str(problem)


async def test_only_a_sources_networks_may_send(place: Place) -> None:
    async with house(place) as call:
        here = {"adapter": "github", "settings": {"secret": "s", "networks": ["::1", "127.0.0.0/8"]}}
        _, source = await call("PUT", "/sources/here", here)
        await opens(call, source["url"], "s")
        elsewhere = here | {"settings": {"secret": "s", "networks": ["192.0.2.0/24"]}}
        _, other = await call("PUT", "/sources/elsewhere", elsewhere)
        assert (await call.hook(other["url"], "s")).status == 403
        await opens(call, source["url"], "s")


PROXIES = "127.0.0.0/8, ::1/128, 10.0.0.0/8"
# By the proxies that are trusted: what is forwarded, and the status of the answer to one of 192.0.2.0/24 alone.
FORWARDED: dict[str, list[tuple[str | None, int]]] = {
    PROXIES: [
        ("192.0.2.7", 202),
        ("192.0.2.7, 10.1.2.3", 202),
        ("::ffff:192.0.2.7", 202),
        ("198.51.100.1", 403),
        # Whoever is before the first address that is no proxy wrote himself what is farther.
        ("192.0.2.7, 198.51.100.1", 403),
        ("192.0.2.7, nonsense", 403),
        (None, 403),
    ],
    "": [("192.0.2.7", 403)],
    "10.0.0.0/8": [("192.0.2.7", 403)],
}


@pytest.mark.parametrize("proxies", FORWARDED)
async def test_behind_proxies_that_are_trusted_the_forwarded_address_is_the_senders_and_behind_others_it_is_not(
    place: Place, proxies: str
) -> None:
    async with house(place, MILLRACE_TRUSTED_PROXIES=proxies) as call:
        settings = {"secret": "s", "networks": ["192.0.2.0/24"]}
        _, source = await call("PUT", "/sources/one", {"adapter": "github", "settings": settings})
        for forwarded, status in FORWARDED[proxies]:
            headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}

            async def answered(headers: dict[str, str] = headers, status: int = status) -> bool:
                return (await call.hook(source["url"], "s", **headers)).status == status

            await eventually(answered)

        async def audited() -> bool:
            items = (await call("GET", "/audit?q=type:audit.refused"))[1]["items"]
            return any(item["data"]["target"] == source["id"] for item in items)

        async with running(place, "logs"):
            await eventually(audited)


async def test_a_source_takes_bodies_of_its_own_size_and_no_larger(place: Place) -> None:
    async with house(place) as call:
        small = {"adapter": "github", "settings": {"secret": "s", "max_body": 100}}
        _, source = await call("PUT", "/sources/small", small)
        await opens(call, source["url"], "s")
        assert (await call.hook(source["url"], "s", body=b'"' + b"x" * 98 + b'"')).status == 202
        refused = await call.hook(source["url"], "s", body=b'"' + b"x" * 99 + b'"')
        assert (refused.status, refused.content_type) == (413, "application/problem+json")
        # Also where no length is named before, and by the part: nothing is cut off.
        assert (await call.hook(source["url"], "s", body=b'"' + b"x" * 99 + b'"', chunked=True)).status == 413
        recorded = {"body_base64": base64.b64encode(b"x" * 101).decode()}
        tested = (await call("POST", "/sources/small/test", recorded))[1]
        assert (tested["status"], tested["steps"][-2]["step"]) == (413, "size")
        for wrong in (0, -1, 1.5, "1", True):
            settings = {"secret": "s", "max_body": wrong}
            assert (await call("PUT", "/sources/wrong", {"adapter": "github", "settings": settings}))[0] == 422


async def test_an_adapters_name_may_be_written_with_underscores(place: Place) -> None:
    async with house(place) as call:
        body = {"adapter": "standard_webhooks", "settings": {"secret": "whsec_AAAA"}}
        for _ in range(2):
            status, source = await call("PUT", "/sources/one", body)
            assert (status, source["adapter"], source["version"]) == (200, "standard-webhooks", 1)
        # The secret stays where it is still the same adapter.
        assert (await call("PUT", "/sources/one", {"adapter": "standard_webhooks", "settings": {}}))[0] == 200
