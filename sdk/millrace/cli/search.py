"""`logs` and `audit`: the archive, searched and followed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from millrace.cli import show
from millrace.cli.api import Api, Refused, Unreachable
from millrace.cli.lines import fields_of
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.times import ago, understood

# Seconds. A row becomes visible a little after its time, and rows of two streams not in the order of their times: each look goes
# back so far behind the one before.
OVERLAP = 5.0
LOOKS_EVERY = 1.0
# Looks for which a row is remembered as printed.
REMEMBERED = 3


def _search(name: str, path: str, help_: str) -> click.Command:
    @click.command(name, help=help_)
    @click.argument("query", required=False, default="")
    @click.option("--since", metavar="TIME", help="`1h`, `now-1h`, RFC 3339 or epoch milliseconds; without it the last 24 hours.")
    @click.option("--until", metavar="TIME", help="Likewise.")
    @click.option("--order", type=click.Choice(["asc", "desc"]), default="desc", show_default=True, help="Oldest or newest first.")
    @LIMIT
    @click.option("-f", "--follow", is_flag=True, help="Print what comes, until Ctrl-C; with --since also what has come since.")
    @asks
    def search(session: Session, query: str, *, since: str | None, until: str | None, order: str, limit: int, follow: bool) -> None:
        since = understood(ago(since), "--since", "1h (ago)")
        until = understood(ago(until), "--until", "1h (ago)")
        if follow:
            if until is not None:
                raise click.UsageError("--follow has no end: leave --until out.")
            for item in Tail(session.api, path, query, since).items():
                _print(session, item)
            return
        asked = {"q": query, "from": since, "to": until, "order": order}
        page = session.api.pages(path, query=asked, limit=limit)
        if session.is_json:
            show.document(page)
            return
        for item in page["items"]:
            _print(session, item)
        if page["next_cursor"] is not None:
            show.aside(f"the first {len(page['items'])}; there are more: --limit N, 0 for all")

    return search


class Tail:
    """Follows the rows that match a query: asks the archive again and again, and yields each row once."""

    def __init__(self, api: Api, path: str, query: str, since: str | None) -> None:
        self._api = api
        self._path = path
        self._query = query
        self._since = since
        self._printed: dict[tuple[str, int, int | None], int] = {}
        self._looks = 0

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield rows, oldest first, for ever. Raises `Refused`, `Unreachable` only at the first look."""
        before = time.monotonic()
        for item in self._new(self._since or f"now-{OVERLAP:.0f}s"):
            # Without a beginning nothing is given that is there already.
            if self._since is not None:
                yield item
        complained = False
        while True:
            sys.stdout.flush()
            time.sleep(LOOKS_EVERY)
            now = time.monotonic()
            try:
                yield from self._new(f"now-{(OVERLAP + now - before) * 1000:.0f}ms")
                before = now
                complained = False
            except (Refused, Unreachable) as error:
                if isinstance(error, Refused) and not error.is_passing:
                    raise
                if not complained:
                    show.aside(f"millrace: {error}; trying again", "warning")
                    complained = True

    def _new(self, since: str) -> list[dict[str, Any]]:
        page = self._api.pages(self._path, query={"q": self._query, "from": since, "order": "asc"})
        self._looks += 1
        found = [item for item in page["items"] if _key(item) not in self._printed]
        self._printed |= {_key(item): self._looks for item in page["items"]}
        self._printed = {key: look for key, look in self._printed.items() if look > self._looks - REMEMBERED}
        return found


def _key(item: dict[str, Any]) -> tuple[str, int, int | None]:
    return item["stream"], item["seq"], item.get("line")


def _print(session: Session, item: dict[str, Any]) -> None:
    if session.is_json:
        show.line(item)
        return
    org = "" if item["org"] == "default" else f" [{item['org']}]"
    place = f"{item['time'][:23].replace('T', ' ')} {item['level']:7} {item['service']:8} {item['type']:20}"
    show.said(f"{show.plain(place)} {show.plain(item['message'])}{fields_of(item)}{show.plain(org)}", item["level"])


COMMANDS: list[click.Command] = [
    _search("logs", "/logs", "Search everything that was said: words and field:value, joined by AND, OR, NOT."),
]
# `millrace audit search`
AUDIT = _search("search", "/audit", "Search who did what to what, with what outcome.")
