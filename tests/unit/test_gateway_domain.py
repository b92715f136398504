"""The gateway's decisions, without a gateway."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.adapters import verification_of
from services.gateway.admission import endpoint_of
from services.gateway.api.application import ENDPOINTS
from services.gateway.config import read
from services.gateway.domain import (
    REDACTED,
    REDACTED_HEADERS,
    SecretTexts,
    bearer,
    delivery_id,
    expected_version,
    kept_headers,
    kept_query,
    org_of,
    remote_of,
    storable,
)
from shared.config import ConfigError, Environment
from shared.errors import Invalid, PreconditionFailed, Unavailable
from shared.owners.keeper import merged
from shared.resources.source import SourceEntry
from shared.verification import Place, Verification
from tests.support.senders import entry_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer mr_1", "mr_1"),
        ("bearer  mr_1 ", "mr_1"),
        ("Basic mr_1", None),
        ("Bearer", None),
        ("Bearer a b", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_bearer_token_is_a_key(header: str | None, token: str | None) -> None:
    assert bearer(header) == token


def test_an_organization_is_a_key_or_refused() -> None:
    assert org_of(None) == "default"
    assert org_of("acme-1") == "acme-1"
    for given_ in ("", "a.b", "a>", "a" * 65, "é", "*", "a\n"):
        with pytest.raises(Invalid):
            org_of(given_)


def test_credentials_and_signatures_are_not_kept() -> None:
    headers = [
        ("Authorization", "Bearer x"),
        ("COOKIE", "a"),
        ("X-Hub-Signature-512", "s"),
        ("X-Sig", "s"),
        ("X-A", "1"),
    ]
    assert kept_headers(headers, REDACTED_HEADERS | {"x-sig"}) == [
        ("authorization", REDACTED),
        ("cookie", REDACTED),
        ("x-hub-signature-512", REDACTED),
        ("x-sig", REDACTED),
        ("x-a", "1"),
    ]
    assert kept_query([("b", "1"), ("Access_Token", "t"), ("b", "2")]) == [
        ("b", "1"),
        ("Access_Token", REDACTED),
        ("b", "2"),
    ]


@given(st.text(st.characters(codec=None)))
def test_whatever_a_header_holds_can_be_stored(text: str) -> None:
    msgspec.json.encode(storable(text))


def test_bytes_that_are_no_utf8_can_be_stored() -> None:
    assert storable(b"a\xff".decode("utf-8", "surrogateescape")) == "a\ufffd"
    assert storable("é") == "é"


def test_a_repeated_delivery_has_the_same_id_and_another_source_another() -> None:
    assert delivery_id("s1", "d") == delivery_id("s1", "d") != delivery_id("s2", "d")
    assert delivery_id("s1", "d") != delivery_id("s1", "e")


@pytest.mark.parametrize(
    ("peer", "forwarded", "remote"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7, 10.0.0.9"], "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["evil"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, evil, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::1", ["198.51.100.7"], "198.51.100.7"),
        (None, ["198.51.100.7"], None),
    ],
)
def test_a_forwarded_address_is_believed_only_from_a_trusted_proxy(
    peer: str | None, forwarded: list[str], remote: str | None
) -> None:
    assert remote_of(peer, forwarded, PROXIES) == remote


@given(st.lists(st.text()))
def test_a_forwarded_header_never_raises(forwarded: list[str]) -> None:
    remote_of("10.0.0.1", forwarded, PROXIES)


def test_versions_are_read_from_entity_tags() -> None:
    assert expected_version(None, None) is None
    assert expected_version('"7"', None) == 7
    assert expected_version('W/"7"', None) == 7
    assert expected_version(None, "*") == 0
    for tag in ("7", '"x"', '"7", "8"', '"' + "9" * 30 + '"', ""):
        with pytest.raises(PreconditionFailed):
            expected_version(tag, None)
    with pytest.raises(PreconditionFailed, match=r'in quotation marks, such as "3", and not 7$'):
        expected_version("7", None)


def test_a_patch_of_null_removes() -> None:
    assert merged({"a": 1, "b": 2}, {"a": None, "c": 3, "d": None}) == {"b": 2, "c": 3}


def test_what_holds_a_secret_of_the_source_is_not_kept_wherever_it_stands() -> None:
    made = endpoint_of(entry("hmac", header="X-Sig"), lambda _: "hunter2 / of acme\n")
    headers = [("X-Pass", "Basic hunter2 / of acme;"), ("X-Link", "https://a/?k=hunter2%20%2F%20of%20acme"), ("X-A", "hunter2")]
    assert [value for _, value in kept_headers(headers, made.redacted, made.secrets)] == [REDACTED, REDACTED, "hunter2"]
    query = [("code", "hunter2 / of acme"), ("hunter2 / of acme", ""), ("n", "1")]
    kept = kept_query(query, made.redacted_parameters, made.secrets)
    assert kept == [("code", REDACTED), (REDACTED, ""), ("n", "1")]
    assert "hunter2" not in repr(made)


def test_a_short_secret_is_found_as_a_whole_word_only() -> None:
    short = SecretTexts(["json"])
    assert [short.within(text) for text in ("json", "Bearer json", " json ", "application/json")] == [True, True, True, False]
    assert not SecretTexts(["", " "]).within("a b")


def entry(adapter: str, **settings: str) -> SourceEntry:
    return entry_of(verification_of(adapter, settings), adapter, settings, sealed={"secret": "sealed"})


def test_a_source_that_cannot_be_verified_is_never_open() -> None:
    for unusable in (entry("nobody"), entry("hmac", algorithm="md5"), entry("hmac", encoding="rot13")):
        with pytest.raises(Unavailable):
            endpoint_of(unusable, lambda _: "secret")
    with pytest.raises(Unavailable):
        endpoint_of(entry("standard-webhooks"), lambda _: "whsec_?")


def test_a_generic_source_is_made_of_its_settings() -> None:
    made = endpoint_of(entry("hmac", header="X-Sig", algorithm="sha1", prefix="p=", delivery_header="X-Id"), lambda _: "secret")
    verification = verification_of("hmac", {"header": "X-Sig", "algorithm": "sha1", "prefix": "p=", "delivery_header": "X-Id"})
    (scheme,) = msgspec.convert(verification, Verification).schemes
    assert (scheme.signature, scheme.algorithm) == (Place(header="x-sig", prefix="p="), "hmac-sha1")
    assert scheme.delivery == Place(header="x-id")
    assert "x-sig" in made.redacted


def test_every_route_that_changes_something_is_audited() -> None:
    silent = [one.name for one in ENDPOINTS if one.method not in {"GET", "*"} and one.audit is None and not one.delegates]
    # A browser's own, which has no key: what it takes part in was begun by a route that is audited. And a machine's that has none
    # yet: that it is allowed one is audited, and the key that is made; its page, which has forms alone, records that by itself, as
    # do the one where people answer what runs ask, and forms, which strangers send. Who signs in, or fails to, is recorded by what
    # opens sessions; the others of these change nothing. What code needs is asked for in a body because it is long.
    assert silent == [
        "answer_question",
        "send_form",
        "send_submission",
        "check_needs",
        "begin_login",
        "poll_login",
        "decide_device",
        "read_invitation",
        "accept_invitation",
        "open_session",
        "ask_passkey",
        "open_session_by_passkey",
        "begin_passkey",
        "open_authorization",
    ]


def test_everything_that_is_wrong_with_the_environment_is_told_at_once() -> None:
    environment = Environment({"MILLRACE_TRUSTED_PROXIES": "10.0.0.0/8,nonsense", "MILLRACE_PUBLIC_URL": "example.org"})
    read(environment)
    with pytest.raises(ConfigError) as caught:
        environment.check()
    assert [problem.path for problem in caught.value.problems] == [
        "MILLRACE_PUBLIC_URL",
        "MILLRACE_NATS_URL",
        "MILLRACE_DATABASE_URL",
        "MILLRACE_KEYS",
        "MILLRACE_ADMIN_KEY",
        "MILLRACE_TRUSTED_PROXIES",
    ]
