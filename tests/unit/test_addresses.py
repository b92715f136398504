"""Addresses of several servers in one URL."""

from __future__ import annotations

import re

import pytest

from deploy.backup.database import _without_password as told_to_programs
from shared.addresses import servers_of, tls_of, user_of, with_user, without_password, writable

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


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("tls://u:secret@a?sslmode=require", "has the parameter 'sslmode': a broker's address takes sslrootcert, sslcert, sslkey"),
        ("nats://u:secret@a?sslrootcert=/dev/null", "names sslrootcert, for which it has to begin with tls://"),
        ("tls://u:secret@a,b?sslkey=/dev/null", "names sslkey without sslcert"),
        ("tls://u:secret@a?sslrootcert=/dev/null", "names files that TLS cannot use, /dev/null: "),
        ("postgresql://u:secret@a/b?sslrootcert=", "names '' as sslrootcert, which cannot be read: "),
    ],
)
def test_what_tls_cannot_use_of_an_address_is_said(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}") as refused:
        tls_of(url)
    assert "secret" not in str(refused.value)


def test_an_address_without_files_for_tls_leaves_it_to_the_system() -> None:
    assert tls_of("tls://u:p@a,b") is tls_of("nats://a") is tls_of("postgresql://u:p@a/b?sslmode=require") is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u%40x:p@a:1/db?sslmode=require", "postgresql://u%40x@a:1/db?sslmode=require"),
        ("postgresql://u:p@a:1,b:2/db", "postgresql://u@a:1,b:2/db?target_session_attrs=read-write"),
        ("postgresql://u:p@/db?host=/x%20y&port=7", "postgresql://u@/db?host=%2Fx%20y&port=7"),
    ],
)
def test_programs_of_the_database_are_told_its_whole_address_and_no_password(url: str, told: str) -> None:
    assert told_to_programs(url) == told
