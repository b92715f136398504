"""The known providers: each entry is one that a provider resource could be, and makes the requests that its documents show."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.oauth.addresses import check_template, filled, filled_text
from services.oauth.answers import Granted, read
from services.oauth.catalogue import KNOWN, KnownProvider
from services.oauth.domain import check_headers, sending_of
from services.oauth.flows import FLOWS
from services.oauth.token_requests import (
    OAuthClient,
    RequestStamp,
    TokenCall,
    TokenRequest,
    asking_for_device,
    authorizing,
    client_credentials,
    exchanging,
    jwt_bearer,
    refreshing,
    revoking,
    scope_of,
)
from shared.envelope import utc_now
from shared.errors import Invalid
from shared.resources.connection import Connection
from shared.resources.provider import ADDRESSES, FURTHER, Provider

ROOT = Path(__file__).parents[2]
CLIENT = OAuthClient("id", "secret")
BASIC = f"Basic {base64.b64encode(b'id:secret').decode()}"
CODE = {"grant_type": "authorization_code", "code": "code", "redirect_uri": "https://m.example/oauth/callback"}
REFRESH = {"grant_type": "refresh_token", "refresh_token": "old"}
FORM = "x-www-form-urlencoded"
POST = {"client_id": "id", "client_secret": "secret"}
HOST = re.compile(r"([a-z0-9-]+\.)+(app|au|com|dev|eu|in|io|net|org|tv|us)")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ENTRIES = msgspec.toml.decode((ROOT / "services" / "oauth" / "catalogue.toml").read_bytes())


@pytest.mark.parametrize("one", KNOWN.values(), ids=lambda one: one.name)
def test_an_entry_is_one_that_a_provider_resource_could_be(one: KnownProvider) -> None:
    provider = one.provider
    assert ENTRIES[one.name].keys() <= set(Provider.__struct_fields__) | {"title", "documents", "grants", "note"}
    assert NAME.fullmatch(one.name)
    assert (provider.known, provider.client_id, provider.client_secret) == (None, None, None)
    assert urlsplit(one.documents).scheme == "https"
    assert HOST.fullmatch(urlsplit(one.documents).hostname or "")
    # A host that is nothing but a parameter leads wherever its operator runs it: a provider of one's own has to say so.
    hosts = provider.hosts or ["idp.example.com"]
    values = dict.fromkeys(one.parameters, "acme") | {"host": hosts[0], "domain": hosts[0].replace("*", "acme")}
    for field in ADDRESSES:
        if (template := getattr(provider, field)) is not None:
            check_template(field, template, hosts)
            assert template.startswith("https://")
            address = urlsplit(filled(template, values, provider.hosts))
            assert HOST.fullmatch(address.hostname or "")
            assert not address.query or field == "test_url"
    check_headers(provider)


@pytest.mark.parametrize("one", KNOWN.values(), ids=lambda one: one.name)
def test_an_entry_has_what_its_grants_need(one: KnownProvider) -> None:
    assert one.grants
    is_oauth = not {"token", "api_key", "basic"} & set(one.grants)
    assert is_oauth == (set(one.grants) <= set(FLOWS))
    assert is_oauth == (one.provider.token_url is not None)
    # A client that signs with its key shows with that who it is.
    has_secret = is_oauth and any(not FLOWS[grant].has_key for grant in one.grants)
    assert has_secret == (one.provider.client_authentication in {"basic", "post"})
    assert is_oauth or one.provider.base_url
    # A user and a password go where HTTP has them, a key where its provider says.
    assert is_oauth or ("api_key" in one.grants) == (one.provider.header is not None)
    for grant, flow in FLOWS.items():
        for field in flow.addresses:
            assert (grant in one.grants) == (getattr(one.provider, field) is not None)
    assert one.note is None or one.note.endswith(".")


def test_no_two_entries_are_the_same_and_there_are_those_that_integrations_need() -> None:
    assert list(KNOWN) == sorted(KNOWN)
    assert len({one.title for one in KNOWN.values()}) == len(KNOWN) >= 50


def test_parameters_are_filled_wherever_they_stand() -> None:
    server = KNOWN["zoom-server"]
    assert server.parameters == ["account_id"]
    assert filled_text(server.provider.token_parameters["account_id"], {"account_id": "a&b={c}"}) == "a&b={c}"
    with pytest.raises(Invalid, match=r"parameters\.account_id"):
        filled_text(server.provider.token_parameters["account_id"], {})
    assert filled_text('{"id_token": {}} {', {}) == '{"id_token": {}} {'


def test_the_table_of_the_documentation_is_the_catalogue() -> None:
    text = (ROOT / "docs" / "providers.md").read_text()
    assert text.partition("|---|---|---|---|---|\n")[2].rstrip("\n").splitlines() == [row(one) for one in KNOWN.values()]


def row(one: KnownProvider) -> str:
    cells = (
        f"`{one.name}`",
        f"[{one.title}]({one.documents})",
        ", ".join(f"`{grant}`" for grant in one.grants),
        ", ".join(f"`{name}`" for name in one.parameters),
        one.note or "",
    )
    return f"| {' | '.join(cells)} |".replace("  ", " ")


def made(name: str, **values: str) -> tuple[Provider, Any]:
    """Return a known provider with a connection's values in it, and what fills its addresses."""
    provider = KNOWN[name].provider
    texts = {field: {key: filled_text(text, values) for key, text in getattr(provider, field).items()} for field in FURTHER}
    provider = msgspec.structs.replace(provider, **texts)
    return provider, lambda field: filled(getattr(provider, field), values, provider.hosts)


def call(provider: Provider, url: str) -> TokenCall:
    """Return what a request there is made of."""
    return TokenCall(provider=provider, client=CLIENT, url=url, issuer=None, stamp=RequestStamp(utc_now(), "id"))


@cache
def private_key() -> str:
    return generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def sent(request: TokenRequest) -> tuple[str, str | None, str, Mapping[str, str]]:
    """Return where a request goes, its authentication, its media type, and its parameters."""
    media = request.headers["Content-Type"]
    body = msgspec.json.decode(request.body) if media == "application/json" else dict(parse_qsl(request.body.decode()))
    return request.url, request.headers.get("Authorization"), media.rpartition("/")[2], body


@pytest.mark.parametrize(
    ("name", "values", "scopes", "page", "query"),
    [
        ("atlassian", {}, ["read:jira-work", "offline_access"], "https://auth.atlassian.com/authorize",
         {"audience": "api.atlassian.com", "prompt": "consent", "scope": "read:jira-work offline_access"}),
        ("basecamp", {}, [], "https://launchpad.37signals.com/authorization/new", {"type": "web_server"}),
        ("dropbox", {}, [], "https://www.dropbox.com/oauth2/authorize", {"token_access_type": "offline"}),
        ("google", {}, ["a", "b"], "https://accounts.google.com/o/oauth2/v2/auth",
         {"access_type": "offline", "prompt": "consent", "scope": "a b"}),
        ("keycloak", {"host": "idp.example.com", "realm": "a/b"}, [],
         "https://idp.example.com/realms/a%2Fb/protocol/openid-connect/auth", {}),
        ("linear", {}, ["read", "write"], "https://linear.app/oauth/authorize", {"scope": "read,write"}),
        ("microsoft-graph", {"tenant": "contoso.onmicrosoft.com"}, [],
         "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/authorize",
         {"scope": "https://graph.microsoft.com/.default"}),
        ("notion", {}, [], "https://api.notion.com/v1/oauth/authorize", {"owner": "user"}),
        ("okta", {"domain": "acme.okta.com", "server": "default"}, ["openid", "offline_access"],
         "https://acme.okta.com/oauth2/default/v1/authorize", {"scope": "openid offline_access"}),
        ("shopify", {"shop": "acme"}, ["read_orders", "write_orders"], "https://acme.myshopify.com/admin/oauth/authorize",
         {"scope": "read_orders,write_orders"}),
        ("slack", {}, ["chat:write", "team:read"], "https://slack.com/oauth/v2/authorize", {"scope": "chat:write,team:read"}),
        ("slack-user", {}, ["chat:write", "im:read"], "https://slack.com/oauth/v2/authorize", {"user_scope": "chat:write,im:read"}),
        ("square", {}, ["PAYMENTS_READ"], "https://connect.squareup.com/oauth2/authorize",
         {"session": "false", "scope": "PAYMENTS_READ"}),
        ("reddit", {}, ["identity", "read"], "https://www.reddit.com/api/v1/authorize",
         {"duration": "permanent", "scope": "identity read"}),
        ("sage", {}, [], "https://www.sageone.com/oauth2/auth/central", {"filter": "apiv3.1", "scope": "full_access"}),
        ("tiktok", {}, ["user.info.basic", "video.list"], "https://www.tiktok.com/v2/auth/authorize/",
         {"client_key": "id", "scope": "user.info.basic,video.list"}),
        ("wrike", {"domain": "app-eu.wrike.com"}, ["wsReadOnly", "wsReadWrite"], "https://login.wrike.com/oauth2/authorize/v4",
         {"scope": "wsReadOnly,wsReadWrite"}),
        ("x", {}, ["tweet.read", "offline.access"], "https://x.com/i/oauth2/authorize", {"scope": "tweet.read offline.access"}),
    ],
)  # fmt: skip
def test_a_person_is_asked_where_the_documents_say(
    name: str, values: dict[str, str], scopes: list[str], page: str, query: dict[str, str]
) -> None:
    provider, address = made(name, **values)
    verifier = None if provider.pkce is False else "verifier"
    url = authorizing(
        provider,
        address("authorize_url"),
        "id",
        redirect=CODE["redirect_uri"],
        scope=scope_of(provider, scopes),
        state="state",
        verifier=verifier,
    )
    asked, _, given = url.partition("?")
    usual = {"response_type": "code", "redirect_uri": CODE["redirect_uri"], "state": "state"}
    usual |= {} if provider.client_id_parameter else {"client_id": "id"}
    # The challenge of RFC 7636: the digest of "verifier".
    proof = {"code_challenge": "iMnq5o6zALKXGivsnlom_0F5_WYda32GHkxlV7mq7hQ", "code_challenge_method": "S256"}
    assert (asked, dict(parse_qsl(given))) == (page, usual | query | (proof if verifier else {}))


@pytest.mark.parametrize("name", ["state", "redirect_uri", "code_challenge"])
def test_scopes_and_the_clients_id_take_no_parameter_of_the_requests_own(name: str) -> None:
    page, redirect = "https://idp.example.com/authorize", CODE["redirect_uri"]
    given = {"redirect": redirect, "state": "state", "verifier": "verifier"}
    usual = authorizing(Provider(), page, "id", scope="", **given)
    asked = authorizing(Provider(scope_parameter=name), page, "id", scope="a", **given)
    assert dict(parse_qsl(urlsplit(asked).query)) == dict(parse_qsl(urlsplit(usual).query))
    named = authorizing(Provider(client_id_parameter=name), page, "id", scope="", **given)
    assert dict(parse_qsl(urlsplit(named).query)) | {"client_id": "id"} == dict(parse_qsl(urlsplit(usual).query))


PROOF = {"code_verifier": "v"}
# Where tokens are refreshed, if elsewhere than they are got.
ELSEWHERE = {"adobe-sign": "https://api.eu1.adobesign.com/oauth/v2/refresh", "figma": "https://api.figma.com/v1/oauth/refresh"}


@pytest.mark.parametrize(
    ("name", "values", "url", "head", "exchange", "refresh"),
    [
        ("adobe-sign", {"shard": "eu1"}, "https://api.eu1.adobesign.com/oauth/v2/token", (None, FORM), CODE | POST, REFRESH | POST),
        ("airtable", {}, "https://airtable.com/oauth2/v1/token", (BASIC, FORM), CODE | PROOF, REFRESH),
        ("atlassian", {}, "https://auth.atlassian.com/oauth/token", (None, "json"), CODE | POST | PROOF, REFRESH | POST),
        ("basecamp", {}, "https://launchpad.37signals.com/authorization/token", (None, FORM),
         CODE | POST | {"type": "web_server"}, REFRESH | POST | {"type": "refresh"}),
        ("clio", {"site": "eu.app"}, "https://eu.app.clio.com/oauth/token", (None, FORM), CODE | POST, REFRESH | POST),
        ("datto-rmm", {"platform": "merlot"}, "https://merlot-api.centrastage.net/auth/oauth/token", (BASIC, FORM), CODE, REFRESH),
        ("figma", {}, "https://api.figma.com/v1/oauth/token", (BASIC, FORM), CODE | PROOF, REFRESH),
        ("gusto", {}, "https://api.gusto.com/oauth/token", (None, FORM), CODE | POST, REFRESH | POST),
        ("hubspot", {}, "https://api.hubapi.com/oauth/v3/token", (None, FORM), CODE | POST | PROOF, REFRESH | POST),
        ("klaviyo", {}, "https://a.klaviyo.com/oauth/token", (BASIC, FORM), CODE | PROOF, REFRESH),
        ("microsoft-entra", {"tenant": "common"}, "https://login.microsoftonline.com/common/oauth2/v2.0/token", (None, FORM),
         CODE | POST | PROOF, REFRESH | POST),
        ("notion", {}, "https://api.notion.com/v1/oauth/token", (BASIC, "json"), CODE, REFRESH),
        ("quickbooks", {}, "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer", (BASIC, FORM), CODE | PROOF, REFRESH),
        ("servicenow", {"instance": "dev1"}, "https://dev1.service-now.com/oauth_token.do", (None, FORM),
         CODE | POST | PROOF, REFRESH | POST),
        ("slack", {}, "https://slack.com/api/oauth.v2.access", (BASIC, FORM), CODE, REFRESH),
        ("square", {}, "https://connect.squareup.com/oauth2/token", (None, "json"), CODE | POST, REFRESH | POST),
        ("tiktok", {}, "https://open.tiktokapis.com/v2/oauth/token/", (None, FORM),
         CODE | {"client_key": "id", "client_secret": "secret"}, REFRESH | {"client_key": "id", "client_secret": "secret"}),
        ("xero", {}, "https://identity.xero.com/connect/token", (BASIC, FORM), CODE | PROOF, REFRESH),
        ("zendesk", {"subdomain": "acme"}, "https://acme.zendesk.com/oauth/tokens", (None, "json"),
         CODE | POST | PROOF, REFRESH | POST),
    ],
)  # fmt: skip
def test_tokens_are_asked_for_as_the_documents_show(
    name: str, values: dict[str, str], url: str, head: tuple[str | None, str], exchange: dict[str, str], refresh: dict[str, str]
) -> None:
    provider, address = made(name, **values)
    verifier = None if provider.pkce is False else PROOF["code_verifier"]
    asked = exchanging(call(provider, address("token_url")), CODE["code"], CODE["redirect_uri"], verifier)
    assert sent(asked) == (url, *head, exchange)
    again = ELSEWHERE.get(name, url)
    field = "token_url" if provider.refresh_url is None else "refresh_url"
    assert sent(refreshing(call(provider, address(field)), REFRESH["refresh_token"])) == (again, *head, refresh)


@pytest.mark.parametrize(
    ("name", "values", "request_of_it"),
    [
        ("pax8", {}, ("https://api.pax8.com/v1/token", None, "json",
                      POST | {"grant_type": "client_credentials", "audience": "https://api.pax8.com"})),
        ("box-server", {"enterprise": "42"}, ("https://api.box.com/oauth2/token", None, FORM,
            POST | {"grant_type": "client_credentials", "box_subject_type": "enterprise", "box_subject_id": "42"})),
        ("halopsa", {"host": "acme.halopsa.com"}, ("https://acme.halopsa.com/auth/token", None, FORM,
                                                   POST | {"grant_type": "client_credentials", "scope": "all"})),
        ("paypal", {}, ("https://api-m.paypal.com/v1/oauth2/token", BASIC, FORM,
                        {"grant_type": "client_credentials"})),
        ("shopify", {"shop": "acme"}, ("https://acme.myshopify.com/admin/oauth/access_token", None, "json",
                                       POST | {"grant_type": "client_credentials"})),
        ("zendesk", {"subdomain": "acme"}, ("https://acme.zendesk.com/oauth/tokens", None, "json",
                                            POST | {"grant_type": "client_credentials"})),
        ("ninjaone", {"region": "eu"}, ("https://eu.ninjarmm.com/ws/oauth/token", None, FORM,
                                        POST | {"grant_type": "client_credentials"})),
        ("servicenow", {"instance": "dev1"}, ("https://dev1.service-now.com/oauth_token.do", None, FORM,
                                              POST | {"grant_type": "client_credentials"})),
        ("sophos-central", {}, ("https://id.sophos.com/api/v2/oauth2/token", None, FORM,
                                POST | {"grant_type": "client_credentials", "scope": "token"})),
        ("zoom-server", {"account_id": "acme"}, ("https://zoom.us/oauth/token", BASIC, FORM,
                                                 {"grant_type": "account_credentials", "account_id": "acme"})),
        ("microsoft-graph", {"tenant": "contoso"}, (
            "https://login.microsoftonline.com/contoso/oauth2/v2.0/token", None, FORM,
            POST | {"grant_type": "client_credentials", "scope": "https://graph.microsoft.com/.default"})),
    ],
)  # fmt: skip
def test_a_clients_own_token_is_asked_for_as_the_documents_show(name: str, values: dict[str, str], request_of_it: Any) -> None:
    provider, address = made(name, **values)
    assert sent(client_credentials(call(provider, address("token_url")), Connection(), None)) == request_of_it


@pytest.mark.parametrize(
    ("name", "values", "url", "scopes"),
    [
        ("github", {}, "https://github.com/login/device/code", ["user", "repo"]),
        ("auth0", {"domain": "acme.eu.auth0.com"}, "https://acme.eu.auth0.com/oauth/device/code", ["profile", "offline_access"]),
        ("google", {}, "https://oauth2.googleapis.com/device/code", ["email", "profile"]),
        ("microsoft-entra", {"tenant": "common"}, "https://login.microsoftonline.com/common/oauth2/v2.0/devicecode", ["user.read"]),
        ("gitlab-self-managed", {"host": "git.example.com"}, "https://git.example.com/oauth/authorize_device", ["read"]),
    ],
)
def test_a_device_gets_its_code_where_the_documents_say(name: str, values: dict[str, str], url: str, scopes: list[str]) -> None:
    provider, address = made(name, **values)
    asked = asking_for_device(call(provider, address("device_url")), Connection(grant="device_code", scopes=scopes))
    where, _, media, body = sent(asked)
    assert (where, media, body["client_id"], body["scope"]) == (url, FORM, "id", " ".join(scopes))


def test_what_an_app_signs_for_a_user_says_whom_it_is_for_and_in_whose_name() -> None:
    provider, address = made("docusign-jwt")
    asked = msgspec.structs.replace(call(provider, address("token_url")), client=OAuthClient("app", private_key()))
    where, _, media, body = sent(jwt_bearer(asked, Connection(grant="jwt_bearer", subject="user"), None))
    payload = body["assertion"].split(".")[1]
    claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (where, media) == ("https://account.docusign.com/oauth/token", FORM)
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("app", "user", "account.docusign.com")
    assert claims["scope"] == "signature impersonation"


def test_an_installation_is_asked_for_with_what_the_app_has_signed_and_its_token_ends_when_the_answer_says() -> None:
    provider, address = made("github-app-installation", installation="42")
    asked = msgspec.structs.replace(call(provider, address("token_url")), client=OAuthClient("Iv1", private_key()))
    request = jwt_bearer(asked, Connection(grant="jwt_bearer"), None)
    assert request.url == "https://api.github.com/app/installations/42/access_tokens"
    assert request.headers["Authorization"].startswith("Bearer ey")
    assert sent(request)[3] == {}
    answer = msgspec.json.encode({"token": "ghs_1", "expires_at": "2026-01-02T04:04:05Z", "permissions": {"issues": "write"}})
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    granted = read(201, {"content-type": "application/json"}, answer, provider, now)
    assert isinstance(granted, Granted)
    assert (granted.access_token, granted.life) == ("ghs_1", 3600)


def test_tokens_are_revoked_and_headers_sent_as_the_documents_show() -> None:
    provider, address = made("quickbooks")
    body = {"token": "t", "token_type_hint": "refresh_token"}
    assert sent(revoking(call(provider, address("revoke_url")), "t", "refresh_token")) == (
        "https://developer.api.intuit.com/v2/oauth2/tokens/revoke", BASIC, "json", body,
    )  # fmt: skip
    provider, address = made("auth0", domain="acme.auth0.com")
    assert sent(revoking(call(provider, address("revoke_url")), "t", "refresh_token")) == (
        "https://acme.auth0.com/oauth/revoke", None, "json", POST | body,
    )  # fmt: skip
    provider, address = made("zendesk", subdomain="acme")
    assert sent(revoking(call(provider, "https://acme.zendesk.com/revoke"), "t", "refresh_token"))[2] == FORM
    provider, address = made("notion")
    assert sent(revoking(call(provider, address("revoke_url")), "t", "refresh_token")) == (
        "https://api.notion.com/v1/oauth/revoke", BASIC, "json", body,
    )  # fmt: skip
    assert refreshing(call(provider, address("token_url")), "old").headers["Notion-Version"] == "2025-09-03"


@pytest.mark.parametrize("header", ["Authorization", "content-type", "Host", "a b", "", "a\nb"])
def test_a_further_header_is_none_of_the_requests_own(header: str) -> None:
    with pytest.raises(Invalid, match="token_headers"):
        check_headers(Provider(token_headers={header: "value"}))
    with pytest.raises(Invalid, match="token_headers"):
        check_headers(Provider(token_headers={"Version": "1\r\nAuthorization: x"}))
    check_headers(Provider(token_headers={"Version": "1"}))


def test_tokens_and_keys_are_sent_as_the_documents_show() -> None:
    def headers(name: str, **given: Any) -> dict[str, str]:
        return sending_of(Connection(**given), KNOWN[name].provider, "key").headers

    assert headers("github", grant="authorization_code") == {"Authorization": "Bearer key"}
    assert headers("shopify", grant="authorization_code") == {"X-Shopify-Access-Token": "key"}
    assert headers("podio", grant="authorization_code") == {"Authorization": "OAuth2 key"}
    assert headers("zoho", grant="authorization_code") == {"Authorization": "Zoho-oauthtoken key"}
    both = 'oauth_consumer_key="a", oauth_token="b"'
    trello = sending_of(Connection(grant="api_key"), KNOWN["trello"].provider, both)
    assert trello.headers == {"Authorization": f"OAuth {both}"}
    assert headers("sentinelone", grant="api_key") == {"Authorization": "ApiToken key"}
    assert headers("it-glue", grant="api_key") == {"x-api-key": "key"}
    assert headers("it-glue", grant="api_key", header="X-Other", prefix="Key ") == {"X-Other": "Key key"}
    assert headers("autotask", grant="api_key") == {"Secret": "key"}
    assert headers("freshdesk", grant="api_key") == {"Authorization": "Basic key"}
    assert headers("klaviyo-key", grant="api_key") == {"Authorization": "Klaviyo-API-Key key"}
    pair = base64.b64encode(b"acme+public:key").decode()
    assert headers("connectwise-psa", grant="basic", username="acme+public") == {"Authorization": f"Basic {pair}"}
    for wrong in ({"header": "a b"}, {"header": "Host"}, {"header": "transfer-encoding"}, {"prefix": "a\n"}):
        with pytest.raises(Invalid, match=next(iter(wrong))):
            check_headers(Provider(**wrong))
