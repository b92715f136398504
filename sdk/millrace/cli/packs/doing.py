"""What `packs check`, `diff`, `apply` and `remove` do; apart from their options, since it loads what no other command needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import click

from millrace.cli import codes, show
from millrace.cli.applying import Outcome, printed
from millrace.cli.documents import Faulty
from millrace.cli.environments import progress
from millrace.cli.packs.bringing import Stopped, bring, faults_of, take_away
from millrace.cli.packs.checklist import Check, checklist
from millrace.cli.packs.fetching import fetched
from millrace.cli.packs.manifest import Manifest, manifest_of
from millrace.cli.packs.planning import Plan, others, plan_of, removal_of
from millrace.cli.packs.telling import document, tell_checks, tell_faults, tell_plan
from millrace.cli.session import Session
from millrace.cli.values import secret


@dataclass(frozen=True)
class Source:
    """Which pack is meant: a folder or an address, with the values that it is given, as NAME or NAME=FILE."""

    source: str
    ref: str | None
    folder: str | None
    given: Sequence[str]


def check(session: Session, of: Source) -> int:
    """Print the checklist of a pack."""
    with _pack(of) as (pack, values):
        found, checks = _looked_at(session, pack, values, force=False)
        if session.is_json:
            show.document(document(found, checks))
        else:
            tell_checks(checks)
            tell_faults(found)
        return codes.REFUSED if found.faults or _lacking(checks) else codes.DONE


def diff(session: Session, of: Source, *, force: bool) -> int:
    """Print what applying a pack would change."""
    with _pack(of) as (pack, values):
        found, checks = _looked_at(session, pack, values, force=force)
        if session.is_json:
            show.document(document(found, checks))
        else:
            tell_plan(session, found, lines=True)
        return codes.REFUSED if found.faults or found.conflicts else codes.DONE


def apply(session: Session, of: Source, *, dry_run: bool, force: bool, incomplete: bool) -> int:
    """Bring a pack, if nothing stands in the way."""
    with _pack(of) as (pack, values):
        found, checks = _looked_at(session, pack, values, force=force)
        # Without its values a resource cannot be made at all.
        lacking = [one for one in _lacking(checks) if not incomplete or one.kind == "value"]
        refused = bool(lacking or found.faults or found.conflicts)
        if refused or dry_run:
            return _not_done(session, found, checks, lacking, refused=refused, dry_run=dry_run)
        with progress(session):
            done, stopped = _carried_out(session, bring(session, pack, found))
        if stopped is None:
            # The address of a source is known only now.
            _, checks = _looked_at(session, pack, values, force=False)
        return _ended(session, found, done, stopped, checks)


def remove(session: Session, name: str, *, dry_run: bool, force: bool) -> int:
    """Remove a pack, if nothing stands in the way."""
    found = removal_of(session, name, force=force)
    if found.conflicts or dry_run:
        return _not_done(session, found, [], [], refused=bool(found.conflicts), dry_run=dry_run)
    done, stopped = _carried_out(session, take_away(session, found))
    for path in others(found):
        show.aside(show.plain(f"{path} is no file of the pack, and stays"), "warning")
    return _ended(session, found, done, stopped, [])


def _looked_at(session: Session, pack: Manifest, values: dict[str, str], *, force: bool) -> tuple[Plan, list[Check]]:
    with progress(session):
        found = plan_of(session, pack, values, force=force)
        found.faults += faults_of(session, pack, found)
    return found, checklist(session, pack, found, values)


def _not_done(session: Session, found: Plan, checks: list[Check], lacking: list[Check], *, refused: bool, dry_run: bool) -> int:
    """Say what would be done, and why it is not."""
    if session.is_json:
        show.document(document(found, checks, outcomes=[]))
    else:
        tell_plan(session, found, lines=False)
        tell_checks(lacking)
    if refused and not dry_run:
        show.aside("nothing was changed", "error")
    return codes.REFUSED if refused else codes.DONE


def _carried_out(session: Session, outcomes: Iterable[Outcome]) -> tuple[list[Outcome], str | None]:
    """Print outcomes as they come; return them, and why it went no further, if it did not."""
    done: list[Outcome] = []

    def kept() -> Iterator[Outcome]:
        for one in outcomes:
            done.append(one)
            yield one

    try:
        printed(session, kept())
    except Stopped as stopped:
        return done, str(stopped)
    return done, None


def _ended(session: Session, found: Plan, done: list[Outcome], stopped: str | None, checks: list[Check]) -> int:
    if session.is_json:
        show.document(document(found, checks, outcomes=[asdict(one) for one in done]))
    elif stopped is None:
        for one in found.items:
            if one.action == "keep":
                show.aside(show.plain(f"kept {one.kind} {one.name}: {one.why}"), "warning")
        if not done:
            show.said("nothing to do")
        tell_checks(one for one in checks if one.status != "ok")
    if stopped is not None:
        show.aside(show.plain(f"not completed: {stopped}. The same command goes on from here"), "error")
    return codes.DONE if stopped is None else codes.REFUSED


@contextmanager
def _pack(of: Source) -> Iterator[tuple[Manifest, dict[str, str]]]:
    """Give the block a pack with the values that it is given; a mistake in it is one of who has named it."""
    with fetched(of.source, ref=of.ref, folder=of.folder) as (place, origin):
        try:
            pack = manifest_of(place, origin)
        except Faulty as fault:
            raise click.UsageError(str(fault)) from fault
        values: dict[str, str] = {}
        for one in of.given:
            name, equals, file = one.partition("=")
            if name not in pack.needs["values"]:
                there = ", ".join(pack.needs["values"]) or "none"
                raise click.UsageError(f"--value {name}: there is no such value; those of the pack: {there}.")
            values[name] = secret(file if equals else None, name)
        yield pack, values


def _lacking(checks: Iterable[Check]) -> list[Check]:
    return [one for one in checks if one.status == "missing"]
