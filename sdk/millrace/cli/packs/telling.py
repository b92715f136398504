"""Prints plans and checklists, for people and as documents."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from millrace.cli import show
from millrace.cli.packs.checklist import Check
from millrace.cli.packs.planning import FILES, Item, Plan
from millrace.cli.session import Session

_LEVELS = {"conflict": "error", "keep": "warning", "missing": "error", "todo": "warning"}


def _line(text: str) -> str:
    """Return what a pack says as one line: it does not look like several."""
    return show.plain(text).replace("\n", "\\n")


def document(found: Plan, checks: Iterable[Check] = (), **more: Any) -> dict[str, Any]:
    """Return a plan and a checklist for `--output json`."""
    items = [{name: value for name, value in asdict(one).items() if name not in {"base", "wanted"}} for one in found.items]
    before = None if found.record is None else {name: found.record[name] for name in ("release", "status", "origin")}
    told = {"name": found.name, "version": found.version, "before": before, "items": items, "faults": found.faults}
    return told | {"checklist": [asdict(one) for one in checks]} | more


def tell_plan(session: Session, found: Plan, *, lines: bool) -> None:
    """Print what a plan changes, keeps, and cannot do; with `lines` the lines of files that differ, and what is new, as a whole."""
    before = "not applied" if found.record is None else found.record["release"]
    if found.record is not None and found.record["status"] != "applied":
        before += f" ({found.record['status']}, not completed)"
    show.said(_line(f"{found.name}: {before} -> {found.version or 'removed'}"))
    told = [one for one in found.items if one.action != "none"]
    for one in told:
        _tell_item(one, new=lines)
        if lines and one.kind == FILES and one.name in found.local:
            _tell_lines(session, found, one.name)
    if not told and not found.faults:
        show.said("no difference")
    for path, reason in found.left_out.items():
        show.aside(_line(f"left out: {path} {reason}"), "warning")
    tell_faults(found)
    if found.conflicts:
        show.aside("--force takes the pack's side", "warning")


def tell_faults(found: Plan) -> None:
    """Print why a plan cannot be carried out."""
    for fault in found.faults:
        show.aside(_line(" ".join(fault.split())), "error")


def tell_checks(checks: Iterable[Check]) -> None:
    """Print a checklist, with what settles each item below it."""
    for one in checks:
        about = ", ".join(said for said in (one.description, one.reason) if said)
        mark = "[x]" if one.status == "ok" else "[ ]"
        said = f"{mark} {one.kind} {one.name}" + (f": {about}" if about else "")
        show.said(_line(said), _LEVELS.get(one.status, "info"))
        for command in one.do:
            show.said(_line(f"      {command}"))


def _tell_item(one: Item, *, new: bool) -> None:
    said = f"{one.action} {one.kind} {one.name}" + (f": {one.why}" if one.why else "")
    show.said(_line(said), _LEVELS.get(one.action, "info"))
    is_there = one.action != "create"
    for name, (now, then) in one.fields.items() if is_there or new else ():
        show.said(_line(f"  {name}: {f'{show.compact(now)} -> ' if is_there else ''}{show.compact(then)}"))
    if one.action == "change" and one.kind != FILES and not one.fields:
        show.said("  what is not shown: a secret, or what a name means")


def _tell_lines(session: Session, found: Plan, path: str) -> None:
    """Print every line that differs, of a new file each: whoever applies a pack has read what it runs."""
    is_there = path in found.remote
    try:
        here = session.api.read_file(path).decode().splitlines() if is_there else []
        there = found.local[path].read_bytes().decode().splitlines()
    except UnicodeDecodeError:
        show.said("  is no text")
        return
    for line in difflib.unified_diff(here, there, f"{path} (here)" if is_there else "nothing", f"{path} (pack)", lineterm=""):
        show.said(_line(f"  {line}"))
