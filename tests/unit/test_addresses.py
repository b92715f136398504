"""Addresses of several servers in one URL."""

from __future__ import annotations

import pytest

from shared.addresses import servers_of, user_of, with_user, without_password, writable

TWO = ["nats://u:p@a:1", "nats://u:p@b:2"]


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a:4222", ["nats://a:4222"]),
        ("nats://a:1,b:2", ["nats://a:1", "nats://b:2"]),
        ("nats://u:p@a:1,b:2", TWO),
        ("nats://u:p@a:1,nats://b:2", TWO),
        ("nats://u:p@a:1 , nats://u:p@b:2", TWO),
        ("tls://u:p%2C%40@a:1,b:2", ["tls://u:p%2C%40@a:1", "tls://u:p%2C%40@b:2"]),
        ("nats://u:p@[::1]:1,[::2]:2", ["nats://u:p@[::1]:1", "nats://u:p@[::2]:2"]),
    ],
)
def test_each_server_has_what_is_said_once(url: str, servers: list[str]) -> None:
    assert servers_of(url) == servers


@pytest.mark.parametrize(
    ("url", "changed"),
    [
        ("nats://admin:x@a:1,nats://admin:x@b:2", "nats://s:p%2F@a:1,b:2"),
        ("postgresql://admin:x@h1:1,h2:2/db?sslmode=require", "postgresql://s:p%2F@h1:1,h2:2/db?sslmode=require"),
        ("postgresql://admin:x@/db?host=%2Fa%2C%2Fb", "postgresql://s:p%2F@/db?host=%2Fa%2C%2Fb"),
    ],
)
def test_another_user_is_put_into_an_address_of_all(url: str, changed: str) -> None:
    assert with_user(url, "s", "p/") == changed
    assert user_of(changed) == ("s", "p/")


def test_no_password_is_shown() -> None:
    assert without_password("nats://u:secret@a:1,nats://u:secret@b:2") == "nats://u:…@a:1,b:2"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:p@a/db", {}),
        ("postgresql://u:p@a,b/db", {"target_session_attrs": "read-write"}),
        ("postgresql://u:p@/db?host=/a,/b", {"target_session_attrs": "read-write"}),
        ("postgresql://u:p@a,b/db?target_session_attrs=any", {}),
    ],
)
def test_of_several_databases_the_one_that_writes_is_wanted_unless_the_address_says(url: str, told: dict[str, str]) -> None:
    assert writable(url) == told
