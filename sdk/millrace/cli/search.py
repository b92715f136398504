"""`logs` and `audit`: the archive, searched, counted, exported and followed."""

from __future__ import annotations

import re
from typing import Any

import click

from millrace.cli import show
from millrace.cli.exporting import exported
from millrace.cli.lines import audited, fields_of
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.tail import followed
from millrace.cli.times import ago, understood

# Characters of the longest bar.
WIDTH = 50
# The beginning of an id where a whole one is meant.
_BEGUN = re.compile(r"(?<![\w.])(?:run|id|correlation_id|causation_id|key):[0-9a-f][0-9a-f-]{3,34}(?![\w*-])")


def _search(name: str, path: str, help_: str, *, narrowed: str = "") -> click.Command:
    @click.command(name, help=help_)
    @click.argument("query", required=False, default="")
    @click.option("--since", metavar="TIME", help="`1h`, `now-1h`, RFC 3339 or epoch milliseconds; without it the last 24 hours.")
    @click.option("--until", metavar="TIME", help="Likewise.")
    @click.option("--order", type=click.Choice(["asc", "desc"]), default="desc", show_default=True, help="Oldest or newest first.")
    @LIMIT
    @click.option("-f", "--follow", is_flag=True, help="Print what comes, until Ctrl-C; with --since also what has come since.")
    @click.option("--saved", metavar="NAME", help="What a saved search finds; with QUERY, what both find.")
    @click.option("--histogram", is_flag=True, help="Count by time instead.")
    @click.option("--facet", "facets", metavar="FIELD", multiple=True, help="Count the values of a field instead; several times.")
    @click.option(
        "--export", "file", metavar="FILE", help="Write all, oldest first, as lines of JSON: .ndjson, .ndjson.gz or .csv."
    )
    @asks
    def search(
        session: Session,
        query: str,
        *,
        since: str | None,
        until: str | None,
        order: str,
        limit: int,
        follow: bool,
        saved: str | None,
        histogram: bool,
        facets: tuple[str, ...],
        file: str | None,
    ) -> None:
        since = understood(ago(since), "--since", "1h (ago)")
        until = understood(ago(until), "--until", "1h (ago)")
        if sum((follow, histogram, bool(facets), file is not None)) > 1:
            raise click.UsageError("--follow, --histogram, --facet and --export are different things: use one.")
        asked = {"q": query, "saved": saved, "from": since, "to": until}
        within = asked | {"q": f"{narrowed} ({query})" if narrowed and query else narrowed or query}
        if follow:
            if until is not None:
                raise click.UsageError("--follow has no end: leave --until out.")
            for item in followed(session.api, within):
                _print(session, item)
        elif histogram:
            _histogram(session, session.api.get("/logs/histogram", query=within))
        elif facets:
            _facets(session, session.api.get("/logs/facets", query=within | {"fields": ",".join(facets)}))
        elif file is not None:
            exported(session.api, within, file)
        else:
            _page(session, query, session.api.pages(path, query=asked | {"order": order}, limit=limit))

    return search


def _page(session: Session, query: str, page: dict[str, Any]) -> None:
    if session.is_json:
        show.document(page)
        return
    for item in page["items"]:
        _print(session, item)
    if not page["items"] and (begun := [one[0] for one in _BEGUN.finditer(query)]):
        show.aside(f"nothing: an id is given whole, or with a `*` where only its beginning is: {begun[0]}*")
    if page["next_cursor"] is not None:
        show.aside(f"the first {len(page['items'])}; there are more: --limit N, 0 for all")


def _histogram(session: Session, found: dict[str, Any]) -> None:
    if session.is_json:
        show.document(found)
        return
    most = max((bar["count"] for bar in found["items"]), default=0)
    for bar in found["items"]:
        levels = " ".join(f"{level}={count}" for level, count in bar["levels"].items() if level != "info")
        drawn = "█" * (bar["count"] * WIDTH // most if most else 0)
        show.said(f"{bar['time'][:19].replace('T', ' ')} {bar['count']:>9,} {drawn} {show.plain(levels)}".rstrip())
    show.aside(f"{found['count']:,} in all, {found['step']:g} s each")


def _facets(session: Session, found: dict[str, Any]) -> None:
    if session.is_json:
        show.document(found)
        return
    for facet in found["items"]:
        show.said(show.plain(facet["field"]))
        for value in facet["values"]:
            show.said(f"  {value['count']:>9,} {show.plain(value['value'])}")
    show.aside(f"of {'' if found['complete'] else 'the newest '}{found['counted']:,}")


def _print(session: Session, item: dict[str, Any]) -> None:
    if session.is_json:
        show.line(item)
        return
    org = "" if item["org"] == "default" else f" [{item['org']}]"
    place = f"{item['time'][:23].replace('T', ' ')} {item['level']:7} {item['service']:8} {item['type']:20}"
    # As `workflow:` and `run:` of a query take them.
    of = "/".join(filter(None, (item.get("workflow"), item.get("run"))))
    said = f"{show.plain(item['message'])}{fields_of(item)}{audited(item)}{show.plain(org)}"
    show.said(f"{show.plain(place)} {f'{show.plain(of)} ' if of else ''}{said}", item["level"])


COMMANDS: list[click.Command] = [
    _search("logs", "/logs", "Search everything that was said: words and field:value, joined by AND, OR, NOT."),
]
# `millrace audit search`
AUDIT = _search("search", "/audit", "Search who did what to what, with what outcome.", narrowed="stream:AUDIT")
