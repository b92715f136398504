"""`files`: what is in the workspace, what was in it, and what was done to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.deployment import is_error
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.workspace import show_problem

FILES = "/workspace/files"
MESSAGE = click.option("-m", "--message", metavar="TEXT", help="What the change is for; its history shows it.")


@click.group()
def files() -> None:
    """The files of the workspace."""


@files.command("list")
@click.option("--prefix", default="", help="Only paths that begin so.")
@LIMIT
@asks
def list_files(session: Session, prefix: str, limit: int) -> None:
    """List files with what they define."""
    page = session.api.pages(FILES, query={"prefix": prefix}, limit=limit)
    columns = [
        show.field("path"),
        show.field("size"),
        ("sha256", lambda view: view["sha256"][:12]),
        show.moment("updated_at"),
        ("workflows", lambda view: ", ".join(view["workflows"])),
    ]
    show.listing(page, columns, is_json=session.is_json)


@files.command("put")
@click.argument("path")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@MESSAGE
@asks
def put_file(session: Session, path: str, file: Path, message: str | None) -> int:
    """Store FILE as PATH of the workspace."""
    with file.open("rb") as opened:
        view = session.api.put_file(path, opened, file.stat().st_size, {}, query={"message": message})
    show.entity(view, is_json=session.is_json)
    return codes.REFUSED if any(map(is_error, view["problems"])) else codes.DONE


@files.command("get")
@click.argument("path")
@click.option("--version", help="The content of this version, as `history` names it.")
@asks
def get_file(session: Session, path: str, version: str | None) -> None:
    """Print a file as it is, or as it was."""
    for part in session.api.parts(FILES, *path.split("/"), query={"version": version}):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


@files.command("delete")
@click.argument("path")
@MESSAGE
@asks
def delete_file(session: Session, path: str, message: str | None) -> int:
    """Delete a file, and the workflows that it alone defined."""
    view = session.api.call("DELETE", FILES, *path.split("/"), query={"message": message})
    if session.is_json:
        show.document(view)
    return _complained(view["problems"])


@files.command("move")
@click.argument("path")
@click.argument("to")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@MESSAGE
@asks
def move_files(session: Session, path: str, to: str, *, overwrite: bool, message: str | None) -> int:
    """Give a file another path, or a folder: then both end with a slash. One commit; no content is copied."""
    body = {"from": path, "to": to, "overwrite": overwrite, "message": message}
    return _committed(session, session.api.call("POST", "/workspace/moves", body=body))


@files.command("history")
@click.argument("path", required=False)
@click.option("--commit", help="The versions that this commit made.")
@LIMIT
@asks
def history(session: Session, path: str | None, commit: str | None, limit: int) -> None:
    """List the versions of a file, or the commits of the workspace; the newest first."""
    message = ("message", lambda view: view["message"] or "")
    if path is None and commit is None:
        page = session.api.pages("/workspace/commits", limit=limit)
        columns = [show.moment("at"), show.field("actor"), show.field("changes"), ("files", _paths), message, show.field("id")]
    else:
        page = session.api.pages("/workspace/history", query={"path": path, "commit": commit}, limit=limit)
        columns = [show.moment("at"), show.field("actor"), ("size", _size), message, show.field("version")]
        if path is None:
            columns.insert(2, show.field("path"))
    show.listing(page, columns, is_json=session.is_json)


@files.command("restore")
@click.argument("path", required=False)
@click.option("--version", help="The version of PATH that is to be there again, as `history` names it.")
@click.option("--at", metavar="TIME", help="All files as they were at this time (RFC 3339), and no others.")
@click.option("--prefix", help="With --at: only files whose paths begin so.")
@MESSAGE
@asks
def restore(session: Session, **given: str | None) -> int:
    """Bring back a version of a file, or all files as they were at a time, as a new commit."""
    body = {name: value for name, value in given.items() if value is not None}
    return _committed(session, session.api.call("POST", "/workspace/restores", body=body))


def _committed(session: Session, done: dict[str, Any]) -> int:
    if session.is_json:
        show.document(done)
    else:
        for path, view in done["files"].items():
            show.said(f"{'deleted' if view is None else 'stored'} {show.plain(path)}")
        if not done["files"]:
            show.said("nothing differs")
    return _complained(done["problems"])


def _complained(problems: list[dict[str, Any]]) -> int:
    for problem in problems:
        show_problem(problem, Path())
    return codes.REFUSED if any(map(is_error, problems)) else codes.DONE


def _paths(view: dict[str, Any]) -> str:
    more = view["changes"] - len(view["paths"])
    return ", ".join(view["paths"]) + (f" and {more} more" if more else "")


def _size(view: dict[str, Any]) -> str:
    return "deleted" if view["sha256"] is None else str(view["size"])


COMMANDS: list[click.Command] = [files]
