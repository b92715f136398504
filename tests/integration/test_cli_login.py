"""`millrace login`, `whoami` and `logout`, as processes, against a gateway that is real."""

from __future__ import annotations

import asyncio
import re
import socket
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.nats_cluster import held_ports
from tests.integration.test_gateway import Client, gateway
from tests.integration.test_keys import by, made
from tests.integration.test_logins import in_database
from tests.support.command import BOUND, Command, until_said
from tests.support.servers import Place


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as one:
        yield one


@pytest.fixture
def millrace(tmp_path: Path) -> Command:
    return Command(tmp_path)


def admin(client: Client) -> dict[str, str]:
    """Return the environment of an administrator's command."""
    return {"MILLRACE_URL": client.url, "MILLRACE_KEY": client.key["Authorization"].removeprefix("Bearer ")}


@asynccontextmanager
async def begun(millrace: Command, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Begin a sign-in for the block; gives the process and the code that it shows."""
    async with millrace.started("login", *arguments) as process:
        said = await until_said(process.stderr, "millrace login approve")
        yield process, said.split()[-1]


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Return how a process ended: its exit code, and the rest of what it said."""
    async with asyncio.timeout(BOUND):
        out, error = await process.communicate()
    return process.returncode, out.decode(), error.decode()


async def signed_in(millrace: Command, client: Client, *arguments: str) -> str:
    """Sign a machine in, with an administrator's key elsewhere; returns what it says then."""
    async with begun(millrace, client.url, *arguments) as (process, code):
        await millrace("login", "approve", code, "--yes", **admin(client))
        status, out, error = await ended(process)
        assert status == 0, error
        return out


def kept(millrace: Command) -> dict[str, Any]:
    return tomllib.loads((millrace.place / ".config" / "millrace" / "config.toml").read_text())


async def test_a_machine_is_signed_in_says_who_it_is_and_is_signed_out(client: Client, millrace: Command) -> None:
    out = await signed_in(millrace, client, "--org", "acme", "--role", "operator", "--lifetime", "12h")
    name = client.url.removeprefix("http://")
    said = re.fullmatch(
        rf"signed in to acme as operator until \S+Z, with the key (login-\S+) in the profile {re.escape(name)}\n", out
    )
    assert said, out
    told = kept(millrace)
    assert (told["profile"], list(told["profiles"]), told["profiles"][name]["org"]) == (name, [name], "acme")
    assert (millrace.place / ".config" / "millrace" / "config.toml").stat().st_mode & 0o777 == 0o600
    me = await millrace.json("whoami")
    assert (me["actor"], me["org"], me["role"], me["url"]) == (f"key:{said[1]}", "acme", "operator", client.url)
    assert (me["profile"], me["source"].partition(" of ")[0]) == (name, f"the profile {name} (in use)")
    shown = await millrace("whoami")
    assert told["profiles"][name]["key"] not in shown + out
    # Again, over the same profile: the key before is ended.
    before = told["profiles"][name]["key"]
    await signed_in(millrace, client, "--org", "acme")
    after = kept(millrace)["profiles"][name]["key"]
    assert (await by(client, before, "GET", "/api/v1/me")).status == 401
    assert (await millrace.json("whoami"))["role"] == "admin"
    assert await millrace("logout") == f"signed out of {client.url}\n"
    assert (await by(client, after, "GET", "/api/v1/me")).status == 401
    assert kept(millrace) == {}
    assert (await client("GET", "/api/v1/keys?org=acme")).json["items"] == []


async def test_a_second_profile_is_used_when_it_is_named(client: Client, millrace: Command) -> None:
    await signed_in(millrace, client, "--profile", "one", "--org", "acme")
    async with begun(millrace, client.url, "--profile", "two", "--org", "other") as (process, code):
        await millrace("login", "approve", code, "--yes", **admin(client))
        _, _, error = await ended(process)
        assert "the profile one is in use: `millrace profiles use two`, or --profile two" in error
    for options, environment, org in (
        ([], {}, "acme"),
        (["--profile", "two"], {}, "other"),
        ([], {"MILLRACE_PROFILE": "two"}, "other"),
        (["--profile", "one"], {"MILLRACE_PROFILE": "two"}, "acme"),
        ([], {"MILLRACE_PROFILE": "two"} | admin(client), "default"),
    ):
        assert (await millrace.json("whoami", *options, **environment))["org"] == org
    await millrace("profiles", "use", "two")
    assert (await millrace.json("whoami"))["org"] == "other"
    await millrace("logout", "--profile", "one")
    assert list(kept(millrace)["profiles"]) == ["two"]
    _, said = await millrace.both("whoami", "--profile", "one", code=2)
    assert "has no profile 'one'; there are: two" in said
    # Its key was revoked by somebody else: it is said which that is, and the profile can still be removed.
    name = (await millrace.json("whoami"))["actor"].removeprefix("key:")
    await client("DELETE", f"/api/v1/keys/{name}?org=other")
    _, said = await millrace.both("runs", "list", code=1)
    assert "is not known, was revoked, or is over (the key is that of the profile two (in use) of" in said
    await millrace("logout")
    assert kept(millrace) == {}


async def test_who_approves_is_shown_what_they_give_and_is_asked(client: Client, millrace: Command) -> None:
    async with begun(millrace, client.url, "--org", "acme", "--role", "developer") as (process, code):
        shown = await millrace.json("login", "show", code.lower(), **admin(client))
        assert (shown["org"], shown["role"], shown["address"], shown["lifetime"]) == ("acme", "developer", "127.0.0.1", 2_592_000)
        assert shown["host"] == re.sub("[^A-Za-z0-9._-]+", "-", socket.gethostname())[:63]
        _, said = await millrace.both("login", "approve", code, given="n\n", code=130, **admin(client))
        assert "whoever is at that address then acts with this key" in said
        out, _ = await millrace.both("login", "approve", code, "--role", "viewer", given="y\n", **admin(client))
        assert "127.0.0.1" in out
        status, out, _ = await ended(process)
        assert (status, "as viewer until" in out) == (0, True)
    async with begun(millrace, client.url) as (process, code):
        await millrace("login", "deny", code, **admin(client))
        assert await ended(process) == (1, "", "millrace: the sign-in was denied\n")
        _, said = await millrace.both("login", "approve", code, "--yes", code=1, **admin(client))
        assert said == "millrace: this sign-in was denied already\n"


async def test_nobody_comes_and_nothing_is_kept(client: Client, millrace: Command, place: Place) -> None:
    async with begun(millrace, client.url) as (process, code):
        await in_database(place, "UPDATE login SET ends_at = now() - interval '1 second'")
        assert await ended(process) == (1, "", "millrace: nobody has allowed the sign-in in time: begin anew\n")
    _, said = await millrace.both("login", "approve", code, "--yes", code=1, **admin(client))
    assert "no sign-in has this code" in said
    assert not (millrace.place / ".config").exists()


async def test_a_gateway_that_is_started_again_goes_on_with_a_sign_in(place: Place, millrace: Command) -> None:
    with held_ports(1) as (number,):
        await started_again(place, millrace, str(number))


async def started_again(place: Place, millrace: Command, port: str) -> None:
    url = f"http://127.0.0.1:{port}"
    async with gateway(place) as other, AsyncExitStack() as first:
        await first.enter_async_context(gateway(place, MILLRACE_PORT=port))
        async with begun(millrace, url, "--profile", "live") as (process, code):
            await first.aclose()
            await millrace("login", "approve", code, "--yes", **admin(other))
            async with gateway(place, MILLRACE_PORT=port):
                status, out, error = await ended(process)
                assert (status, "in the profile live" in out) == (0, True), error
                assert (await millrace.json("whoami"))["url"] == url


async def test_a_key_that_no_sign_in_has_made_is_not_lost(client: Client, millrace: Command) -> None:
    key = (await made(client, "ci"))["key"]
    file = millrace.place / ".config" / "millrace" / "config.toml"
    file.parent.mkdir(parents=True, mode=0o700)
    file.write_text(f'[profiles.live]\nurl = "{client.url}"\nkey = "{key}"\n')
    file.chmod(0o600)
    _, said = await millrace.both("login", client.url, "--profile", "live", code=2)
    assert "The profile live has a key that no sign-in has made: name another with --profile" in said
    _, said = await millrace.both("logout", "--profile", "live", code=1)
    assert "this key was not made by a sign-in" in said
    await client("DELETE", "/api/v1/keys/ci?org=acme")
    # One that counts no more is replaced.
    await signed_in(millrace, client, "--profile", "live")


async def test_a_key_that_cannot_be_kept_is_ended(client: Client, millrace: Command) -> None:
    async with begun(millrace, client.url) as (process, code):
        folder = millrace.place / ".config" / "millrace"
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        await millrace("login", "approve", code, "--yes", **admin(client))
        status, _, error = await ended(process)
        assert (status, "chmod 700" in error) == (2, True)
    assert (await client("GET", "/api/v1/keys")).json["items"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("login",), 2, "No Millrace is known here: sign in with `millrace login URL`"),
        (("login", "ftp://m.example.com"), 2, "URL is not an address such as https://millrace.example.com"),
        (
            ("login", "https://m.example.com", "--lifetime", "soon"),
            2,
            "--lifetime takes a duration, such as 12h or 30d",
        ),
        (("login", "https://m.example.com", "--role", "owner"), 2, "'owner' is not one of"),
        (("login", "http://127.0.0.1:1"), 3, "cannot reach http://127.0.0.1:1"),
        (("login", "approve"), 2, "Missing argument 'CODE'"),
        (("logout",), 2, "No Millrace is known here"),
        (("whoami",), 2, "No Millrace is known here"),
    ],
)
async def test_what_cannot_be_done_is_said(millrace: Command, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in (await millrace.both(*arguments, code=code))[1]


async def test_no_profile_is_signed_out_of(client: Client, millrace: Command) -> None:
    _, said = await millrace.both("logout", code=2, **admin(client))
    assert "The key is that of MILLRACE_URL and MILLRACE_KEY, and of no profile." in said
    _, said = await millrace.both("login", client.url, "--lifetime", "1s", code=1)
    assert "lifetime" in said
