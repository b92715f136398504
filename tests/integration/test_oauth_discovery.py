"""Providers that are given by their issuer: what it announces is found, believed only of itself, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from services.oauth import discovery
from shared.egress import fetched
from shared.errors import Unavailable
from tests.support import resources
from tests.support.connections import Asking, asking
from tests.support.inside import bus_of, running
from tests.support.oauth_provider import local_provider
from tests.support.servers import Place

OPENID, OAUTH = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"


async def by(it: Asking, name: str, issuer: str, **more: Any) -> None:
    """Have a connection of that name by a provider of that name, which is given by its issuer."""
    await it.put("provider", name, issuer=issuer, client_id="client", client_secret="client-secret")
    await it.put("connection", name, **{"grant": "client_credentials", "provider": name} | more)


async def test_44_and_45_what_an_issuer_announces_is_found_once_and_believed_of_itself_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it:
        provider, url = it.provider, it.provider.url
        # OpenID's place, once for all who ask.
        await by(it, "openid", provider.announce())
        await it.put("connection", "second", grant="client_credentials", provider="openid")
        await asyncio.gather(it.given("openid"), it.given("second"))
        assert provider.looked_up == [OPENID]
        # Where nothing is said of how a client shows who it is, it does so in a header.
        assert all("Authorization" in one.headers for one in provider.asked)
        # The place of RFC 8414 lies before the issuer's path; a parameter is a segment of it.
        await by(it, "tenant", url + "/{tenant}/v2", parameters={"tenant": "a b"})
        methods = {"token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post"]}
        provider.announce(f"{url}/a%20b/v2", at=f"{OAUTH}/a b/v2", **methods)
        await it.given("tenant")
        assert provider.looked_up[1:] == [f"/a b/v2{OPENID}", f"{OAUTH}/a b/v2"]
        assert provider.asked[-1].parameters["client_secret"] == "client-secret"
        # That of another issuer, even of a longer or shorter name, is used for nothing.
        asked = len(provider.asked)
        for number, other in enumerate((url + "/", "https://evil.example", url.upper())):
            issuer = f"{url}/{number}"
            provider.announce(other, at=f"/{number}{OPENID}")
            await by(it, f"other-{number}", issuer)
            with pytest.raises(Unavailable, match=f"is the metadata of '{other}', and not of '{issuer}'"):
                await it.given(f"other-{number}")
            assert (await it.shown(f"other-{number}")).advice.startswith("compare the settings")
        # Nor is what cannot be followed safely, or is no metadata.
        wrong: dict[str, Callable[[], web.StreamResponse]] = {
            "redirect": lambda: web.Response(status=302, headers={"Location": url + OPENID}),
            "html": lambda: web.Response(text="<html>", content_type="text/html"),
            "endless": lambda: web.Response(body=b"x" * 300_000),
            "deep": lambda: web.Response(body=b'{"issuer": "x", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            "bare": lambda: web.json_response({"issuer": f"{url}/bare"}),
        }
        for name, answer in wrong.items():
            provider.metadata[f"/{name}{OPENID}"] = answer
        for name, address in (
            ("braces", url + "/{x}"),
            ("user", "https://user@evil.example/token"),
            ("ftp", "ftp://evil.example/token"),
        ):
            provider.announce(f"{url}/{name}", at=f"/{name}{OPENID}", token_endpoint=address)
        for name in (*wrong, "braces", "user", "ftp", "nothing"):
            await by(it, name, f"{url}/{name}")
            with pytest.raises(Unavailable, match="metadata could not be fetched"):
                await it.given(name)
        assert len(provider.asked) == asked
        # A wrong one that has been put right counts at the next look.
        monkeypatch.setattr(fetched, "UNKNOWN", 0.0)
        provider.announce(f"{url}/0", at=f"/0{OPENID}")
        await by(it, "righted", f"{url}/0")
        await it.given("righted")
        # A token that lives needs no issuer; one that ends is refreshed by what is known, an hour or a day.
        provider.metadata.clear()
        looked_up = len(provider.looked_up)
        await it.given("openid")
        await it.refresh("openid")
        assert len(provider.looked_up) == looked_up


async def test_what_is_wrong_with_an_issuer_is_a_warning_when_its_provider_is_put(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "FAILED", 0.0)
    async with asking(place) as it:
        provider, url = it.provider, it.provider.url

        async def warned(name: str, issuer: str) -> list[str]:
            shown = await it.put("provider", name, issuer=issuer, client_id="client", client_secret="client-secret")
            assert shown.warnings == (await resources.got(it.gateway, "provider", name, org="acme")).warnings
            assert {one["path"] for one in shown.warnings} <= {"issuer"}
            return [one["message"] for one in shown.warnings]

        provider.announce(f"{url}/well", at=f"/well{OPENID}")
        assert await warned("well", f"{url}/well") == []
        provider.announce("https://evil.example", at=f"/foreign{OPENID}")
        (foreign,) = await warned("foreign", f"{url}/foreign")
        assert f"is the metadata of 'https://evil.example', and not of '{url}/foreign'" in foreign
        provider.metadata[f"/html{OPENID}"] = lambda: web.Response(text="<html>", content_type="text/html")
        (html,) = await warned("html", f"{url}/html")
        assert f"/html{OPENID} answers cannot be read" in html
        (absent,) = await warned("absent", f"{url}/absent")
        assert "answered 404" in absent
        (refused,) = await warned("refused", "http://127.0.0.1:1")
        assert "could not be fetched" in refused
        # What was repaired is well when it is put again; one for each connection is asked for none.
        provider.announce(f"{url}/absent", at=f"/absent{OPENID}")
        assert await warned("absent", f"{url}/absent") == []
        assert await warned("templated", url + "/{tenant}") == []


async def test_an_issuers_addresses_are_those_that_a_person_is_sent_to_and_iss_is_demanded_where_it_is_promised(
    place: Place,
) -> None:
    async with asking(place) as it:
        issuer = it.provider.announce(authorization_response_iss_parameter_supported=True)
        await it.put("provider", "local", issuer=issuer, client_id="client", client_secret="client-secret")
        await it.put("connection", "halo", grant="authorization_code", provider="local")
        for more in ({}, {"iss": issuer + "/"}, {"iss": "https://evil.example"}):
            _, state = await it.begin()
            it.provider.codes["a-code-secret"] = {"redirect_uri": "https://millrace.example/oauth/callback"}
            reason = (await it.finish(state, **more)).reason or ""
            assert ("another issuer" if more else "does not say which issuer's") in reason
        assert it.provider.asked == []
        _, state = await it.begin()
        assert (await it.finish(state, iss=issuer)).reason is None
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))
        while len(it.provider.revoked) < 2:
            await asyncio.sleep(0.01)


async def test_an_issuer_within_the_house_is_never_asked_by_whatever_name(place: Place) -> None:
    async with local_provider() as provider, bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        async with running(place, "oauth"):
            it = Asking(place, provider, gateway, executor)
            provider.announce()
            for name, host in (("number", "127.0.0.1"), ("name", "localhost")):
                await by(it, name, provider.url.replace("127.0.0.1", host))
                with pytest.raises(Unavailable, match="may not be fetched from"):
                    await it.given(name)
                assert "MILLRACE_EGRESS_ALLOW" in (await it.shown(name)).advice
        assert provider.looked_up == []


@pytest.mark.parametrize("address", ["http://issuer.example/token", "https://issuer.example:0/token", "/token"])
def test_an_issuer_that_is_asked_safely_announces_nothing_less_safe(address: str) -> None:
    document = b'{"issuer": "https://issuer.example", "token_endpoint": "%s"}' % address.encode()
    with pytest.raises(ValueError, match="token_url"):
        discovery._read(document, "https://issuer.example")
