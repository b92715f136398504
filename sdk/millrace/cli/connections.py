"""Connections beyond what every resource has: a person's authorization, another token, and the providers that are known."""

from __future__ import annotations

import sys
import time
import webbrowser
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.session import Session, asks

# Seconds between two looks whether the person has allowed it.
LOOKS = 1.0
# What is wrong comes first in a list.
_URGENCY = {
    status: rank
    for rank, status in enumerate(
        ("quarantined", "needs_reauthorization", "degraded", "pending", "refreshing", "healthy", "active"),
    )
}
NAME = click.argument("name", metavar="NAME")


@click.command("authorize")
@NAME
@click.option("--wait", type=click.IntRange(0), default=600, show_default=True, help="Seconds to wait for the person.")
@asks
def authorize(session: Session, name: str, wait: int) -> int:
    """Have a person allow a connection: open the provider's page, or show its address and code, and wait until they have."""
    begun = session.api.call("POST", "/connections", name, "authorize")
    if session.is_json and not wait:
        show.document(begun)
        return codes.DONE
    click.echo(f"Open this address, until {begun['expires_at']}:\n{begun['url']}", err=wait > 0)
    if begun["user_code"] is not None:
        click.echo(f"and enter the code there:\n{begun['user_code']}", err=wait > 0)
    if wait and sys.stdout.isatty():
        webbrowser.open(begun["url_with_code"] or begun["url"])
    ends = time.monotonic() + wait
    while time.monotonic() < ends:
        found: dict[str, Any] = session.api.get("/connections", name, "authorizations", begun["id"])
        if found["status"] == "authorized":
            show.entity(session.api.get("/connections", name), is_json=session.is_json)
            return codes.DONE
        if found["status"] == "failed":
            show.aside(show.plain(f"not authorized: {found['reason']}"), "error")
            return codes.REFUSED
        time.sleep(LOOKS)
    return codes.DONE if not wait else codes.REFUSED


@click.command("refresh")
@NAME
@asks
def refresh(session: Session, name: str) -> None:
    """Get another token for a connection now, and show how it is."""
    show.entity(session.api.call("POST", "/connections", name, "refresh"), is_json=session.is_json)


@click.command("test")
@NAME
@asks
def try_out(session: Session, name: str) -> int:
    """Ask the provider whether a connection works, where it has an address for that."""
    found = session.api.call("POST", "/connections", name, "test")
    show.entity(found, is_json=session.is_json)
    return codes.REFUSED if found["outcome"] == "broken" else codes.DONE


def urgency(row: dict[str, Any]) -> tuple[int, str, str]:
    """Return the sort key of a connection: broken ones first, then those whose token ends soonest."""
    return _URGENCY.get(row["status"], 0), row["expires_at"] or "~", row["name"]


@click.command("known")
@asks
def known(session: Session) -> None:
    """List the providers that need no addresses, with the parameters that they need and their own documents."""
    columns = [
        show.field("name"),
        show.field("title"),
        ("grants", lambda row: ", ".join(row["grants"])),
        ("parameters", lambda row: ", ".join(row["parameters"])),
        show.field("documents"),
    ]
    show.listing(session.api.get("/known-providers"), columns, is_json=session.is_json)
