"""`login`: a key for this machine, once a person allows it in a browser or with another key (RFC 8628); and its end, `logout`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import webbrowser
from urllib.parse import urlsplit

import click

from millrace.cli import show
from millrace.cli.api import UNAUTHENTICATED, Api, Document, Refused, Unreachable
from millrace.cli.place import address_of
from millrace.cli.profiles import Profiles, config_file
from millrace.cli.session import Session, asks
from millrace.cli.times import seconds_of
from millrace.cli.who import ROLES

PATH = "/logins"
CODE = click.argument("code", metavar="CODE")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
ROLE = click.option("--role", type=click.Choice(ROLES), help="The most that the key may do.")
# Of keys that this command was given.
OURS = "login-"
TOO_MANY = 429
_LOOPBACK = re.compile(r"localhost|127\.|::1\Z")
_NOT_OF_A_HOST = re.compile("[^A-Za-z0-9._-]+")
WARNING = (
    "Nobody has checked the name of the machine. Approve only what you have begun yourself, or what somebody whom you know just "
    "asked you for: whoever is at that address then acts with this key."
)


class _Login(click.Group):
    """`millrace login URL` is `millrace login start URL`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb before what names none."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Login)
def login() -> None:
    """Sign in: `millrace login [URL]` is `millrace login start [URL]`. The others allow the sign-in of another machine."""


@login.command("start")
@click.argument("url", metavar="[URL]", required=False)
@ROLE
@click.option("--lifetime", default="30d", show_default=True, help="How long the key counts.")
@click.option("--use", "use", is_flag=True, help="Use the profile from now on; so is the first one.")
@asks
def start(session: Session, url: str | None, *, role: str | None, lifetime: str, use: bool) -> None:
    """Get a key for this machine, and keep it in a profile: that of --profile, or one named as the server is.

    Shows an address and a code. A person who is signed in enters the code there; or an administrator runs
    `millrace login approve CODE` anywhere else. Ends with 1 where that is denied, or nobody does it in time.
    """
    seconds = seconds_of(lifetime, "--lifetime")
    profiles = Profiles(config_file(os.environ))
    read = profiles.read()
    place = None if url is not None else session.place
    url = address_of(url, "URL") if url is not None else session.place.url
    name = session.profile or (place.profile if place is not None else None) or urlsplit(url).netloc
    before = read.chosen(name) if name in read.profiles else None
    replaced = None if before is None else _replaced(name, before)
    if url.startswith("http:") and not _LOOPBACK.match(urlsplit(url).hostname or ""):
        show.aside(f"{url} is not encrypted: who is on the way can take the key", "warning")
    org = session.org or os.environ.get("MILLRACE_ORG") or (None if before is None else before.get("org"))
    given = _granted(Api(url, org=org), {"host": _host(), "role": role, "lifetime": seconds})
    try:
        is_used = use or read.used in {None, name}
        profiles.save(name, {"url": url, "key": given["key"], "org": given["org"]}, use=is_used)
    except BaseException:
        _end(Api(url, key=given["key"]))
        raise
    if replaced is not None:
        _end(replaced)
    shown = {"profile": name, "used": is_used, "url": url} | {field: value for field, value in given.items() if field != "key"}
    until = f"{given['expires_at'][:19]}Z"
    said = f"signed in to {given['org']} as {given['role']} until {until}, with the key {given['name']} in the profile {name}"
    show.answer(shown, show.plain(said), is_json=session.is_json)
    if not is_used:
        show.aside(f"the profile {read.used} is in use: `millrace profiles use {name}`, or --profile {name}")
    elif any(os.environ.get(one) for one in ("MILLRACE_URL", "MILLRACE_KEY", "MILLRACE_PROFILE")):
        show.aside("the environment names another key, which comes before it: `millrace whoami` shows which counts", "warning")


@login.command("show")
@CODE
@asks
def show_it(session: Session, code: str) -> None:
    """Show who asks for a key by a code, and what they would be given by you."""
    show.entity(session.api.get(PATH, code), is_json=session.is_json)


@login.command("approve")
@CODE
@ROLE
@YES
@asks
def approve(session: Session, code: str, *, role: str | None, yes: bool) -> None:
    """Give the machine that shows a code a key, after a look at what it is. Takes an administrator's key."""
    if not yes:
        show.entity(session.api.get(PATH, code), is_json=False)
        show.aside(WARNING, "warning")
        click.confirm("Approve?", abort=True, err=True)
    show.entity(session.api.call("POST", PATH, code, "approve", body={"role": role}), is_json=session.is_json)


@login.command("deny")
@CODE
@asks
def deny(session: Session, code: str) -> None:
    """Refuse the machine that shows a code a key."""
    show.entity(session.api.call("POST", PATH, code, "deny"), is_json=session.is_json)


@click.command()
@asks
def logout(session: Session) -> None:
    """End the key of a profile, that of --profile or the one in use, and remove the profile."""
    place = session.place
    if place.profile is None:
        raise click.UsageError(f"The key is that of {place.source}, and of no profile.")
    try:
        session.api.call("POST", "/logout")
    except Refused as error:
        # What counts no more needs no end.
        if error.status != UNAUTHENTICATED:
            raise
    Profiles(config_file(os.environ)).remove(place.profile)
    show.answer({"profile": place.profile}, show.plain(f"signed out of {place.url}"), is_json=session.is_json)


def _granted(api: Api, asked: Document) -> Document:
    """Ask for a key, tell the person what to do, and wait for it. Raises `Refused` where there will be none."""
    begun = api.call("POST", PATH, body=asked)
    told = (
        f"Open this address, until {begun['expires_in'] // 60} minutes from now, and enter the code there:\n"
        f"{begun['verification_uri']}\n{begun['user_code']}\n"
        f"Or have an administrator run: millrace login approve {begun['user_code']}"
    )
    for line in told.splitlines():
        show.aside(show.plain(line))
    # What the server says is opened as a page, and never as a file or a browser's option.
    if sys.stdout.isatty() and begun["verification_uri_complete"].startswith(("http://", "https://")):
        webbrowser.open(begun["verification_uri_complete"])
    ends, interval = time.monotonic() + begun["expires_in"], begun["interval"]
    while True:
        time.sleep(interval)
        try:
            given: Document = api.call("POST", PATH, "token", body={"device_code": begun["device_code"]})
        except Refused as error:
            if error.document.get("error") in {"authorization_pending", "slow_down"}:
                interval = error.document["interval"]
            elif (error.is_passing or error.status == TOO_MANY) and time.monotonic() < ends:
                interval = min(2 * interval, 60)
            else:
                raise
        except Unreachable:
            # A gateway that is started again knows the sign-in.
            if time.monotonic() >= ends:
                raise
        else:
            return given


def _replaced(name: str, before: dict[str, str]) -> Api | None:
    """Return the API with the key that a profile has now, which ends with that; None where it counts no more.

    `click.UsageError` for one that is none of this command's: it may be of use elsewhere.
    """
    api = Api(before["url"], key=before["key"])
    try:
        told = api.get("/me")
    except Refused as error:
        if error.status == UNAUTHENTICATED:
            return None
        raise
    if not str(told["name"]).startswith(OURS):
        instead = f"name another with --profile, or remove it: millrace profiles remove {name}"
        raise click.UsageError(f"The profile {name} has a key that no sign-in has made: {instead}.")
    return api


def _end(api: Api) -> None:
    """Have a key end, if that can be."""
    with contextlib.suppress(Refused, Unreachable):
        api.call("POST", "/logout")
    api.close()


def _host() -> str:
    return _NOT_OF_A_HOST.sub("-", socket.gethostname()).strip("-._")[:63] or "unknown"


COMMANDS: list[click.Command] = [login, logout]
