"""`env`: the packages of the workspace; and how far their installation is, while a deployment waits for it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.api import Api, Refused, Unreachable
from millrace.cli.session import Session, asks

ENVIRONMENTS = "/workspace/environments"
# Seconds until a bar is shown, and between two looks.
QUIET, LOOKS = 0.7, 0.3
_WIDTH = 20


@click.group()
def env() -> None:
    """The packages that workflows import."""


@env.command("show")
@click.option("--lock", is_flag=True, help="Print the lock: the file of each package, with its hash.")
@asks
def show_environments(session: Session, *, lock: bool) -> int:
    """Show the environments of the workspace: packages, size, state, and why one could not be built.

    Exit code 1 where one could not.
    """
    page = session.api.get(ENVIRONMENTS, query={"locks": "true" if lock else "false"})
    if session.is_json:
        show.document(page)
    elif lock:
        for item in page["items"]:
            if item["lock"]:
                show.said(f"# {show.plain(item['name'])}: {item['id']}")
                click.echo(item["lock"])
    else:
        _print(page["items"])
    return codes.REFUSED if any(item["status"] == "failed" for item in page["items"]) else codes.DONE


@env.command("build")
@asks
def build_environments(session: Session) -> int:
    """Resolve the packages anew, to the newest versions that fit, and serve the workflows with them."""
    with progress(session):
        done = session.api.call("POST", f"{ENVIRONMENTS}/build")
        while done["building"]:
            installed(session.api)
            done = session.api.call("POST", f"{ENVIRONMENTS}/build")
    if session.is_json:
        show.document(done)
    else:
        _complain(done["problems"])
        _print(session.api.get(ENVIRONMENTS)["items"])
    return codes.REFUSED if any(one.get("severity", "error") == "error" for one in done["problems"]) else codes.DONE


def installed(api: Api) -> None:
    """Wait until no environment is being built. Raises `Refused`, `Unreachable`."""
    while any(item["status"] == "building" for item in api.get(ENVIRONMENTS)["items"]):
        time.sleep(LOOKS)


@contextlib.contextmanager
def progress(session: Session) -> Iterator[None]:
    """Show how far packages are installed, for the block, on standard error; nothing where documents are printed."""
    if session.is_json:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watched, args=(session, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1.0)


def _watched(session: Session, over: threading.Event) -> None:
    """Look for environments that are being built; over a connection of its own, since the other one waits for an answer."""
    if over.wait(QUIET):
        return
    place = session.place
    api = Api(place.url, key=place.key, org=session.org or place.org)
    is_terminal = sys.stderr.isatty()
    last = ""
    try:
        while not over.wait(LOOKS):
            with contextlib.suppress(Refused, Unreachable):
                items = [item for item in api.get(ENVIRONMENTS)["items"] if item["status"] == "building"]
                text = "; ".join(map(_bar if is_terminal else _step, items))
                if text != last:
                    click.echo(f"\r{text:<{len(last)}}" if is_terminal else text, err=True, nl=not is_terminal)
                last = text
    finally:
        if is_terminal and last:
            click.echo("\r" + " " * len(last) + "\r", err=True, nl=False)
        api.close()


def _bar(item: dict[str, Any]) -> str:
    done = _WIDTH * item["done"] // item["total"] if item["total"] else 0
    return f"{show.plain(item['path'])} [{'#' * done}{'.' * (_WIDTH - done)}] {_how_far(item)}{show.plain(item['step'])}"[:100]


def _step(item: dict[str, Any]) -> str:
    return f"{show.plain(item['path'])}: {_how_far(item)}{show.plain(item['step'])}"


def _how_far(item: dict[str, Any]) -> str:
    return f"{item['done']} of {item['total']} " if item["total"] else ""


def _print(items: list[dict[str, Any]]) -> None:
    columns = [
        show.field("name"),
        ("status", lambda item: item["status"] + (" (serves)" if item["serves"] else "")),
        ("packages", lambda item: ", ".join(f"{one['name']} {one['version']}" for one in item["packages"]) or item["step"]),
        ("size", lambda item: f"{item['bytes'] / 1e6:.1f} MB" if item["bytes"] else ""),
        ("id", lambda item: (item["id"] or "")[:12]),
    ]
    show.listing({"items": items, "next_cursor": None}, columns, is_json=False)
    for item in items:
        _complain(item["problems"])


def _complain(problems: list[dict[str, Any]]) -> None:
    for problem in problems:
        show.aside(show.plain(f"{problem['path']}:{problem['line']}: {' '.join(problem['message'].split())}"), "error")


COMMANDS: list[click.Command] = [env]
