"""`git`: the workspace beside the organization's repository, and what brings them together."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.session import Session, asks

GIT = "/workspace/git"
PATHS = click.argument("paths", nargs=-1, metavar="[PATH]…")
MESSAGE = click.option("-m", "--message", help="The message of the commit.")
ACCEPT = click.option(
    "--accept-history", is_flag=True, help="Go on where the branch was rewritten, or is to be made beside others."
)  # fmt: skip


@click.group()
def git() -> None:
    """The workspace and its repository: `millrace repositories put NAME` says where that is."""


@git.command("status")
@asks
def show_status(session: Session) -> int:
    """Show what is to be pulled, pushed, and settled. Exit code 1 where there is a conflict."""
    found = session.api.get(f"{GIT}/status")
    if session.is_json:
        show.document(found)
    else:
        _print(found)
    return codes.REFUSED if found["conflicts"] else codes.DONE


@git.command("diff")
@click.argument("path", required=False)
@asks
def show_diff(session: Session, path: str | None) -> None:
    """Show the differences: of what is to be pulled, as the workspace changes; of what is to be pushed, as the repository does."""
    found = session.api.get(f"{GIT}/diff", query={"path": path})
    if session.is_json:
        show.document(found)
        return
    for title, items in (("to pull", found["to_pull"]), ("to push", found["to_push"])):
        for item in items:
            show.said(f"{title}: {show.plain(item['path'])}")
            show.said(show.plain(item["diff"] or "(not shown: ask for this path alone)").rstrip("\n"))
    _complain(found)


@git.command("pull")
@PATHS
@ACCEPT
@asks
def pull(session: Session, paths: tuple[str, ...], *, accept_history: bool) -> int:
    """Take what the repository has changed into the workspace. Exit code 1 where a conflict is left."""
    return _done(session, "/workspace/git/pull", {"paths": list(paths), "accept_history": accept_history})


@git.command("push")
@PATHS
@MESSAGE
@ACCEPT
@asks
def push(session: Session, paths: tuple[str, ...], message: str | None, *, accept_history: bool) -> int:
    """Push what the workspace has changed, as one commit. Exit code 1 where a conflict is left."""
    body = {"paths": list(paths), "message": message, "accept_history": accept_history}
    return _done(session, "/workspace/git/push", body)


@git.command("sync")
@MESSAGE
@ACCEPT
@asks
def sync(session: Session, message: str | None, *, accept_history: bool) -> int:
    """Pull, then push. Exit code 1 where a conflict is left."""
    return _done(session, "/workspace/sync", {"message": message, "accept_history": accept_history})


@git.command("conflicts")
@click.argument("path", required=False)
@asks
def show_conflicts(session: Session, path: str | None) -> int:
    """Show conflicts, each with both sides and what both had last. Exit code 1 where there is one."""
    found = session.api.get(f"{GIT}/conflicts", query={"path": path})
    if session.is_json:
        show.document(found)
    else:
        for item in found["items"]:
            show.said(f"{show.plain(item['path'])}: {item['reason']}", "warning")
            for title, side in (("base", item["base"]), ("ours", item["ours"]), ("theirs", item["theirs"])):
                show.said(f"--- {title}" + (" (no file)" if side is None else f" {side['sha256'][:12]}"))
                if side is not None and side["text"] is not None:
                    show.said(show.plain(side["text"]).rstrip("\n"))
        if not found["items"]:
            show.aside("none")
    return codes.REFUSED if found["items"] else codes.DONE


@git.command("resolve")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--ours", "take", flag_value="ours", help="Take the workspace's content.")
@click.option("--theirs", "take", flag_value="theirs", help="Take the repository's content.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take the content of this file.")
@ACCEPT
@asks
def resolve(session: Session, paths: tuple[str, ...], take: str | None, file: Path | None, *, accept_history: bool) -> int:
    """Settle conflicts; what then differs from the repository is to be pushed. Exit code 1 where another conflict is left."""
    if (take is None) == (file is None):
        raise click.UsageError("one of --ours, --theirs and --file says what is taken")
    content = None if file is None else base64.b64encode(file.read_bytes()).decode()
    how = {"take": take or "content", "content": content}
    body = {"resolutions": [{"path": path, **how} for path in paths], "accept_history": accept_history}
    return _done(session, f"{GIT}/resolve", body)


@git.command("discard")
@PATHS
@click.option("--all", "everything", is_flag=True, help="Every change that would be pushed.")
@asks
def discard(session: Session, paths: tuple[str, ...], *, everything: bool) -> int:
    """Give changes of the workspace up: files become what the repository has, and go where that has none."""
    return _done(session, f"{GIT}/discard", {"paths": list(paths), "all": everything})


def _done(session: Session, path: str, body: dict[str, Any]) -> int:
    done = session.api.call("POST", path, body=body)
    if session.is_json:
        show.document(done)
    else:
        for title in ("pulled", "pushed"):
            for one in done["to_pull" if title == "pulled" else "to_push"]:
                show.said(f"{title} {show.plain(one)}")
        if done["commit"] is not None:
            show.said(f"commit {done['commit']}")
        if not (done["to_pull"] or done["to_push"] or done["conflicts"]):
            show.said("nothing was to be done")
        for one in done["conflicts"]:
            show.aside(f"conflict: {show.plain(one)}; `millrace git conflicts` shows both sides", "error")
        for one in done["refused"]:
            show.aside(f"left alone: {show.plain(one['path'])}: {show.plain(one['reason'])}", "warning")
        for one in done["problems"]:
            show.aside(show.plain(f"{one['path']}:{one['line']}: {one['message']}"), one.get("severity", "error"))
    return codes.REFUSED if done["conflicts"] else codes.DONE


def _print(found: dict[str, Any]) -> None:
    tip = found["tip"]
    at = "no commit yet" if tip is None else f"{tip['commit'][:12]} {show.plain(tip['summary'])} ({show.plain(tip['author'])})"
    show.said(f"branch {show.plain(found['branch'])} at {at}")
    for title, items in (("pull", found["to_pull"]), ("push", found["to_push"])):
        for item in items:
            show.said(f"to {title}: {show.plain(item['path'])} ({item['change']})")
    if not (found["to_pull"] or found["to_push"] or found["conflicts"]):
        show.said("both sides are alike")
    _complain(found)


def _complain(found: dict[str, Any]) -> None:
    if found["rewritten"]:
        show.aside("the branch was rewritten: --accept-history goes on with what it has now", "warning")
    for item in found["conflicts"]:
        show.aside(f"conflict: {show.plain(item['path'])} ({item['reason']})", "error")
    for item in found["refused"]:
        show.aside(f"left alone: {show.plain(item['path'])}: {show.plain(item['reason'])}", "warning")
    if found["more"]:
        show.aside(f"and {found['more']} more")


COMMANDS: list[click.Command] = [git]
