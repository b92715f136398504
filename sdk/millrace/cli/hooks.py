"""`hooks send`: a webhook as its sender would send it."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any
from urllib.parse import urlsplit

import click

from millrace.cli import show
from millrace.cli.api import Api, Refused
from millrace.cli.session import Session, asks
from millrace.cli.signing import Sending, event_header, new_delivery, request_of
from millrace.cli.values import content, secret

# RFC 9110, 5.6.2.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Headers that http.client works out from the body; another value would leave the other end waiting, or reading half.
_WORKED_OUT = {"content-length", "transfer-encoding"}


@click.group()
def hooks() -> None:
    """Webhooks, from the sender's side."""


@hooks.command()
@click.argument("file", metavar="FILE")
@click.option("--source", metavar="NAME", help="Where to; not needed where there is one source.")
@click.option("--sign", is_flag=True, help="Sign the body as the source's adapter demands.")
@click.option("--secret-file", metavar="FILE", help="The source's secret; else MILLRACE_HOOK_SECRET, else it is asked for.")
@click.option("--event", help="The event's type, for adapters that have it in a header.")
@click.option("--delivery", metavar="ID", help="The sender's id of this delivery; sent again, it is known.  [default: a new one]")
@click.option("-H", "--header", "extra", multiple=True, metavar="NAME:VALUE", help="Another header. Repeatable.")
@click.option("--public", is_flag=True, help="Send to the address that senders use, not to where the API is.")
@asks
def send(
    session: Session,
    file: str,
    *,
    source: str | None,
    sign: bool,
    secret_file: str | None,
    event: str | None,
    delivery: str | None,
    extra: tuple[str, ...],
    public: bool,
) -> None:
    """Send FILE (`-`: standard input) to a source, signed as its adapter demands. Prints the delivery's id."""
    body = content(file)
    there = _source(session, source)
    key = None
    if sign:
        known = os.environ.get("MILLRACE_HOOK_SECRET")
        key = known if known and secret_file is None else secret(secret_file, f"secret of {there['name']}")
    # Headers are the same in any case: one that is given takes the place of one that would be made.
    given = {name.lower(): value for name, value in map(header, extra)}
    named = event_header(there, session.api.get("/adapters")["items"])
    if event is not None and named is not None:
        given = {named.lower(): event} | given
    elif sign and named is not None and named.lower() not in given:
        raise click.UsageError(f"This sender names the event in the header {named}: say --event NAME.")
    sending = Sending(there["url"], body, delivery or new_delivery(), int(time.time()), tuple(given.items()))
    try:
        made = request_of(there, sending, key)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    headers = made.headers
    unsendable = [name for name, value in headers.items() if not (name + value).isascii() or not (name + value).isprintable()]
    if unsendable:
        raise click.UsageError(f"The header {unsendable[0]!r} holds a character that no header can.")
    url = urlsplit(made.url)
    door = Api(f"{url.scheme}://{url.netloc}") if public else Api(session.place.url)
    target = (url.path if public else f"/hooks/{there['id']}") + (f"?{url.query}" if url.query else "")
    try:
        status, _, answered = door.exchange("POST", target, body, headers)
    finally:
        door.close()
    answer = _read(answered)
    if status >= 300:
        raise Refused(status, answer if isinstance(answer, dict) else {"detail": f"{door.url} answered {status}"})
    if session.is_json:
        show.document(answer)
        return
    if not isinstance(answer, dict) or "id" not in answer:
        show.aside("it was taken; this sender is answered without the delivery's id, which `millrace deliveries list` shows")
        return
    show.said(answer["id"])
    if status == 200:
        show.aside("this delivery was there already: nothing new comes of it", "warning")


def _read(answered: bytes) -> Any:
    """Return the document of an answer; None where it is none: some senders are answered a text, or nothing."""
    try:
        return json.loads(answered)
    except (ValueError, RecursionError):
        return None


def _source(session: Session, name: str | None) -> dict[str, Any]:
    if name is not None:
        found: dict[str, Any] = session.api.get("/sources", name)
        return found
    items = session.api.pages("/sources")["items"]
    if len(items) != 1:
        known = ", ".join(item["name"] for item in items) or "none"
        raise click.UsageError(f"Say which source with --source NAME; there are: {known}.")
    only: dict[str, Any] = items[0]
    return only


def header(text: str) -> tuple[str, str]:
    """Return the name and the value of a header as an option has it. `click.UsageError` where it cannot be sent."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header takes NAME:VALUE, not {text!r}.")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is no name of a header: it is made of letters, digits and - without spaces.")
    if name.lower() in _WORKED_OUT:
        raise click.UsageError(f"The header {name} is worked out from the body: leave it out.")
    return name, value.strip()


COMMANDS: list[click.Command] = [hooks]
