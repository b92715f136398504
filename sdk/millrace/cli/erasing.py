"""`audit erase`: messages are erased for good."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.session import Session, asks
from millrace.cli.times import ago, understood


@click.command("erase")
@click.argument("query")
@click.option("--reason", required=True, help="Why; the audit trail keeps it: name no person in it.")
@click.option("--since", required=True, metavar="TIME", help="`30d`, RFC 3339 or epoch milliseconds.")
@click.option("--until", metavar="TIME", help="Likewise; else now.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@asks
def erase(session: Session, query: str, *, reason: str, since: str, until: str | None, yes: bool) -> int:
    """Erase the content of the messages that QUERY finds, for good: on the broker, in the archive and where it is repeated.

    QUERY is that of `millrace logs`; `--org '*'` means all organizations. What is still needed is kept, and named. It may be
    stopped and called again at any time.
    """
    asked = {
        "q": query,
        "from": understood(ago(since), "--since", "30d (ago)"),
        "to": understood(ago(until), "--until", "1h (ago)"),
    }
    if not yes:
        found = session.api.get("/logs/histogram", query=asked)
        click.confirm(f"{found['count']:,} messages and lines match. Erase them for good?", abort=True, err=True)
        # Nothing that has come since is among those.
        asked["to"] = found["until"]
    org = session.org or session.place.org or "default"
    erased, kept = 0, []
    cursor: str | None = None
    while True:
        part = session.api.call("POST", "/erasures", body=asked | {"org": org, "reason": reason, "cursor": cursor})
        erased += part["erased"]
        kept += part["kept"]
        if not session.is_json:
            for one in part["kept"]:
                show.said(show.plain(f"{one['stream']} {one['seq']} ({one['type']}) is kept: {one['reason']}"), "warning")
        if (cursor := part["next_cursor"]) is None:
            break
    told: dict[str, Any] = {"erased": erased, "kept": kept}
    show.answer(told, f"{show.counted(erased, 'message')} erased, {len(kept)} kept", is_json=session.is_json)
    return codes.REFUSED if kept else codes.DONE
