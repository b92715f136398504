"""`deploy` and `watch`: a folder becomes an organization's workspace."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from millrace.cli import codes, show
from millrace.cli.api import Api, Refused, Unreachable
from millrace.cli.deployment import Deployed, Deployment, is_error
from millrace.cli.environments import progress
from millrace.cli.folder import files_of, stamps_of
from millrace.cli.lines import Follower, written
from millrace.cli.session import Session, asks

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
PRUNE = click.option("--prune", is_flag=True, help="Delete from the workspace what is no longer in the folder.")
# Seconds between two looks at the folder and at the runs, and how much of the time either may take: a large folder, a slow API
# and an organization of many runs are looked at less often, instead of all the time.
LOOKS_EVERY, FOLDER_SHARE = 0.05, 0.05
RUNS_EVERY, RUNS_SHARE = 0.2, 0.25
# Seconds until an unreachable server is asked again.
COMPLAINS_EVERY = 1.0
# Characters of a run's id: an id that begins with its time has the millisecond in them, and commands take the shown part.
SHOWN = 13
# Left-out entries that are named.
LEFT_OUT = 20
# Runs that began since the last look; more at once are not followed.
RUNS = 50


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@PRUNE
@asks
def deploy(session: Session, folder: Path, *, prune: bool) -> int:
    """Upload what has changed in a folder; say what is served and what is wrong.

    Hidden files, __pycache__, node_modules and virtual environments are left out; so are, which is told, links to outside of the
    folder and what cannot be read. Exit code 1 when the code has problems: what served before goes on serving. A warning, as of an
    import that nothing provides, is none.
    """
    with progress(session):
        done = Deployment(session.api, folder, prune=prune).bring(check=True)
    if session.is_json:
        show.document(done.document())
    else:
        report(done, folder)
        show_serving(session.api.pages("/workspace/files")["items"])
    return codes.REFUSED if done.errors else codes.DONE


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@PRUNE
@asks
def watch(session: Session, folder: Path, *, prune: bool) -> NoReturn:
    """Deploy a folder whenever a file in it is saved; show problems, and the lines of the runs that begin. Until Ctrl-C."""
    deployment = Deployment(session.api, folder, prune=prune)
    runs = _Runs(session)
    seen: Any = None
    left_out: dict[str, str] = {}
    look_at = 0.0
    complaint = ""
    while True:
        began = time.monotonic()
        found = files_of(folder)
        stamps = (stamps_of(found.files), found.left_out)
        pause = max(LOOKS_EVERY, (time.monotonic() - began) / FOLDER_SHARE)
        try:
            if stamps != seen:
                with progress(session):
                    done = deployment.bring(check=seen is None)
                if seen is None or not done.is_nothing or done.left_out != left_out:
                    done.kept = done.kept if seen is None else []
                    done.left_out, left_out = (done.left_out if done.left_out != left_out else {}), done.left_out
                    _report(session, done, folder)
                seen = stamps
            if (began := time.monotonic()) >= look_at:
                runs.look(began)
                look_at = time.monotonic() + max(RUNS_EVERY, (time.monotonic() - began) / RUNS_SHARE)
                complaint = ""
        except (Refused, Unreachable) as error:
            if seen is None:
                raise
            if str(error) != complaint:
                complaint = str(error)
                show.aside(f"millrace: {show.plain(complaint)}", "error")
            # A refused change is refused until it is changed; a server that was not reached is tried again.
            seen = stamps if isinstance(error, Refused) and not error.is_passing else {}
            look_at = time.monotonic() + COMPLAINS_EVERY
            pause = max(pause, COMPLAINS_EVERY)
        time.sleep(pause)


class _Runs:
    """Follows the runs that begin after the first look."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: set[str] | None = None
        self._following: dict[str, Follower] = {}

    def look(self, now: float) -> None:
        """Print the lines that are new."""
        api: Api = self._session.api
        newest = api.get("/runs", query={"limit": RUNS})["items"]
        ids = {run["id"] for run in newest}
        if self._known is not None:
            for run in reversed(newest):
                if run["id"] not in self._known:
                    self._following[run["id"]] = Follower(api, run["id"])
        self._known = ids | (self._known or set())
        for id_, follower in list(self._following.items()):
            try:
                items = follower.look(now)
            except Refused as error:
                if error.is_passing:
                    raise
                del self._following[id_]
                continue
            for item in items:
                self._print(
                    "line",
                    {"run": id_, **item},
                    f"  {show.plain(follower.run['workflow'])} {id_[:SHOWN]}  {written(item)}",
                    item["line"]["level"],
                )
            if follower.over:
                del self._following[id_]
                self._print(
                    "run", follower.run, f"  {ending(follower.run)}", "info" if follower.run["status"] == "succeeded" else "error"
                )

    def _print(self, kind: str, document: Any, text: str, level: str) -> None:
        if self._session.is_json:
            show.line({kind: document})
        else:
            show.said(text, level)
        sys.stdout.flush()


def ending(run: dict[str, Any]) -> str:
    """Return in one line how a run is."""
    why = f" ({run['reason']})" if run.get("reason") else ""
    if run.get("blocked_on"):
        why = show.plain(f" (blocked on {run['blocked_on']}{': ' if run.get('reason') else ''}{run.get('reason') or ''})")
    took = f" in {show.milliseconds(run['duration_ms'])}" if run.get("duration_ms") is not None else ""
    return f"run {run['id']} {show.plain(run['workflow'])} {run['status']}{why}{took}, attempt {run['attempt']}"


def show_serving(views: list[dict[str, Any]]) -> None:
    """Print which files define workflows and adapters."""
    columns: list[show.Column] = [("file", lambda view: view["path"]), ("workflows", lambda view: ", ".join(view["workflows"]))]
    if any(view["adapters"] for view in views):
        columns.append(("adapters", lambda view: ", ".join(view["adapters"])))
    serving = [view for view in views if view["workflows"] or view["adapters"]]
    show.listing({"items": serving, "next_cursor": None}, columns, is_json=False)


def report(done: Deployed, folder: Path) -> None:
    """Print the changes of a deployment, and its problems."""
    if done.is_nothing:
        show.said(f"nothing has changed in {show.counted(done.unchanged, 'file')}")
    for view in done.files:
        show.said(f"sent {show.plain(view['path'])}")
    for path in done.deleted:
        show.said(f"deleted {show.plain(path)}")
    if done.kept:
        are = "is" if len(done.kept) == 1 else "are"
        named = show.plain(", ".join(done.kept[:5])) + (", …" if len(done.kept) > 5 else "")
        show.aside(
            f"{show.counted(len(done.kept), 'deployed file')} {are} not in {folder}; --prune deletes what is not there: {named}",
            "warning",
        )
    for path, reason in list(done.left_out.items())[:LEFT_OUT]:
        show.aside(f"left out: {show.plain(f'{folder / path} {reason}')}", "warning")
    if len(done.left_out) > LEFT_OUT:
        show.aside(f"left out: {len(done.left_out) - LEFT_OUT} more", "warning")
    for problem in done.problems:
        # A file that was deployed before from elsewhere is not to be looked for in this folder.
        show_problem(problem, folder if problem["path"] in done.own else Path())


def _report(session: Session, done: Deployed, folder: Path) -> None:
    if session.is_json:
        show.line({"deployed": done.document()})
    else:
        report(done, folder)
        if not done.errors:
            names = sorted({name for view in done.files for name in (*view["workflows"], *view["adapters"])})
            show.said(f"deployed {folder}" + (f": {show.plain(', '.join(names))}" if names else ""))
    sys.stdout.flush()


def show_problem(problem: dict[str, Any], folder: Path) -> None:
    """Print a problem as editors and terminals understand it: path:line: message, or path:line: warning: message."""
    severity = "error" if is_error(problem) else "warning"
    message = " ".join([*(["warning:"] if severity == "warning" else []), *problem["message"].split()])
    show.aside(show.plain(f"{folder / problem['path']}:{problem['line']}: {message}"), severity)


COMMANDS: list[click.Command] = [deploy, watch]
